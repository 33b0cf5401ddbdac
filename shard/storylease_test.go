package shard

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard/latch"
)

// storyClock is the clock of leases, which a story moves.
type storyClock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *storyClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *storyClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// storyLeases is the rest of the cluster for client leases: all records lie in
// the story's shard, and the story itself ends what was marked.
type storyLeases struct {
	n *fakeNode

	mu sync.Mutex
	// held: registrations are made, and their answer waits until it is closed.
	held chan struct{}
	// asked counts registrations that were made.
	asked int
	// told lists leases that are to be ended, expired counts those whose time is
	// over.
	told    []int64
	expired int
}

func (l *storyLeases) Register(ctx context.Context, id int64, span keyspace.Span) error {
	_, err := l.n.replica.Lease(ctx, &kvdpb.LeaseCall{Step: &kvdpb.LeaseCall_Register{Register: &kvdpb.LeaseRegister{
		Id: id, Span: &kvdpb.LeaseSpan{Start: span.Start, End: span.End}}}})
	l.mu.Lock()
	l.asked++
	held := l.held
	l.mu.Unlock()
	if held != nil {
		select {
		case <-held:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return err
}

func (l *storyLeases) Revoke(id int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.told = append(l.told, id)
}

func (l *storyLeases) Expired() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expired++
}

// The commands of stories about leases. "id" names a lease; every step is under
// way until "result" shows its end.
func init() {
	id := func(s *story) (id int64) { s.d.ScanArgs(s.t, "id", &id); return id }
	for name, f := range map[string]func(*story, *kvdpb.LeaseCall){
		"grant": func(s *story, c *kvdpb.LeaseCall) {
			g := &kvdpb.LeaseGrant{Id: id(s), Nonce: 1}
			s.scan("ttl", &g.Ttl)
			c.Step = &kvdpb.LeaseCall_Grant{Grant: g}
		},
		"keep-alive": func(s *story, c *kvdpb.LeaseCall) { c.Step = &kvdpb.LeaseCall_KeepAlive{KeepAlive: id(s)} },
		"describe":   func(s *story, c *kvdpb.LeaseCall) { c.Step = &kvdpb.LeaseCall_Describe{Describe: id(s)} },
		"revoke":     func(s *story, c *kvdpb.LeaseCall) { c.Step = &kvdpb.LeaseCall_Revoke{Revoke: id(s)} },
		"drop":       func(s *story, c *kvdpb.LeaseCall) { c.Step = &kvdpb.LeaseCall_Drop{Drop: id(s)} },
		"list":       func(_ *story, c *kvdpb.LeaseCall) { c.Step = &kvdpb.LeaseCall_List{List: &kvdpb.LeaseList{}} },
		// the keys of a lease; with fence, after whoever may be attaching some
		"attached": func(s *story, c *kvdpb.LeaseCall) {
			users := keyspace.Users()
			c.Step = &kvdpb.LeaseCall_Attached{Attached: &kvdpb.LeaseAttached{
				Id: id(s), Span: &kvdpb.LeaseSpan{Start: users.Start, End: users.End}, Fence: s.d.HasArg("fence")}}
		},
	} {
		storyCommands[name] = func(s *story) string {
			call := &kvdpb.LeaseCall{}
			f(s, call)
			return s.step(call)
		}
	}
	// deletes keys that are attached to a lease still, as ending it does
	storyCommands["delete-attached"] = func(s *story) string {
		txn := &pb.TxnRequest{}
		for _, key := range s.keys("key") {
			txn.Success = append(txn.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{
				Compare: []*pb.Compare{{Key: key, Target: pb.Compare_LEASE, TargetUnion: &pb.Compare_Lease{Lease: id(s)}}},
				Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: key}}}},
			}}})
		}
		return s.send(&Request{Txn: txn})
	}
	// moves the clock of leases
	storyCommands["pass"] = func(s *story) string {
		var ms int
		s.scan("ms", &ms)
		var sec int
		s.scan("s", &sec)
		s.clock.advance(time.Duration(sec)*time.Second + time.Duration(ms)*time.Millisecond)
		return ""
	}
	// waits until the owner has looked at all leases that have something due
	storyCommands["consult"] = func(s *story) string {
		lessor := s.node().replica.tenure.Load().lessor
		until(s.t, "a look at the leases", func() bool {
			lessor.mu.Lock()
			defer lessor.mu.Unlock()
			return len(lessor.mu.agenda) == 0 || lessor.mu.agenda[0].look.After(s.clock.now())
		})
		return ""
	}
	// waits until the log has what was decided, then shows the leases in the owner's memory
	storyCommands["leases"] = func(s *story) string {
		lessor := s.node().replica.tenure.Load().lessor
		require.NoError(s.t, lessor.ready(context.Background()))
		until(s.t, "leases at rest", func() bool {
			lessor.mu.Lock()
			defer lessor.mu.Unlock()
			for _, l := range lessor.mu.leases {
				if l.checkpointing || (l.ending && !l.record.Revoking) {
					return false
				}
			}
			return true
		})
		return lessor.show()
	}
	// shows the records that the log left
	storyCommands["records"] = func(s *story) string {
		require.NoError(s.t, s.g.wait(context.Background(), s.node().caughtUp))
		var b strings.Builder
		require.NoError(s.t, scanLeases(s.node().replica.Store(), keyspace.All(), func(_, record []byte) error {
			var l kvdpb.LeaseRecord
			require.NoError(s.t, proto.Unmarshal(record, &l))
			b.WriteString(describeRecord(&l) + "\n")
			return nil
		}))
		return cmp.Or(b.String(), "none\n")
	}
	// waits until the owner has told that leases are to be ended, and shows which
	storyCommands["told"] = func(s *story) string {
		l := s.leases[s.node().index]
		count := 0
		s.scan("count", &count)
		var told []int64
		until(s.t, "leases to be ended", func() bool {
			l.mu.Lock()
			defer l.mu.Unlock()
			told = slices.Sorted(slices.Values(l.told))
			return len(told) >= count
		})
		return fmt.Sprintf("%d\n", told)
	}
	storyCommands["expired"] = func(s *story) string {
		l := s.leases[s.node().index]
		count := 0
		s.scan("count", &count)
		until(s.t, "leases that are over", func() bool {
			l.mu.Lock()
			defer l.mu.Unlock()
			return l.expired == count
		})
		return ""
	}
	// waits for a step's end, whatever it showed
	storyCommands["ended"] = func(s *story) string { storyCommands["result"](s); return "" }
	// waits until a fence of the lease is in line
	storyCommands["await-fence"] = func(s *story) string {
		latches := s.node().replica.tenure.Load().latches
		until(s.t, "the fence", func() bool {
			var g latch.Guard
			if latches.Acquire(&g, []latch.Latch{{Span: keyspace.LeaseLatch(id(s))}}, make(waitChan, 1)) != latch.Queued {
				latches.Release(&g)
				return false
			}
			return latches.Cancel(&g)
		})
		return ""
	}
	storyCommands["registrations"] = func(s *story) string {
		l := s.leases[s.node().index]
		l.mu.Lock()
		defer l.mu.Unlock()
		if s.d.HasArg("hold") {
			l.held = make(chan struct{})
		} else {
			close(l.held)
			l.held = nil
		}
		return ""
	}
}

