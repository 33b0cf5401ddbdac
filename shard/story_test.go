package shard

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/kvd-io/kvd/multiraft"
	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard/command"
)

// TestStories runs the interleavings of testdata: a group of members whose raft
// commits, loses and delivers when the story says, and a sequencer whose clock
// the story moves.
func TestStories(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s := &story{t: t, seq: newFakeSequencer(), requests: make(map[string]*storyRequest), clock: &storyClock{t: time.Now()}}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			s.t, s.d = t, d
			f, ok := storyCommands[d.Cmd]
			if !ok {
				d.Fatalf(t, "unknown command %s", d.Cmd)
			}
			if s.right != nil {
				s.right.t, s.right.d = t, d
			}
			if d.HasArg("right") {
				return f(s.right)
			}
			return f(s)
		})
		s.g.close()
		if s.right != nil {
			s.right.g.close()
		}
	})
}

type story struct {
	t        *testing.T
	d        *datadriven.TestData
	seq      *fakeSequencer
	g        *fakeGroup
	sinks    []*recordingSink
	requests map[string]*storyRequest
	late     []fakeEntry
	clock    *storyClock
	leases   []*storyLeases
	// right is the story of the right neighbour, where there is one. Commands are about
	// it if they say so.
	right *story
}

type storyRequest struct {
	done   chan string
	cancel context.CancelFunc
	result string
}

