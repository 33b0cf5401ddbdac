package logstore

import (
	"errors"
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/lni/dragonboat/v4/raftio"
	"github.com/lni/dragonboat/v4/raftpb"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type fataler interface {
	Helper()
	Fatalf(string, ...any)
}

func must(t fataler, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%v", err)
	}
}

func open(t fataler, fs vfs.FS) *Store {
	t.Helper()
	s, err := Open(Options{Dir: "log", fs: fs})
	must(t, err)
	return s
}

func entries(term, first, last uint64) []raftpb.Entry {
	var all []raftpb.Entry
	for i := first; i <= last; i++ {
		all = append(all, raftpb.Entry{Term: term, Index: i, Type: raftpb.EncodedEntry, Key: i, Cmd: fmt.Appendf(nil, "command %d of term %d", i, term)})
	}
	return all
}

// twin is what a store should hold of one replica.
type twin struct {
	state     raftpb.State
	entries   map[uint64]raftpb.Entry
	last      uint64
	snapshot  uint64
	bootstrap bool
	stored    bool
}

// TestAgainstATwin drives replicas through all that raft does to its log, reopening and crashing in between.
func TestAgainstATwin(t *testing.T) {
	ids := []raftio.NodeInfo{{ShardID: 1, ReplicaID: 1}, {ShardID: 1, ReplicaID: 2}, {ShardID: 2, ReplicaID: 1}}
	rapid.Check(t, func(t *rapid.T) {
		fs := vfs.NewCrashableMem()
		s := open(t, fs)
		defer func() { must(t, s.Close()) }()
		twins := make(map[raftio.NodeInfo]*twin)
		for _, id := range ids {
			twins[id] = &twin{entries: make(map[uint64]raftpb.Entry)}
		}
		any := func() raftio.NodeInfo { return ids[rapid.IntRange(0, len(ids)-1).Draw(t, "replica")] }
		crashed := false
		t.Repeat(map[string]func(*rapid.T){
			"bootstrap": func(t *rapid.T) {
				id := any()
				must(t, s.SaveBootstrapInfo(id.ShardID, id.ReplicaID, raftpb.Bootstrap{Join: true}))
				twins[id].bootstrap = true
			},
			"append": func(t *rapid.T) {
				var updates []raftpb.Update
				for _, id := range ids {
					if !rapid.Bool().Draw(t, "this one too") {
						continue
					}
					w := twins[id]
					// Raft overwrites what is not committed, in a higher term.
					first := rapid.Uint64Range(max(w.state.Commit, w.snapshot)+1, w.last+1).Draw(t, "first")
					last := first + rapid.Uint64Range(0, 5).Draw(t, "count")
					w.state.Term++
					w.state.Commit = rapid.Uint64Range(w.state.Commit, last).Draw(t, "commit")
					all := entries(w.state.Term, first, last)
					for _, e := range all {
						w.entries[e.Index] = e
					}
					w.last, w.stored = last, true
					updates = append(updates, raftpb.Update{ShardID: id.ShardID, ReplicaID: id.ReplicaID, State: w.state, EntriesToSave: all})
				}
				must(t, s.SaveRaftState(updates, 1))
			},
			"vote": func(t *rapid.T) {
				id := any()
				w := twins[id]
				w.state.Term++
				w.state.Vote = rapid.Uint64Range(1, 3).Draw(t, "vote")
				w.stored = true
				must(t, s.SaveRaftState([]raftpb.Update{{ShardID: id.ShardID, ReplicaID: id.ReplicaID, State: w.state}}, 1))
			},
			"commit": func(t *rapid.T) {
				id := any()
				w := twins[id]
				if !w.stored {
					t.Skip("no log")
				}
				w.state.Commit = rapid.Uint64Range(w.state.Commit, w.last).Draw(t, "commit")
				must(t, s.SaveRaftState([]raftpb.Update{{ShardID: id.ShardID, ReplicaID: id.ReplicaID, State: w.state}}, 1))
			},
			"snapshot and truncate": func(t *rapid.T) {
				id := any()
				w := twins[id]
				if w.state.Commit <= w.snapshot {
					t.Skip("nothing new")
				}
				w.snapshot = rapid.Uint64Range(w.snapshot+1, w.state.Commit).Draw(t, "index")
				must(t, s.SaveSnapshots([]raftpb.Update{{ShardID: id.ShardID, ReplicaID: id.ReplicaID, Snapshot: raftpb.Snapshot{Index: w.snapshot, Term: 1}}}))
				to := rapid.Uint64Range(0, w.snapshot).Draw(t, "to")
				must(t, s.RemoveEntriesTo(id.ShardID, id.ReplicaID, to))
				for i := range w.entries {
					if i < to {
						delete(w.entries, i)
					}
				}
			},
			"install a snapshot": func(t *rapid.T) {
				id := any()
				w := twins[id]
				w.snapshot = max(w.last, w.snapshot) + rapid.Uint64Range(1, 10).Draw(t, "ahead")
				w.state.Term++
				w.state.Commit, w.last, w.stored = w.snapshot, w.snapshot, true
				must(t, s.SaveRaftState([]raftpb.Update{{ShardID: id.ShardID, ReplicaID: id.ReplicaID, State: w.state,
					Snapshot: raftpb.Snapshot{Index: w.snapshot, Term: w.state.Term}}}, 1))
			},
			"remove": func(t *rapid.T) {
				id := any()
				must(t, s.RemoveNodeData(id.ShardID, id.ReplicaID))
				*twins[id] = twin{entries: make(map[uint64]raftpb.Entry)}
			},
			"reopen": func(t *rapid.T) {
				must(t, s.Close())
				s = open(t, fs)
			},
			"crash": func(t *rapid.T) {
				clone := fs.CrashClone(vfs.CrashCloneCfg{})
				must(t, s.Close())
				fs, crashed = clone, true
				s = open(t, fs)
			},
			"": func(t *rapid.T) {
				for _, id := range ids {
					compare(t, s, id, twins[id], crashed)
				}
				crashed = false
			},
		})
	})
}

