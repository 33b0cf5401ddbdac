package shard

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
)

// Pinned is this replica's state at one instant, kept readable for long without
// holding memory (mvcc.Pin). It ends with the replica: its snapshots then answer
// mvcc.ErrClosed.
type Pinned struct {
	*mvcc.Pin
	desc *kvdpb.Descriptor
	span keyspace.Span
}

// Pin is Copy for long reads: it waits until raft index applied is applied, and
// fails with ErrStaleCopy if the generation is not the given one (zero: any), or
// if what revision rev needs has been compacted.
func (r *Replica) Pin(ctx context.Context, generation, applied uint64, rev int64) (*Pinned, error) {
	if r.store.Load() == nil {
		return nil, ErrClosed
	}
	if err := r.waitApplied(ctx, applied); err != nil {
		return nil, fmt.Errorf("shard %d: wait for index %d: %w", r.cfg.Shard, applied, err)
	}
	for range maxCopyAttempts {
		p, err := r.pinNow(ctx)
		if err != nil {
			return nil, err
		}
		if p == nil {
			continue
		}
		switch {
		case generation != 0 && generation != p.Generation():
			err = fmt.Errorf("%w: generation %d, not %d", ErrStaleCopy, p.Generation(), generation)
		case rev > 0 && rev < p.CompactRevision():
			err = fmt.Errorf("%w: compacted at %d", ErrStaleCopy, p.CompactRevision())
		}
		if err != nil {
			p.Close()
			return nil, err
		}
		return p, nil
	}
	return nil, ErrStaleCopy
}

// pinNow pins the store and finds the descriptor that the pin belongs to; nil if
// that changed meanwhile.
func (r *Replica) pinNow(ctx context.Context) (p *Pinned, err error) {
	pin, err := r.store.Load().NewPin()
	if err != nil {
		return nil, fmt.Errorf("shard %d: pin: %w", r.cfg.Shard, err)
	}
	defer func() {
		if p == nil {
			pin.Close()
		}
	}()
	// What the pin contains may have been committed and not yet published.
	if err := r.waitApplied(ctx, pin.AppliedIndex()); err != nil {
		return nil, err
	}
	v := r.view.Load()
	if v.index > pin.AppliedIndex() {
		return nil, nil
	}
	if v.desc == nil {
		return nil, ErrStaleCopy
	}
	return &Pinned{Pin: pin, desc: v.desc, span: v.span}, nil
}

// Span returns the keys that the shard holds in the pin.
func (p *Pinned) Span() keyspace.Span { return p.span }

// Generation returns that of the pin's descriptor.
func (p *Pinned) Generation() uint64 { return p.desc.GetGeneration() }

// Leases calls fn with the records of the leases that the shard holds in the pin,
// in the order of their keys.
func (p *Pinned) Leases(fn func(*kvdpb.LeaseRecord) error) error {
	sn := p.NewSnapshot()
	defer sn.Close()
	return scanLeases(sn, p.span, func(_, b []byte) error {
		record := &kvdpb.LeaseRecord{}
		if err := proto.Unmarshal(b, record); err != nil {
			return fmt.Errorf("decode lease: %w", err)
		}
		return fn(record)
	})
}