var storyCommands = map[string]func(*story) string{
	"cluster": func(s *story) string {
		n := 1
		limits := Limits{}
		s.scan("nodes", &n)
		s.scan("batch", &limits.BatchWrites)
		if !s.d.HasArg("neighbours") {
			s.cluster(n, limits, wholeShard())
			return ""
		}
		s.right = &story{t: s.t, d: s.d, seq: s.seq, requests: s.requests, clock: s.clock}
		s.cluster(n, limits, leftShard())
		s.right.cluster(n, limits, rightShard())
		return ""
	},
	"lead": func(s *story) string {
		s.seq.set(func() { s.seq.mu.probes = 0 })
		if s.arg("node") == "0" {
			s.g.lead(nil)
		} else {
			s.g.lead(s.node())
		}
		return ""
	},
	"isolate": func(s *story) string { s.node().isolate(true); return "" },
	"rejoin":  func(s *story) string { s.node().isolate(false); return "" },
	"pause":   func(s *story) string { s.node().pause(true); return "" },
	"resume":  func(s *story) string { s.node().pause(false); return "" },
	"hold":    func(s *story) string { s.g.do(func() { s.g.mu.hold = true }); return "" },
	"commit":  func(s *story) string { s.g.commitAll(); return "" },
	// commits what there is and goes on holding
	"commit-so-far": func(s *story) string {
		s.g.do(func() { s.g.mu.committed = len(s.g.mu.entries) })
		return ""
	},
	// the raft log gives up the proposals of which nothing was heard
	"expire": func(s *story) string {
		s.g.do(func() {
			for _, e := range s.g.mu.dropped {
				e.proposal.finish(multiraft.Outcome{Kind: multiraft.NotAppended, Err: multiraft.ErrNotReady})
			}
			s.g.mu.dropped = nil
		})
		return ""
	},
	// nothing is heard of proposals that were overwritten, until whoever waits for them
	// gives them up
	"give-up": func(s *story) string {
		for i := range s.late {
			if p := s.late[i].proposal; p != nil {
				p.finish(multiraft.Outcome{Kind: multiraft.Unknown, Err: multiraft.ErrTimeout})
				s.late[i].proposal = nil
			}
		}
		return ""
	},
	"split-done": func(s *story) string {
		var child uint64
		s.d.ScanArgs(s.t, "child", &child)
		if err := s.node().replica.SplitDone(context.Background(), child); err != nil {
			return describeError(err)
		}
		return "done\n"
	},
	"keys": func(s *story) string {
		sn := s.node().replica.Store().NewSnapshot()
		defer sn.Close()
		n, err := sn.Count(context.Background(), keyspace.Users(), 0)
		require.NoError(s.t, err)
		return fmt.Sprintf("%d keys in the store\n", n)
	},
	// uncommitted entries are overwritten by a new leader; "late" brings them back
	"truncate": func(s *story) string {
		s.g.do(func() {
			s.late = append(s.late, s.g.mu.entries[s.g.mu.committed:]...)
			s.g.mu.entries = s.g.mu.entries[:s.g.mu.committed]
			s.g.mu.hold = false
		})
		return ""
	},
	"late": func(s *story) string {
		s.g.do(func() {
			s.g.mu.entries = append(s.g.mu.entries, s.late...)
			s.g.mu.committed = len(s.g.mu.entries)
			s.late = nil
		})
		return ""
	},
	"lose": func(s *story) string {
		kinds := map[string]multiraft.OutcomeKind{"off": 0, "not-appended": multiraft.NotAppended, "unknown": multiraft.Unknown, "silence": silence}
		s.g.do(func() { s.g.mu.lose = kinds[s.arg("kind")] })
		return ""
	},
	"clock": func(s *story) string {
		var ms int
		s.d.ScanArgs(s.t, "ms", &ms)
		s.seq.advance(time.Duration(ms) * time.Millisecond)
		return ""
	},
	"sequencer": (*story).sequencer,
	"await":     (*story).await,
	"put": func(s *story) string {
		put := &pb.PutRequest{Key: s.bytes("key"), Value: s.bytes("value")}
		s.scan("lease", &put.Lease)
		return s.send(&Request{Put: put})
	},
	"delete": func(s *story) string {
		return s.send(&Request{Delete: &pb.DeleteRangeRequest{Key: s.bytes("key"), RangeEnd: s.optional("to")}})
	},
	"get": func(s *story) string {
		req := &Request{Range: &pb.RangeRequest{Key: s.bytes("key"), RangeEnd: s.optional("to")}}
		s.scan("rev", &req.Range.Revision)
		s.scan("read-rev", &req.ReadRev)
		req.Confirm = s.d.HasArg("confirm")
		return s.send(req)
	},
	// creates the key, or reads it
	"create": func(s *story) string {
		return s.send(&Request{Txn: &pb.TxnRequest{
			Compare: []*pb.Compare{{Key: s.bytes("key"), Target: pb.Compare_CREATE, TargetUnion: &pb.Compare_CreateRevision{}}},
			Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: s.bytes("key"), Value: s.bytes("value")}}}},
			Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: s.bytes("key")}}}},
		}})
	},
	"cancel": func(s *story) string { s.requests[s.arg("name")].cancel(); return "" },
	"result": func(s *story) string {
		r := s.requests[s.arg("name")]
		if r.result == "" {
			select {
			case r.result = <-r.done:
			case <-time.After(patience):
				return "no answer"
			}
		}
		return r.result
	},
	"pending": func(s *story) string {
		r := s.requests[s.arg("name")]
		select {
		case r.result = <-r.done:
			return r.result
		default:
			return "pending"
		}
	},
	"log":     (*story).log,
	"state":   (*story).state,
	"release": (*story).release,
	"split":   (*story).split,
	"resolve": (*story).resolve,
	"snapshot": func(s *story) string {
		var to int
		s.d.ScanArgs(s.t, "to", &to)
		return s.g.installSnapshot(s.node(), s.g.nodes[to-1])
	},
	// whoever wrote is answered before the sink is told
	"events": func(s *story) string {
		n := s.node()
		sink := s.sinks[n.index]
		until(s.t, "the sink to be told", func() bool {
			applied, _ := n.replica.Applied()
			return sink.told() >= applied
		})
		return sink.take()
	},
	"renewals": func(s *story) string {
		return fmt.Sprintf("%d\n", s.node().replica.Stats().LeaseRenewals)
	},
	"alarms": func(s *story) string {
		return fmt.Sprintf("%d\n", s.node().replica.Stats().RevisionAlarms)
	},
}

func (s *story) cluster(n int, limits Limits, desc *kvdpb.Descriptor) {
	s.g = newFakeGroup(s.t)
	for range n {
		sink, leases := &recordingSink{}, &storyLeases{}
		s.sinks, s.leases = append(s.sinks, sink), append(s.leases, leases)
		leases.n = s.g.addNode(s.seq, func(c *Config) {
			c.Sink, c.Limits, c.Leases, c.now = sink, limits, leases, s.clock.now
			c.Shard, c.Descriptor = desc.Shard, desc
			c.waits = waits{propose: patience, freeze: patience, quiet: patience}
		})
	}
}

func (s *story) scan(name string, v any) { s.d.MaybeScanArgs(s.t, name, v) }

func (s *story) arg(name string) string {
	var v string
	s.d.ScanArgs(s.t, name, &v)
	return v
}

func (s *story) bytes(name string) []byte { return []byte(s.arg(name)) }

func (s *story) optional(name string) []byte {
	var v string
	if s.d.MaybeScanArgs(s.t, name, &v) {
		return []byte(v)
	}
	return nil
}

// node is the node that the command names, the first one by default.
func (s *story) node() *fakeNode {
	n := 1
	s.scan("node", &n)
	return s.g.nodes[n-1]
}