// compare checks a replica. After a crash the commit index may be older, and truncated entries may be there again; the twin then takes over what is.
func compare(t *rapid.T, s *Store, id raftio.NodeInfo, w *twin, crashed bool) {
	t.Helper()
	_, err := s.GetBootstrapInfo(id.ShardID, id.ReplicaID)
	if w.bootstrap != (err == nil) || (err != nil && !errors.Is(err, raftio.ErrNoBootstrapInfo)) {
		t.Fatalf("%v: bootstrap record %t: %v", id, w.bootstrap, err)
	}
	snapshot, err := s.GetSnapshot(id.ShardID, id.ReplicaID)
	must(t, err)
	if snapshot.Index != w.snapshot {
		t.Fatalf("%v: snapshot %d, want %d", id, snapshot.Index, w.snapshot)
	}
	got, err := s.ReadRaftState(id.ShardID, id.ReplicaID, snapshot.Index)
	if !w.stored {
		if !errors.Is(err, raftio.ErrNoSavedLog) {
			t.Fatalf("%v: %+v, %v", id, got, err)
		}
		return
	}
	must(t, err)
	if crashed && got.State.Commit < w.state.Commit && got.State.Commit >= w.snapshot {
		w.state.Commit = got.State.Commit
	}
	if got.State != w.state {
		t.Fatalf("%v: state %+v, want %+v", id, got.State, w.state)
	}
	if end := got.FirstIndex + got.EntryCount; got.EntryCount > 0 && (end != w.last+1 || got.FirstIndex > w.snapshot+1) || got.EntryCount == 0 && w.last > w.snapshot {
		t.Fatalf("%v: log %+v, want through %d from %d", id, got, w.last, w.snapshot)
	}
	from := w.snapshot + 1
	found, size, err := s.IterateEntries(nil, 0, id.ShardID, id.ReplicaID, from, w.last+10, 1<<30)
	must(t, err)
	if uint64(len(found)) != w.last+1-from {
		t.Fatalf("%v: %d entries from %d, want through %d", id, len(found), from, w.last)
	}
	var want uint64
	for i, e := range found {
		if e.Index != from+uint64(i) || e.Term != w.entries[e.Index].Term || string(e.Cmd) != string(w.entries[e.Index].Cmd) {
			t.Fatalf("%v: entry %d: %+v, want %+v", id, from+uint64(i), e, w.entries[e.Index])
		}
		want += uint64(e.SizeUpperLimit())
		one, _, err := s.IterateEntries(nil, 0, id.ShardID, id.ReplicaID, e.Index, e.Index+1, 0)
		must(t, err)
		if len(one) != 1 || one[0].Term != e.Term {
			t.Fatalf("%v: entry %d alone: %+v", id, e.Index, one)
		}
	}
	if size != want {
		t.Fatalf("%v: size %d, want %d", id, size, want)
	}
	if len(found) > 2 {
		few, _, err := s.IterateEntries(nil, 0, id.ShardID, id.ReplicaID, from, w.last+1, 1)
		must(t, err)
		if len(few) != 1 {
			t.Fatalf("%v: %d entries within one byte", id, len(few))
		}
	}
}

func TestACommitIndexAloneIsNotSynced(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := open(t, fs)
	save := func(u raftpb.Update) {
		t.Helper()
		u.ShardID, u.ReplicaID = 1, 1
		must(t, s.SaveRaftState([]raftpb.Update{u}, 1))
	}
	commit := func(fs vfs.FS) uint64 {
		t.Helper()
		other := open(t, fs)
		defer func() { must(t, other.Close()) }()
		state, err := other.ReadRaftState(1, 1, 0)
		must(t, err)
		return state.State.Commit
	}
	save(raftpb.Update{State: raftpb.State{Term: 1, Commit: 1}, EntriesToSave: entries(1, 1, 3)})
	written := s.Metrics().WAL.BytesWritten
	for i := uint64(2); i <= 3; i++ {
		save(raftpb.Update{State: raftpb.State{Term: 1, Commit: i}})
	}
	require.Equal(t, written, s.Metrics().WAL.BytesWritten)
	require.Equal(t, uint64(1), commit(fs.CrashClone(vfs.CrashCloneCfg{})))
	// The next entry takes it along, and so does a vote.
	save(raftpb.Update{State: raftpb.State{Term: 1, Commit: 3}, EntriesToSave: entries(1, 4, 4)})
	require.Equal(t, uint64(3), commit(fs.CrashClone(vfs.CrashCloneCfg{})))
	save(raftpb.Update{State: raftpb.State{Term: 1, Commit: 4}})
	save(raftpb.Update{State: raftpb.State{Term: 2, Vote: 1, Commit: 4}})
	require.Equal(t, uint64(4), commit(fs.CrashClone(vfs.CrashCloneCfg{})))
	// So does closing.
	save(raftpb.Update{State: raftpb.State{Term: 2, Vote: 1, Commit: 4}, EntriesToSave: entries(2, 5, 6)})
	save(raftpb.Update{State: raftpb.State{Term: 2, Vote: 1, Commit: 6}})
	must(t, s.Close())
	require.Equal(t, uint64(6), commit(fs))
}

