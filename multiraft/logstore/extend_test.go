package logstore

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/lni/dragonboat/v4/raftio"
	"github.com/lni/dragonboat/v4/raftpb"
	"github.com/stretchr/testify/require"
)

// What is appended follows the last entry, in the state's term, is committed with all before it, and is there for all replicas or for none.
func TestExtend(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := open(t, fs)
	for replica, last := range map[uint64]uint64{1: 5, 2: 3} {
		require.NoError(t, s.SaveRaftState([]raftpb.Update{{
			ShardID: 7, ReplicaID: replica, State: raftpb.State{Term: 4, Vote: 1, Commit: 2}, EntriesToSave: entries(3, 1, last),
		}}, 0))
	}
	more := []raftpb.Entry{{Cmd: []byte("x")}, {Cmd: []byte("y")}}
	err := s.Extend([]Extension{{Shard: 7, Replica: 1, Entries: more}, {Shard: 7, Replica: 9, Entries: more}})
	require.ErrorIs(t, err, raftio.ErrNoSavedLog)
	require.NoError(t, s.Close())

	s = open(t, fs)
	state, err := s.ReadRaftState(7, 1, 0)
	require.NoError(t, err)
	require.Equal(t, uint64(2), state.State.Commit)
	require.Equal(t, uint64(5), state.EntryCount)
	require.NoError(t, s.Extend([]Extension{{Shard: 7, Replica: 1, Entries: more}, {Shard: 7, Replica: 2, Entries: more[:1]}}))
	crashed := fs.CrashClone(vfs.CrashCloneCfg{})
	require.NoError(t, s.Close())

	s = open(t, crashed)
	defer func() { require.NoError(t, s.Close()) }()
	for replica, last := range map[uint64]uint64{1: 7, 2: 4} {
		state, err := s.ReadRaftState(7, replica, 0)
		require.NoError(t, err)
		require.Equal(t, raftpb.State{Term: 4, Vote: 1, Commit: last}, state.State)
		got, _, err := s.IterateEntries(nil, 0, 7, replica, last, last+1, 1<<20)
		require.NoError(t, err)
		require.Len(t, got, 1)
		require.Equal(t, uint64(4), got[0].Term)
		require.Equal(t, last, got[0].Index)
	}
}