// caughtUp tells whether a node has applied all that is committed.
func (n *fakeNode) caughtUp() bool {
	n.g.mu.Lock()
	committed := n.g.mu.committed
	n.g.mu.Unlock()
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mu.applied >= committed
}

// step sends a step about a lease.
func (s *story) step(call *kvdpb.LeaseCall) string {
	r, ctx := s.begin()
	n := s.node()
	go func() {
		answer, err := n.replica.Lease(ctx, call)
		r.done <- describeLeaseAnswer(answer, err)
	}()
	return ""
}

func describeLeaseAnswer(answer *kvdpb.LeaseAnswer, err error) string {
	if errors.Is(err, rpctypes.ErrGRPCLeaseNotFound) {
		return "no such lease\n"
	}
	if err != nil {
		return describeError(err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "revision %d", answer.Revision)
	for _, l := range answer.Leases {
		fmt.Fprintf(&b, ", lease %d has %v of %d s", l.Record.Id, time.Duration(l.RemainingMs)*time.Millisecond, l.Record.Ttl)
	}
	for _, k := range answer.Keys {
		key, _ := keyspace.UserKey(k)
		fmt.Fprintf(&b, " %s", key)
	}
	return b.String() + "\n"
}

func describeRecord(l *kvdpb.LeaseRecord) string {
	out := fmt.Sprintf("lease %d of %d s", l.Id, l.Ttl)
	if l.RemainingMs > 0 {
		out += fmt.Sprintf(", checkpoint at %v", time.Duration(l.RemainingMs)*time.Millisecond)
	}
	if len(l.Spans) > 0 {
		out += ", registered"
	}
	if l.Revoking {
		out += ", revoking"
	}
	return out
}

// show lists the leases in memory by id, with what is left of each.
func (s *lessor) show() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	for _, l := range slices.SortedFunc(maps.Values(s.mu.leases), func(a, b *lease) int { return cmp.Compare(a.id, b.id) }) {
		fmt.Fprintf(&b, "%s, %v left", describeRecord(l.record), l.end.Sub(s.now()))
		if l.ending {
			b.WriteString(", ending")
		}
		b.WriteString("\n")
	}
	return cmp.Or(b.String(), "none\n")
}

func describeLeases(c *kvdpb.ShardLeases) string {
	out := fmt.Sprintf("leases epoch=%d seq=%d:", c.Epoch, c.Seq)
	for _, l := range c.Set {
		out += " " + describeRecord(l) + ";"
	}
	for _, id := range c.Drop {
		out += fmt.Sprintf(" drop %d;", id)
	}
	return strings.TrimSuffix(out, ";")
}
