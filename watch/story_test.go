package watch

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/shard"
)

// TestStories tells, in testdata, what becomes of watches when things happen in
// an unlucky order. Commands:
//
//	shard id=N span=a-m [local]            make a shard over [a, m)
//	open id=N [applied=I]                  start the local replica
//	write rev=R k=v k2=v2 -k3              a transaction, into the logs
//	split key=K child=N                    a split, into the log of the parent
//	apply id=N [n=I]                       the local replica applies entries (all)
//	restore id=N                           it jumps to the end of its log by a snapshot
//	close id=N                             it goes away
//	compact rev=R                          Compact, applied by all stores
//	break id=N / mend id=N                 its disk cannot be read / can
//	watch s=S id=N key=K [end=E] [rev=R] [prev] [fragment] [progress] [noput] [nodelete]
//	cancel s=S id=N
//	progress s=S / tick s=S
//	block s=S / unblock s=S                the client does not read / does
//	answer id=N [rev=R applied=I gen=G span=a-m]   the owner answers the open round
//	end                                    the open round ends
//	sequencer down|up
//	owner                                  this member owns all shards from now on
//	state                                  the topology
//
// After each command everything that can happen happens, and is printed.
func TestStories(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		var st *story
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd == "begin" {
				if st != nil {
					st.close()
				}
				st = beginStory(t, d)
				return ""
			}
			return st.run(t, d)
		})
		if st != nil {
			st.close()
		}
	})
}

type story struct {
	*world
	asked int
}

func beginStory(t *testing.T, d *datadriven.TestData) *story {
	cfg := Config{}
	d.MaybeScanArgs(t, "stream-bytes", &cfg.StreamBytes)
	d.MaybeScanArgs(t, "ring-bytes", &cfg.RingBytes)
	d.MaybeScanArgs(t, "window-bytes", &cfg.WindowBytes)
	d.MaybeScanArgs(t, "response-bytes", &cfg.MaxResponseBytes)
	return &story{world: newWorld(t, cfg)}
}

func (st *story) run(t *testing.T, d *datadriven.TestData) string {
	var id uint64
	d.MaybeScanArgs(t, "id", &id)
	var name string
	d.MaybeScanArgs(t, "s", &name)
	var rev int64
	d.MaybeScanArgs(t, "rev", &rev)
	switch d.Cmd {
	case "shard":
		span := parseSpan(t, d)
		s := st.addShard(id, string(span.Start[1:]), "")
		s.desc.End = span.End
		if d.HasArg("local") {
			st.openReplica(id, 0)
		}
	case "open":
		applied := uint64(len(st.shards[id].log))
		d.MaybeScanArgs(t, "applied", &applied)
		st.openReplica(id, applied)
	case "write":
		st.write(rev, parseChanges(d))
	case "split":
		var key string
		var child uint64
		d.ScanArgs(t, "key", &key)
		d.ScanArgs(t, "child", &child)
		st.split(key, child)
	case "apply":
		n := 1 << 30
		d.MaybeScanArgs(t, "n", &n)
		st.apply(id, n)
	case "restore":
		st.restore(id, uint64(len(st.shards[id].log)))
	case "close":
		st.shards[id].opened = false
		st.hub.Closed(id)
	case "compact":
		st.compacted = rev
		for _, s := range st.shards {
			s.compacted = rev
		}
	case "break", "mend":
		st.shards[id].broken = d.Cmd == "break"
		st.hub.wakeGroups()
	case "watch":
		require.NoError(t, st.stream(name).s.Create(context.Background(), parseWatch(t, d, int64(id), rev)))
	case "cancel":
		require.NoError(t, st.stream(name).s.Cancel(context.Background(), int64(id)))
	case "progress":
		require.NoError(t, st.stream(name).s.Progress(context.Background()))
	case "tick":
		st.stream(name).s.tick(context.Background())
	case "block", "unblock":
		st.stream(name).blocked = d.Cmd == "block"
	case "answer":
		st.answer(t, d, id)
	case "end":
		require.NotEmpty(t, st.open, "no round is open")
		st.endRound(st.open[0])
		st.asked--
	case "sequencer":
		st.down = d.HasArg("down")
	case "owner":
		st.owner = true
	case "state":
		return st.state()
	default:
		t.Fatalf("unknown command %s", d.Cmd)
	}
	st.settle()
	return st.news()
}