func (s *story) sequencer() string {
	s.seq.set(func() {
		m := &s.seq.mu
		s.scan("epoch", &m.epoch)
		s.scan("last", &m.last)
		s.scan("compact", &m.compact)
		s.scan("auth", &m.auth)
		var ms int
		if s.d.MaybeScanArgs(s.t, "reading", &ms) {
			m.reading = time.Duration(ms) * time.Millisecond
		}
		for _, a := range s.d.CmdArgs {
			switch a.Key {
			case "remote":
				m.remote = true
			case "local":
				m.remote = false
			case "not-serving":
				m.notServing = true
			case "serving":
				m.notServing = false
			case "hold":
				m.held = make(chan struct{})
			case "answer":
				close(m.held)
				m.held = nil
			}
		}
	})
	return ""
}

// await waits for what the story says comes next.
func (s *story) await() string {
	n := s.node()
	for _, a := range s.d.CmdArgs {
		switch a.Key {
		case "serving":
			until(s.t, "node serves", n.replica.Serving)
		case "epoch":
			var epoch uint64
			s.scan("epoch", &epoch)
			until(s.t, "epoch", func() bool {
				owner, e := n.replica.Owner()
				t := n.replica.tenure.Load()
				return e == epoch && (owner != n.cfg.Member || (t != nil && t.epoch == epoch))
			})
		case "waiting":
			until(s.t, "question of the wait-out", func() bool {
				s.seq.mu.Lock()
				defer s.seq.mu.Unlock()
				return s.seq.mu.probes > 0
			})
		case "over":
			until(s.t, "tenure over", func() bool { return n.replica.tenure.Load().over() })
		case "proposed":
			var count int
			s.scan("proposed", &count)
			until(s.t, "entries in the log", func() bool {
				s.g.mu.Lock()
				defer s.g.mu.Unlock()
				return len(s.g.mu.entries) >= count
			})
		case "lost":
			var count int
			s.scan("lost", &count)
			until(s.t, "lost proposals", func() bool {
				s.g.mu.Lock()
				defer s.g.mu.Unlock()
				return len(s.g.mu.dropped) >= count
			})
		case "asked":
			var count int
			s.scan("asked", &count)
			until(s.t, "questions to the sequencer", func() bool {
				s.seq.mu.Lock()
				defer s.seq.mu.Unlock()
				return s.seq.mu.asked >= count
			})
		case "applied":
			var index uint64
			s.scan("applied", &index)
			require.NoError(s.t, n.replica.waitApplied(context.Background(), index))
		case "registered":
			var count int
			s.scan("registered", &count)
			l := s.leases[n.index]
			until(s.t, "registrations", func() bool {
				l.mu.Lock()
				defer l.mu.Unlock()
				return l.asked >= count
			})
		case "revision":
			var rev int64
			s.scan("revision", &rev)
			until(s.t, "revision", func() bool {
				_, last := n.replica.Applied()
				return last >= rev
			})
		case "barriers":
			var count int
			s.scan("barriers", &count)
			until(s.t, "barriers", func() bool {
				p := &n.replica.tenure.Load().pipeline
				p.mu.Lock()
				defer p.mu.Unlock()
				return len(p.mu.waiting) >= count
			})
		case "queued":
			var count int
			s.scan("queued", &count)
			until(s.t, "writes in the queue", func() bool {
				p := &n.replica.tenure.Load().pipeline
				p.mu.Lock()
				defer p.mu.Unlock()
				return len(p.mu.queue) >= count
			})
		case "stopped":
			until(s.t, "the owner to stop", func() bool { return n.replica.tenure.Load().frozen.Load() })
		case "absorbing":
			until(s.t, "an absorb in line", func() bool {
				p := &n.replica.tenure.Load().pipeline
				p.mu.Lock()
				defer p.mu.Unlock()
				return p.mu.absorb != nil
			})
		case "gated":
			var count int
			s.scan("gated", &count)
			until(s.t, "transactions at the gate", func() bool {
				p := &n.replica.tenure.Load().pipeline
				p.mu.Lock()
				defer p.mu.Unlock()
				return len(p.mu.gated) >= count
			})
		}
	}
	return ""
}

// begin registers a request under the name that the command gives.
func (s *story) begin() (*storyRequest, context.Context) {
	ctx, cancel := context.WithCancel(context.Background())
	s.t.Cleanup(cancel)
	r := &storyRequest{done: make(chan string, 1), cancel: cancel}
	s.requests[s.arg("name")] = r
	return r, ctx
}

