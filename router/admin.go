package router

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/placement"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// ShardInfo is a shard of the range map and what its owner says of it.
type ShardInfo struct {
	Descriptor *kvdpb.Descriptor
	// Status is nil if nobody could be asked.
	Status *kvdpb.ReplicaStatus
	// Operation is what is under way with the shard; empty for nothing.
	Operation placement.Operation
	// Child is what is being split off; nil for nothing.
	Child *kvdpb.Descriptor
	// Joining is the status of a replica that is being fed; nil if there is none, or
	// it could not be asked.
	Joining *kvdpb.ReplicaStatus
}

// Shards lists all shards in key order, with the version of the map that they
// come from. The owners are asked, else other replicas; ctx bounds the wait.
func (r *Router) Shards(ctx context.Context) (infos []ShardInfo, version uint64, err error) {
	m := r.cfg.Placement.Map()
	live := m.Live()
	if len(live) == 0 {
		return nil, 0, clientError(errNoRoute)
	}
	return r.describe(ctx, live), m.Version(), nil
}

// Shard describes one shard; NotFound if it is not in the range map.
func (r *Router) Shard(ctx context.Context, id uint64) (ShardInfo, error) {
	d := r.cfg.Placement.Map().ByID(id)
	if d == nil || d.Phase != kvdpb.Descriptor_LIVE {
		return ShardInfo{}, status.Errorf(codes.NotFound, "kvd: no shard %d", id)
	}
	return r.describe(ctx, []*kvdpb.Descriptor{d})[0], nil
}

// question is what one member is asked of: its replicas of shards.
type question struct {
	shards []uint64
	// answers is where each answer goes.
	answers map[uint64]**kvdpb.ReplicaStatus
}

func (r *Router) describe(ctx context.Context, ds []*kvdpb.Descriptor) []ShardInfo {
	infos := make([]ShardInfo, len(ds))
	questions := map[uint64]*question{}
	ask := func(member, shard uint64, answer **kvdpb.ReplicaStatus) {
		q := questions[member]
		if q == nil {
			q = &question{answers: map[uint64]**kvdpb.ReplicaStatus{}}
			questions[member] = q
		}
		q.shards = append(q.shards, shard)
		q.answers[shard] = answer
	}
	placed := r.cfg.Placement.Map()
	for i, d := range ds {
		infos[i].Descriptor, infos[i].Operation, infos[i].Child = d, placement.Doing(placed, d), placed.SplitChild(d.Shard)
		rep, here := r.cfg.Replicas.Replica(d.Shard)
		if here {
			infos[i].Status = rep.Status()
		}
		owner := r.cfg.Member
		if local, member, err := r.target(d, 0); err == nil && local == nil {
			owner = member
			ask(member, d.Shard, &infos[i].Status)
		}
		for _, replica := range d.Replicas {
			switch {
			case !replica.Joining || replica.Member == owner:
			case replica.Member == r.cfg.Member && here:
				infos[i].Joining = rep.Status()
			default:
				ask(replica.Member, d.Shard, &infos[i].Joining)
			}
		}
	}
	var wg sync.WaitGroup
	for member, q := range questions {
		wg.Go(func() { r.put(ctx, member, q) })
	}
	wg.Wait()
	return infos
}

// put puts a question to a member. Each answer has a place of its own.
func (r *Router) put(ctx context.Context, member uint64, q *question) {
	conn, err := r.cfg.Mesh.Conn(member)
	if err != nil {
		return
	}
	for part := range slices.Chunk(q.shards, maxResolve) {
		resp, err := kvdpb.NewShardsClient(conn).Describe(ctx, &kvdpb.DescribeRequest{Shards: part})
		if err != nil {
			return
		}
		for _, s := range resp.Replicas {
			if to := q.answers[s.Shard]; to != nil {
				*to = s
			}
		}
	}
}

// Split cuts the shard that holds the user key in two, so that the right half
// begins with it, and returns when both halves serve.
func (r *Router) Split(ctx context.Context, key []byte) (left, right *kvdpb.Descriptor, err error) {
	left, right, err = r.split(ctx, keyspace.User(key))
	return left, right, clientError(err)
}

func (r *Router) split(ctx context.Context, key []byte) (left, right *kvdpb.Descriptor, err error) {
	f := r.takeFlight()
	defer r.putFlight(f)
	for attempt := 0; ; attempt++ {
		d := r.routes.lookup(key)
		switch {
		case d == nil:
			err = errNoRoute
		case bytes.Equal(d.Start, key):
			return nil, nil, status.Errorf(codes.FailedPrecondition, "kvd: shard %d begins at %s already", d.Shard, keyspace.Format(key))
		default:
			left, right, err = r.trySplit(ctx, d, key, attempt)
		}
		switch {
		case err == nil:
			return left, right, nil
		case status.Code(err) == codes.Aborted:
		case judge(err) == final || judge(err) == unknown:
			return nil, nil, err
		default:
			r.learnFrom(err)
		}
		if err := r.pause(ctx, f, d, attempt, err); err != nil {
			return nil, nil, err
		}
	}
}

func (r *Router) trySplit(ctx context.Context, d *kvdpb.Descriptor, key []byte, attempt int) (left, right *kvdpb.Descriptor, err error) {
	local, member, err := r.target(d, attempt)
	if err != nil {
		return nil, nil, err
	}
	if local != nil {
		return r.cfg.Replicas.Split(ctx, key)
	}
	conn, err := r.cfg.Mesh.Conn(member)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errNoRoute, err)
	}
	resp, err := kvdpb.NewShardsClient(conn).Split(ctx, &kvdpb.SplitRequest{Key: key})
	if err != nil {
		return nil, nil, err
	}
	if resp.Left == nil || resp.Right == nil {
		return nil, nil, errors.New("member answered a split without its halves")
	}
	return resp.Left, resp.Right, nil
}
