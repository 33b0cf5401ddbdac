package shard

import (
	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard/ownership"
)

// view is the replicated state as of the last commit, for everybody but the
// apply goroutine. It changes only with commands other than writes, so its
// sequence and revision are not kept up.
type view struct {
	// index is the raft index of the command that made it so.
	index       uint64
	ownership   ownership.State
	desc        *kvdpb.Descriptor
	span        keyspace.Span
	pending     *kvdpb.Descriptor
	initialized bool
	frozen      *kvdpb.ShardFrozen
	absorbing   *kvdpb.ShardAbsorbing
	mergeFloor  uint64
}

func (s *state) view(index uint64) *view {
	return &view{
		index:       index,
		ownership:   s.ownership,
		desc:        s.desc,
		span:        s.span,
		pending:     s.pending,
		initialized: s.initialized,
		frozen:      s.frozen,
		absorbing:   s.absorbing,
		mergeFloor:  s.mergeFloor,
	}
}

// state is what a check of a command needs that does not ask for the sequence, the
// last revision or transactions, of an initialized shard.
func (v *view) state() state {
	return state{
		ownership: v.ownership, desc: v.desc, span: v.span, pending: v.pending, initialized: true,
		frozen: v.frozen, absorbing: v.absorbing, mergeFloor: v.mergeFloor,
	}
}

// generation of the shard's descriptor; 0 before there is one.
func (v *view) generation() uint64 { return v.desc.GetGeneration() }

// moving tells whether a span outside the shard's own is on its way to a child
// whose split applied but is not done.
func (v *view) moving(s keyspace.Span) bool {
	if v.pending == nil {
		return false
	}
	return keyspace.Span{Start: v.span.Start, End: v.pending.GetEnd()}.ContainsSpan(s)
}