func (s *story) send(req *Request) string {
	r, ctx := s.begin()
	req.Ctx = ctx
	s.scan("auth", &req.Auth)
	if s.d.HasArg("exempt") {
		req.Auth = AuthExempt
	}
	req.Done = func(reply *Reply, err error) { r.done <- describe(reply, err) }
	s.node().replica.Do(req)
	return ""
}

func describe(reply *Reply, err error) string {
	if err != nil {
		return describeError(err)
	}
	if reply.Part != nil {
		return describePart(reply.Part)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "revision %d", reply.Revision)
	rng := reply.Range
	if txn := reply.Txn; txn != nil {
		fmt.Fprintf(&b, " succeeded=%v", txn.Succeeded)
		rng = txn.Responses[0].GetResponseRange()
	}
	if reply.Delete != nil {
		fmt.Fprintf(&b, " deleted=%d", reply.Delete.Deleted)
	}
	if rng != nil {
		for _, kv := range rng.Kvs {
			fmt.Fprintf(&b, " %s=%s@%d", kv.Key, kv.Value, kv.ModRevision)
		}
		if len(rng.Kvs) == 0 {
			b.WriteString(" nothing")
		}
	}
	return b.String() + "\n"
}

func describeError(err error) string {
	var notOwner *NotOwnerError
	var ambiguous *AmbiguousError
	var wrongRange *WrongRangeError
	switch {
	case errors.As(err, &ambiguous):
		return "ambiguous\n"
	case errors.As(err, &notOwner):
		return "not owner\n"
	case errors.As(err, &wrongRange):
		return "wrong range\n"
	}
	return "error: " + err.Error() + "\n"
}

// log shows what was committed, as the node that applied most decided.
func (s *story) log() string {
	s.g.mu.Lock()
	entries := s.g.mu.entries[:s.g.mu.committed]
	s.g.mu.Unlock()
	var b strings.Builder
	from := 1
	s.scan("from", &from)
	var replay state
	for i, e := range entries {
		line := describeCommand(&replay, e.cmd)
		if i+1 >= from {
			fmt.Fprintf(&b, "%d %s\n", i+1, line)
		}
	}
	return b.String()
}

// describeCommand shows a command, and applies it to the state, which is how the
// log says what became of it.
func describeCommand(s *state, cmd []byte) string {
	if command.IsBatch(cmd) {
		var batch command.Batch
		if err := batch.Decode(cmd); err != nil {
			return err.Error()
		}
		revs := make([]int64, len(batch.Txns))
		for i, t := range batch.Txns {
			revs[i] = t.Revision
		}
		rejection := s.checkWrites(&batch)
		if rejection == Accepted {
			s.applyWrites(&batch)
		}
		return fmt.Sprintf("write epoch=%d seq=%d revisions=%v%s", batch.Epoch, batch.Seq, revs, rejected(rejection))
	}
	var c kvdpb.ShardCommand
	if err := proto.Unmarshal(cmd, &c); err != nil {
		return err.Error()
	}
	rejection := s.check(&c)
	what := ""
	switch k := c.GetCommand().(type) {
	case *kvdpb.ShardCommand_Init:
		what = "init"
	case *kvdpb.ShardCommand_Claim:
		what = fmt.Sprintf("claim member=%d previous=%d", k.Claim.Member, k.Claim.PreviousEpoch)
	case *kvdpb.ShardCommand_Serving:
		what = fmt.Sprintf("serving epoch=%d", k.Serving.Epoch)
	case *kvdpb.ShardCommand_Release:
		what = fmt.Sprintf("release epoch=%d", k.Release.Epoch)
	case *kvdpb.ShardCommand_Split:
		what = fmt.Sprintf("split epoch=%d child=%d", k.Split.Epoch, k.Split.Child.Shard)
	case *kvdpb.ShardCommand_SplitDone:
		what = fmt.Sprintf("split done epoch=%d child=%d", k.SplitDone.Epoch, k.SplitDone.Child)
	case *kvdpb.ShardCommand_Compact:
		what = fmt.Sprintf("compact revision=%d", k.Compact.Revision)
	case *kvdpb.ShardCommand_Transactions:
		return describeTransactions(s, k.Transactions, rejection == Accepted) + rejected(rejection)
	case *kvdpb.ShardCommand_Leases:
		what = describeLeases(k.Leases)
	default:
		what = describeMerge(&c)
	}
	if rejection == Accepted {
		s.apply(&c)
	}
	return what + rejected(rejection)
}

func rejected(r Rejection) string {
	if r == Accepted {
		return ""
	}
	return " (rejected: " + r.String() + ")"
}

