package backup

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/kvd-io/kvd/backup/etcdfile"
	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/server/datadir"
	"github.com/kvd-io/kvd/shard/manager"
)

// The leases of a file fit to its keys, whatever became of them while it was saved.
func TestLeaseBook(t *testing.T) {
	b, err := newLeaseBook(filepath.Join(t.TempDir(), "leases"))
	require.NoError(t, err)
	record := func(id, ttl int64, revoking bool) {
		require.NoError(t, b.record(&kvdpb.LeaseRecord{Id: id, Ttl: ttl, RemainingMs: 1, Revoking: revoking}))
	}
	attached := func(id int64) { require.NoError(t, b.attached(id)) }
	record(9, 60, false)
	attached(9)
	attached(9)
	record(8, 30, false) // granted, no keys
	attached(7)          // ended after the revision
	record(6, 20, true)  // being revoked, its keys are in the file
	attached(6)
	record(5, 20, true) // being revoked, its keys are gone
	record(4, 10, true) // revoked and granted anew, told by two replicas
	record(4, 40, false)
	record(-3, 50, false)
	attached(-3)
	var got []etcdfile.Lease
	require.NoError(t, b.each(t.Context(), func(l etcdfile.Lease) error {
		got = append(got, l)
		return nil
	}))
	require.Equal(t, []etcdfile.Lease{{ID: 4, TTL: 40}, {ID: 6, TTL: 20}, {ID: 7, TTL: goneTTL}, {ID: 8, TTL: 30}, {ID: 9, TTL: 60}, {ID: -3, TTL: 50}}, got)
	require.NoError(t, b.close())
}

// A restored lease knows where its keys are, and the index of keys is exact: what
// was attached once and is no more is not in it, nor are keys of leases that the
// file does not have.
func TestRestoreLeases(t *testing.T) {
	const lease, other, dangling = 77, -5, 99
	file := snapshotFile(t, 600, &etcdfile.Contents{}, func(w *etcdfile.Writer) {
		rev := int64(5000)
		put := func(key string, lease int64) {
			rev++
			require.NoError(t, w.Row(etcdfile.AppendRevision(nil, etcdfile.Revision{Main: rev}),
				etcdfile.AppendKeyValue(nil, &etcdfile.KeyValue{Key: []byte(key), Create: rev, Mod: rev, Version: 1, Lease: lease})))
		}
		put("key-00000/a", lease)
		put("key-00599/b", lease)
		put("key-00300/c", lease)
		put("key-00300/c", other)
		put("key-00100/d", other)
		put("key-00100/e", dangling)
		put("key-00100/f", lease)
		rev++
		require.NoError(t, w.Row(etcdfile.AppendRevision(nil, etcdfile.Revision{Main: rev, Tombstone: true}),
			etcdfile.AppendKeyValue(nil, &etcdfile.KeyValue{Key: []byte("key-00100/f")})))
		require.NoError(t, w.Lease(etcdfile.Lease{ID: lease, TTL: 60}))
		require.NoError(t, w.Lease(etcdfile.Lease{ID: other, TTL: 100, Remaining: 40}))
		require.NoError(t, w.Lease(etcdfile.Lease{ID: 3, TTL: 0}))
	})
	var first map[uint64][]byte
	for _, name := range []string{"m1", "m3"} {
		cfg := restoreConfig(t, file, name)
		done, err := Restore(t.Context(), cfg)
		require.NoError(t, err)
		require.Equal(t, 3, done.Leases)
		records, keys, locals := leasesOf(t, cfg.DataDir)
		require.Len(t, records, 3)
		require.True(t, proto.Equal(&kvdpb.LeaseRecord{Id: 3, Ttl: 1}, records[3]))
		require.EqualValues(t, 60, records[lease].Ttl)
		require.Zero(t, records[lease].RemainingMs)
		require.EqualValues(t, 40_000, records[other].RemainingMs)
		require.Equal(t, map[int64][]string{lease: {"key-00000/a", "key-00599/b"}, other: {"key-00100/d", "key-00300/c"}}, keys)
		for id, ks := range keys {
			for _, k := range ks {
				require.True(t, covers(records[id], k), "lease %d, key %s", id, k)
			}
		}
		if first == nil {
			first = locals
		}
		require.Equal(t, first, locals, "replicas begin with the same records")
	}
}

func covers(l *kvdpb.LeaseRecord, key string) bool {
	for _, s := range l.Spans {
		if (keyspace.Span{Start: s.Start, End: s.End}).Contains(keyspace.User([]byte(key))) {
			return true
		}
	}
	return false
}

// leasesOf reads the leases and the keys that are attached to them out of a data
// directory.
func leasesOf(t *testing.T, dir string) (records map[int64]*kvdpb.LeaseRecord, keys map[int64][]string, locals map[uint64][]byte) {
	t.Helper()
	birth, err := ReadBirth(dir)
	require.NoError(t, err)
	data, err := datadir.Open(dir)
	require.NoError(t, err)
	member := uint64(data.Stamp().MemberID)
	require.NoError(t, data.Close())
	e, err := mvcc.NewEngine(mvcc.EngineOptions{NoBackground: true})
	require.NoError(t, err)
	defer func() { require.NoError(t, e.Close()) }()
	records, keys, locals = map[int64]*kvdpb.LeaseRecord{}, map[int64][]string{}, map[uint64][]byte{}
	for _, d := range birth.Cluster.Init.Shards {
		replica, ok := replicaOf(d, member)
		require.True(t, ok)
		s, err := e.Open(manager.StoreDir(filepath.Join(dir, manager.Dir), d.Shard, replica))
		require.NoError(t, err)
		require.NoError(t, s.ScanLocal([]byte("lease/"), func(_, b []byte) error {
			l := &kvdpb.LeaseRecord{}
			require.NoError(t, proto.Unmarshal(b, l))
			require.True(t, keyspace.Span{Start: d.Start, End: d.End}.Contains(keyspace.Lease(l.Id)))
			records[l.Id] = l
			locals[d.Shard] = append(locals[d.Shard], b...)
			return nil
		}))
		sn := s.NewSnapshot()
		for _, id := range []int64{77, -5, 99, 3} {
			require.NoError(t, sn.Leased(id, keyspace.Users(), func(key []byte) bool {
				user, ok := keyspace.UserKey(key)
				require.True(t, ok)
				keys[id] = append(keys[id], string(user))
				return true
			}))
		}
		sn.Close()
		require.NoError(t, s.Close())
	}
	return records, keys, locals
}
