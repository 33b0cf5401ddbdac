package shard

import (
	"context"
	"fmt"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
)

// leftShard and rightShard are neighbours.
func leftShard() *kvdpb.Descriptor {
	return &kvdpb.Descriptor{Shard: fakeShard, Start: keyspace.Min(), End: keyspace.User([]byte("m")), Generation: 1}
}

func rightShard() *kvdpb.Descriptor {
	return &kvdpb.Descriptor{Shard: fakeShard + 1, Start: keyspace.User([]byte("m")), End: keyspace.Max(), Generation: 1}
}

// The commands of stories about merges. Each is a step of the attempt that it names,
// on the node that it names, and is waited for unless it has a name.
func init() {
	step := func(f func(ctx context.Context, s *story, left, right *Replica, attempt uint64) error) func(*story) string {
		return func(s *story) string {
			attempt, n := uint64(1), 1
			s.scan("attempt", &attempt)
			s.scan("node", &n)
			left, right := s.g.nodes[n-1].replica, s.right.g.nodes[n-1].replica
			run := func(ctx context.Context) string {
				if err := f(ctx, s, left, right, attempt); err != nil {
					return "error: " + err.Error() + "\n"
				}
				return "done\n"
			}
			s.seq.set(func() { s.seq.mu.probes = 0 })
			if !s.d.HasArg("name") {
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				defer cancel()
				return run(ctx)
			}
			r, ctx := s.begin()
			go func() { r.done <- run(ctx) }()
			return ""
		}
	}
	for name, f := range map[string]func(context.Context, *story, *Replica, *Replica, uint64) error{
		"absorb-begin": func(ctx context.Context, _ *story, left, _ *Replica, attempt uint64) error {
			return left.AbsorbBegin(ctx, attempt, 2, rightShard())
		},
		"freeze": func(ctx context.Context, _ *story, _, right *Replica, attempt uint64) error {
			return right.Freeze(ctx, attempt, fakeShard, rightShard())
		},
		"copy": func(ctx context.Context, s *story, left, right *Replica, attempt uint64) error {
			limit := int64(1 << 20)
			s.scan("limit", &limit)
			return left.CopyFrom(ctx, right, attempt, limit)
		},
		"surrender": func(ctx context.Context, _ *story, _, right *Replica, attempt uint64) error {
			return right.Surrender(ctx, attempt)
		},
		"absorb": func(ctx context.Context, _ *story, left, right *Replica, attempt uint64) error {
			return left.Absorb(ctx, attempt, right.Merge().Spared)
		},
		"unfreeze": func(ctx context.Context, _ *story, _, right *Replica, attempt uint64) error {
			return right.Unfreeze(ctx, attempt)
		},
		"discard": func(ctx context.Context, _ *story, left, _ *Replica, attempt uint64) error {
			return left.Discard(ctx, attempt)
		},
	} {
		storyCommands[name] = step(f)
	}
	storyCommands["merge-state"] = func(s *story) string {
		n := s.node()
		return fmt.Sprintf("left: %s\nright: %s\n", describeMergeState(n.replica), describeMergeState(s.right.g.nodes[n.index].replica))
	}
}

func describeMergeState(r *Replica) string {
	m := r.Merge()
	out := fmt.Sprintf("%v", spanOf(r.Descriptor()))
	if m.Over != 0 {
		out += fmt.Sprintf(", over %d", m.Over)
	}
	if m.Absorbing != 0 {
		out += fmt.Sprintf(", absorbing %d", m.Absorbing)
	}
	if m.Sealed {
		out += ", sealed"
	}
	if m.Frozen != 0 {
		out += fmt.Sprintf(", frozen %d", m.Frozen)
	}
	if m.Surrendered {
		out += ", surrendered"
	}
	if m.Spared {
		out += ", spared"
	}
	return out + ", " + string(r.Phase())
}

// describeMerge shows a command of a merge.
func describeMerge(c *kvdpb.ShardCommand) string {
	switch k := c.GetCommand().(type) {
	case *kvdpb.ShardCommand_Freeze:
		return fmt.Sprintf("freeze attempt=%d epoch=%d", k.Freeze.Attempt, k.Freeze.Epoch)
	case *kvdpb.ShardCommand_Unfreeze:
		return fmt.Sprintf("unfreeze attempt=%d", k.Unfreeze.Attempt)
	case *kvdpb.ShardCommand_Surrender:
		return fmt.Sprintf("surrender attempt=%d epoch=%d", k.Surrender.Attempt, k.Surrender.Epoch)
	case *kvdpb.ShardCommand_AbsorbBegin:
		return fmt.Sprintf("absorb begin attempt=%d", k.AbsorbBegin.Attempt)
	case *kvdpb.ShardCommand_AbsorbChunk:
		x := k.AbsorbChunk
		out := fmt.Sprintf("absorb chunk attempt=%d copy=%d index=%d, %d versions, %d leases", x.Attempt, x.Copy, x.Index, len(x.Versions), len(x.Leases))
		if x.Seal != nil {
			out += fmt.Sprintf(", sealed at revision %d", x.Seal.Revision)
		}
		return out
	case *kvdpb.ShardCommand_AbsorbDiscard:
		return fmt.Sprintf("absorb discard attempt=%d", k.AbsorbDiscard.Attempt)
	case *kvdpb.ShardCommand_Absorb:
		return fmt.Sprintf("absorb attempt=%d epoch=%d seq=%d", k.Absorb.Attempt, k.Absorb.Epoch, k.Absorb.Seq)
	}
	return ""
}