func (s *story) state() string {
	n := s.node()
	v := n.replica.view.Load()
	o := v.ownership
	_, rev := n.replica.Applied()
	out := fmt.Sprintf("epoch %d of member %d, span %v, generation %d, revision %d, %s\n",
		o.Epoch, o.Member, v.span, v.generation(), rev, n.replica.Phase())
	if v.pending != nil {
		out += fmt.Sprintf("pending child %d of %v\n", v.pending.Shard, spanOf(v.pending))
	}
	return out
}

func (s *story) release() string {
	r, ctx := s.begin()
	n := s.node()
	var to uint64
	s.scan("to", &to)
	go func() {
		if err := n.replica.Release(ctx, to, nil); err != nil {
			r.done <- describeError(err)
			return
		}
		r.done <- "released\n"
	}()
	return ""
}

func (s *story) split() string {
	r, ctx := s.begin()
	n := s.node()
	parent := n.replica.Descriptor()
	child := &kvdpb.Descriptor{Shard: 8, Parent: fakeShard, Start: keyspace.User(s.bytes("key")), End: parent.End}
	s.scan("child", &child.Shard)
	generation := parent.Generation + 1
	go func() {
		if err := n.replica.Split(ctx, child, generation, nil); err != nil {
			if errors.Is(err, ErrSplitAborted) {
				r.done <- "aborted: " + err.Error() + "\n"
			} else {
				r.done <- "not known: " + err.Error() + "\n"
			}
			return
		}
		r.done <- "split\n"
	}()
	return ""
}

func (s *story) resolve() string {
	r, ctx := s.begin()
	n := s.node()
	var rev int64
	s.scan("rev", &rev)
	go func() {
		res, err := n.replica.Resolve(ctx, rev)
		if err != nil {
			r.done <- describeError(err)
			return
		}
		r.done <- fmt.Sprintf("resolved %d at index %d, generation %d, span %v\n", res.Revision, res.Applied, res.Generation, res.Span)
	}()
	return ""
}

// installSnapshot gives a paused node the state of another one, as a stream.
func (g *fakeGroup) installSnapshot(from, to *fakeNode) string {
	captured, err := from.replica.PrepareSnapshot()
	require.NoError(g.t, err)
	var stream bytes.Buffer
	require.NoError(g.t, from.replica.SaveSnapshot(captured, &stream, nil))
	to.mu.Lock()
	require.True(g.t, to.mu.paused, "a snapshot replaces apply")
	to.mu.Unlock()
	require.NoError(g.t, to.replica.RecoverFromSnapshot(&stream, nil))
	applied, _ := to.replica.Applied()
	to.mu.Lock()
	to.mu.applied = int(applied)
	to.mu.Unlock()
	return fmt.Sprintf("installed up to index %d\n", applied)
}

// recordingSink notes what it is told.
type recordingSink struct {
	mu    sync.Mutex
	lines []string
	upTo  uint64
}

// heard notes that everything up to an index was told.
func (s *recordingSink) heard(index uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.upTo = max(s.upTo, index)
}

func (s *recordingSink) told() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.upTo
}

func (s *recordingSink) note(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, fmt.Sprintf(format, args...))
}

func (s *recordingSink) take() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	lines := s.lines
	s.lines = nil
	return strings.Join(lines, "")
}

func (s *recordingSink) Opened(shard uint64, _ *kvdpb.Descriptor, applied uint64, last int64) {
	s.note("opened at index %d, revision %d\n", applied, last)
	s.heard(applied)
}

func (s *recordingSink) Applied(_ uint64, index uint64, events []Event) {
	defer s.heard(index)
	for _, e := range events {
		key, _ := keyspace.UserKey(e.KV.Key)
		if e.Tombstone {
			s.note("%d.%d delete %s\n", e.Revision, e.Sub, key)
		} else {
			s.note("%d.%d put %s=%s created %d, version %d\n", e.Revision, e.Sub, key, e.KV.Value, e.KV.CreateRevision, e.KV.Version)
		}
	}
}

func (s *recordingSink) Restored(_ uint64, d *kvdpb.Descriptor, applied uint64, last int64) {
	s.note("restored at index %d, revision %d, span %v\n", applied, last, spanOf(d))
	s.heard(applied)
}

func (s *recordingSink) Split(parent, child *kvdpb.Descriptor, applied uint64, revision int64) {
	s.note("split at index %d, revision %d: %v, %v\n", applied, revision, spanOf(parent), spanOf(child))
}

func (s *recordingSink) Absorbed(d *kvdpb.Descriptor, applied uint64, revision int64) {
	s.note("absorbed at index %d, revision %d: %v\n", applied, revision, spanOf(d))
	s.heard(applied)
}

func (s *recordingSink) Closed(uint64) { s.note("closed\n") }
