package integrity

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"go.uber.org/zap"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard"
)

// comparison is the hashes of a shard's replicas at one revision, by member.
type comparison struct {
	shard    uint64
	revision int64
	own      uint64
	// replicas is how many the shard has, looked at or not.
	replicas int
	// ids are their ids, by member.
	ids    map[uint64]uint64
	hashes hashes
	// leases are those of lease records, as far as they can be compared.
	leases hashes
}

// hashes are of one kind, by member.
type hashes map[uint64]uint64

func hex(member uint64) string { return fmt.Sprintf("%016x", member) }

// show lists the hashes for the log.
func (c *comparison) show() map[string]string {
	out := make(map[string]string, len(c.hashes))
	for member, hash := range c.hashes {
		out[hex(member)] = fmt.Sprintf("%08x", hash)
		if leases, ok := c.leases[member]; ok {
			out[hex(member)] += fmt.Sprintf(" leases %016x", leases)
		}
	}
	return out
}

// wrong is the set of members whose hash of one kind is not the one of more than
// half of all replicas, or, where no hash has so many, not the one of this member.
func (c *comparison) wrong() map[uint64]bool {
	wrong := make(map[uint64]bool)
	for _, kind := range []hashes{c.hashes, c.leases} {
		counts := make(map[uint64]int)
		right := kind[c.own]
		for _, h := range kind {
			counts[h]++
		}
		for h, n := range counts {
			if n > c.replicas/2 {
				right = h
			}
		}
		for member, h := range kind {
			if h != right {
				wrong[member] = true
			}
		}
	}
	return wrong
}

// compare hashes this member's copy of a shard and those of the others that can be
// looked at. It is nil if there is nothing to compare.
func (c *Checker) compare(ctx context.Context, id uint64) *comparison {
	d := c.cfg.Descriptor(id)
	if d == nil {
		return nil
	}
	own, call, err := c.hashOwn(ctx, id)
	if err != nil {
		c.log.Debug("a shard's own copy cannot be looked at now", zap.Uint64("shard", id), zap.Error(err))
		return nil
	}
	found := &comparison{shard: id, revision: call.Revision, own: c.cfg.Member,
		ids:    make(map[uint64]uint64, len(d.Replicas)),
		hashes: hashes{c.cfg.Member: uint64(own.Hash)}, leases: hashes{c.cfg.Member: own.LeaseHash}}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, r := range d.Replicas {
		found.replicas++
		found.ids[r.Member] = r.Replica
		member := r.Member
		if member == c.cfg.Member || r.Joining {
			continue
		}
		wg.Go(func() {
			other, err := c.ask(ctx, member, call)
			if err != nil || other.CompactRevision != own.CompactRevision {
				c.log.Debug("a replica could not be compared", zap.Uint64("shard", id), zap.String("member-id", hex(member)), zap.Error(err))
				return
			}
			mu.Lock()
			defer mu.Unlock()
			found.hashes[member] = uint64(other.Hash)
			if other.LeaseState == own.LeaseState {
				found.leases[member] = other.LeaseHash
			}
		})
	}
	wg.Wait()
	if len(found.hashes) < 2 {
		return nil
	}
	c.compared.Add(1)
	return found
}

// hashOwn hashes this member's copy as it is now, and says how to ask others for the
// same.
func (c *Checker) hashOwn(ctx context.Context, id uint64) (*kvdpb.HashAnswer, *kvdpb.HashCall, error) {
	r, ok := c.cfg.Replicas.Replica(id)
	if !ok {
		return nil, nil, errNoReplica
	}
	view, err := r.Copy(ctx, 0, 0, 0)
	if err != nil {
		return nil, nil, err
	}
	defer view.Close()
	call := &kvdpb.HashCall{Shard: id, Generation: view.Generation(), Applied: view.Applied(), Revision: view.Revision()}
	answer, err := hashOf(ctx, view, call.Revision)
	return answer, call, err
}

func (c *Checker) ask(ctx context.Context, member uint64, call *kvdpb.HashCall) (*kvdpb.HashAnswer, error) {
	conn, err := c.cfg.Conn(member)
	if err != nil {
		return nil, err
	}
	return kvdpb.NewIntegrityClient(conn).Hash(ctx, call)
}

var errNoReplica = errors.New("this member has no replica of the shard")

func hashOf(ctx context.Context, view *shard.Copy, revision int64) (*kvdpb.HashAnswer, error) {
	hash, err := view.Hash(ctx, view.Span(), revision)
	if err != nil {
		return nil, fmt.Errorf("hash copy: %w", err)
	}
	state, leases, err := view.Leases()
	if err != nil {
		return nil, err
	}
	return &kvdpb.HashAnswer{Hash: hash, CompactRevision: view.CompactRevision(), LeaseState: state, LeaseHash: leases}, nil
}