// news prints what was sent and asked since.
func (st *story) news() string {
	var b strings.Builder
	for _, name := range st.streamNames() {
		s := st.streams[name]
		got := s.got
		s.got = nil
		// Which of two watches is served first is chance, but nothing goes past a
		// report to all.
		for len(got) > 0 {
			n := slices.IndexFunc(got, func(r Response) bool { return r.WatchID == InvalidWatchID })
			if n < 0 {
				n = len(got)
			}
			slices.SortStableFunc(got[:n], func(a, b Response) int { return int(a.WatchID - b.WatchID) })
			n = min(n+1, len(got))
			for i := range got[:n] {
				fmt.Fprintf(&b, "%s: %s\n", name, show(&got[i]))
			}
			got = got[n:]
		}
	}
	for ; st.asked < len(st.open); st.asked++ {
		r := st.open[st.asked]
		fmt.Fprintf(&b, "asked: revision %d of shards %v\n", r.rev, r.shards)
	}
	if b.Len() == 0 {
		return "-\n"
	}
	return b.String()
}

func (st *story) answer(t *testing.T, d *datadriven.TestData, id uint64) {
	require.NotEmpty(t, st.open, "no round is open")
	r := st.resolved(id)
	d.MaybeScanArgs(t, "rev", &r.Revision)
	d.MaybeScanArgs(t, "applied", &r.Applied)
	d.MaybeScanArgs(t, "gen", &r.Generation)
	if d.HasArg("span") {
		r.Span = parseSpan(t, d)
	}
	st.open[0].answer(shard.Resolved(r))
}

func (st *story) state() string {
	var b strings.Builder
	for _, s := range st.hub.topology.Load().segments {
		v := s.view()
		who := "nobody"
		if s.source.local {
			who = fmt.Sprintf("shard %d", s.source.shard)
		} else if s.source.shard != 0 {
			who = fmt.Sprintf("shard %d elsewhere", s.source.shard)
		}
		fmt.Fprintf(&b, "%v by %s: resolved %d, in memory above %d\n", s.span, who, v.resolved, v.floor)
	}
	fmt.Fprintf(&b, "%d groups, %d cohorts\n", len(st.hub.groups.live), st.hub.Stats().Cohorts)
	return b.String()
}

func parseSpan(t *testing.T, d *datadriven.TestData) keyspace.Span {
	var text string
	d.ScanArgs(t, "span", &text)
	start, end, ok := strings.Cut(text, "-")
	require.True(t, ok, "span %q", text)
	s := keyspace.Span{Start: keyspace.User([]byte(start)), End: keyspace.UserEnd()}
	if start == "" {
		s.Start = keyspace.Min()
	}
	if end != "" {
		s.End = keyspace.User([]byte(end))
	}
	return s
}

func parseChanges(d *datadriven.TestData) map[string]*string {
	out := map[string]*string{}
	for _, a := range d.CmdArgs {
		switch {
		case a.Key == "rev":
		case strings.HasPrefix(a.Key, "-"):
			out[a.Key[1:]] = nil
		default:
			v := a.Vals[0]
			// v*100 is the letter v a hundred times.
			if c, n, ok := strings.Cut(v, "*"); ok {
				if n, err := strconv.Atoi(n); err == nil {
					v = strings.Repeat(c, n)
				}
			}
			out[a.Key] = &v
		}
	}
	return out
}

func parseWatch(t *testing.T, d *datadriven.TestData, id, rev int64) *pb.WatchCreateRequest {
	var key, end string
	d.MaybeScanArgs(t, "key", &key)
	d.MaybeScanArgs(t, "end", &end)
	req := createRequest(id, key, end, rev)
	if end == "all" {
		req.RangeEnd = []byte{0}
	}
	req.PrevKv, req.Fragment, req.ProgressNotify = d.HasArg("prev"), d.HasArg("fragment"), d.HasArg("progress")
	if d.HasArg("noput") {
		req.Filters = append(req.Filters, pb.WatchCreateRequest_NOPUT)
	}
	if d.HasArg("nodelete") {
		req.Filters = append(req.Filters, pb.WatchCreateRequest_NODELETE)
	}
	return req
}