func TestSnapshotAheadOfTheCommitIndex(t *testing.T) {
	// The snapshot became durable, the commit index that allowed it did not: raft panics on a commit index below its snapshot.
	fs := vfs.NewCrashableMem()
	s := open(t, fs)
	must(t, s.SaveRaftState([]raftpb.Update{{ShardID: 1, ReplicaID: 1, State: raftpb.State{Term: 1, Commit: 1}, EntriesToSave: entries(1, 1, 9)}}, 1))
	must(t, s.SaveRaftState([]raftpb.Update{{ShardID: 1, ReplicaID: 1, State: raftpb.State{Term: 1, Commit: 9}}}, 1))
	must(t, s.SaveSnapshots([]raftpb.Update{{ShardID: 1, ReplicaID: 1, Snapshot: raftpb.Snapshot{Index: 7, Term: 1}}}))
	clone := fs.CrashClone(vfs.CrashCloneCfg{})
	must(t, s.Close())
	s = open(t, clone)
	defer func() { must(t, s.Close()) }()
	state, err := s.ReadRaftState(1, 1, 7)
	require.NoError(t, err)
	require.Equal(t, uint64(7), state.State.Commit)
}

func TestListAndRefuse(t *testing.T) {
	s := open(t, vfs.NewMem())
	defer func() { must(t, s.Close()) }()
	for _, id := range []raftio.NodeInfo{{ShardID: 1 << 40, ReplicaID: 7}, {ShardID: 2, ReplicaID: 1}} {
		must(t, s.SaveBootstrapInfo(id.ShardID, id.ReplicaID, raftpb.Bootstrap{Join: true}))
	}
	all, err := s.ListNodeInfo()
	require.NoError(t, err)
	require.Equal(t, []raftio.NodeInfo{{ShardID: 2, ReplicaID: 1}, {ShardID: 1 << 40, ReplicaID: 7}}, all)
	require.Error(t, s.ImportSnapshot(raftpb.Snapshot{}, 1))
	done, err := s.CompactEntriesTo(1, 1, 1)
	require.NoError(t, err)
	<-done

	// A log with a hole, or of garbage, is an error, not a shorter log.
	must(t, s.SaveRaftState([]raftpb.Update{{ShardID: 3, ReplicaID: 1, State: raftpb.State{Term: 1}, EntriesToSave: entries(1, 5, 9)}}, 1))
	_, err = s.ReadRaftState(3, 1, 0)
	require.ErrorIs(t, err, ErrCorrupt)
	id := raftio.NodeInfo{ShardID: 3, ReplicaID: 1}
	must(t, s.db.Set(entryKey(id, 7), []byte{1, 2, 3}, pebble.Sync))
	_, _, err = s.IterateEntries(nil, 0, 3, 1, 5, 9, 1<<20)
	require.ErrorIs(t, err, ErrCorrupt)
	must(t, s.db.Set(replicaKey(kindState, raftio.NodeInfo{ShardID: 4, ReplicaID: 1}), []byte{9}, pebble.Sync))
	_, err = s.ReadRaftState(4, 1, 0)
	require.ErrorIs(t, err, ErrCorrupt)
}

func TestBusyIsToldInOrderAndLast(t *testing.T) {
	told := make(chan bool, 100)
	n := newBusyNotifier(func(b bool) { told <- b })
	n.set(true)
	require.True(t, <-told)
	n.set(false)
	n.set(true)
	n.set(false)
	last := true
	for last {
		last = <-told
	}
	n.close()
	require.Empty(t, told)
}

func FuzzDecode(f *testing.F) {
	e := entries(3, 7, 7)[0]
	b, err := e.Marshal()
	must(f, err)
	f.Add(b)
	f.Add([]byte{stateVersion})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := decodeRecord(b); err == nil {
			again := make([]byte, stateLen)
			putRecord(again, r)
			require.Equal(t, b, again)
		}
		_, _ = decodeEntry(b, 7)
		_ = unmarshal("snapshot", &raftpb.Snapshot{}, b)
		_ = unmarshal("bootstrap", &raftpb.Bootstrap{}, b)
	})
}
