package backup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kvd-io/kvd/backup/etcdfile"
	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/server/datadir"
	"github.com/kvd-io/kvd/shard/manager"
)

const threeMembers = "m1=http://127.0.0.1:1,m2=http://127.0.0.1:2,m3=http://127.0.0.1:3"

// snapshotFile writes a file of n keys, most of them with two versions, some
// deleted. rows, if given, adds to it.
func snapshotFile(t *testing.T, n int, c *etcdfile.Contents, rows func(w *etcdfile.Writer)) string {
	t.Helper()
	w, err := etcdfile.Create(filepath.Join(t.TempDir(), "db"))
	require.NoError(t, err)
	rev := int64(1)
	put := func(kv etcdfile.KeyValue, dead bool) {
		rev++
		if !dead {
			kv.Mod = rev
			if kv.Create == 0 {
				kv.Create = rev
			}
		}
		require.NoError(t, w.Row(etcdfile.AppendRevision(nil, etcdfile.Revision{Main: rev, Tombstone: dead}), etcdfile.AppendKeyValue(nil, &kv)))
	}
	for i := range n {
		key := fmt.Appendf(nil, "key-%05d", (i*7919)%n)
		put(etcdfile.KeyValue{Key: key, Value: bytes.Repeat([]byte("v"), 100), Version: 1}, false)
		created := rev
		switch i % 3 {
		case 0:
			put(etcdfile.KeyValue{Key: key, Value: []byte("second"), Version: 2, Create: created}, false)
		case 1:
			put(etcdfile.KeyValue{Key: key}, true)
		}
	}
	if rows != nil {
		rows(w)
	}
	require.NoError(t, w.Finish(c))
	var out bytes.Buffer
	require.NoError(t, w.WriteTo(context.Background(), &out))
	require.NoError(t, w.Close())
	sum := sha256.Sum256(out.Bytes())
	path := filepath.Join(t.TempDir(), "snapshot")
	require.NoError(t, os.WriteFile(path, append(out.Bytes(), sum[:]...), 0o600))
	return path
}

func restoreConfig(t *testing.T, file, name string) RestoreConfig {
	return RestoreConfig{
		File: file, Name: name, DataDir: filepath.Join(t.TempDir(), name), InitialCluster: threeMembers, InitialClusterToken: "t",
		PeerURLs: []string{"http://127.0.0.1:" + name[1:]}, ShardBytes: 8 << 10,
	}
}

// historyOf adds up what a data directory holds, and the hashes of its shards.
func historyOf(t *testing.T, dir string) (history uint32, shards map[uint64]uint32) {
	t.Helper()
	birth, err := ReadBirth(dir)
	require.NoError(t, err)
	e, err := mvcc.NewEngine(mvcc.EngineOptions{NoBackground: true})
	require.NoError(t, err)
	defer func() { require.NoError(t, e.Close()) }()
	shards = map[uint64]uint32{}
	for _, d := range birth.Cluster.Init.Shards {
		require.True(t, d.Restored)
		require.Equal(t, d.Replicas, d.Initial)
		for _, r := range d.Replicas {
			path := manager.StoreDir(filepath.Join(dir, manager.Dir), d.Shard, r.Replica)
			if _, err := os.Stat(path); err != nil {
				continue
			}
			s, err := e.Open(path)
			require.NoError(t, err)
			require.Zero(t, s.AppliedIndex(), "a group's first entry must find nothing applied")
			require.Equal(t, birth.Cluster.Init.CompactRevision, s.CompactRevision())
			sn := s.NewSnapshot()
			sum, err := sn.Hash(t.Context(), keyspace.All(), 0)
			require.NoError(t, err)
			sn.Close()
			require.NoError(t, s.Close())
			shards[d.Shard] = sum
			history += sum
		}
	}
	return history, shards
}

// Every member restores the same shards with the same contents, whatever each of
// them is cut into.
func TestRestoreIsTheSameOnAllMembers(t *testing.T) {
	file := snapshotFile(t, 600, &etcdfile.Contents{}, nil)
	var want map[uint64]uint32
	var whole uint32
	var first *Restored
	for _, name := range []string{"m1", "m2", "m3"} {
		cfg := restoreConfig(t, file, name)
		done, err := Restore(t.Context(), cfg)
		require.NoError(t, err)
		require.Greater(t, done.Shards, 5)
		require.EqualValues(t, 1+600+400, done.Revision)
		history, shards := historyOf(t, cfg.DataDir)
		require.Len(t, shards, done.Shards)
		if first == nil {
			first, whole, want = done, history, shards
		}
		require.Equal(t, want, shards)
		require.Equal(t, first.ClusterID, done.ClusterID)
		d, err := datadir.Open(cfg.DataDir)
		require.NoError(t, err)
		require.EqualValues(t, done.MemberID, d.Stamp().MemberID)
		require.NoError(t, d.Close())
	}
	// Cut in another way it is the same history, and another file is another cluster.
	cfg := restoreConfig(t, file, "m1")
	cfg.ShardBytes = 1 << 30
	one, err := Restore(t.Context(), cfg)
	require.NoError(t, err)
	require.Equal(t, 1, one.Shards)
	history, _ := historyOf(t, cfg.DataDir)
	require.Equal(t, whole, history)
	cfg = restoreConfig(t, snapshotFile(t, 601, &etcdfile.Contents{}, nil), "m1")
	other, err := Restore(t.Context(), cfg)
	require.NoError(t, err)
	require.NotEqual(t, first.ClusterID, other.ClusterID)
	require.NotEqual(t, first.MemberID, other.MemberID)
}

func TestRestoreBumpsTheRevision(t *testing.T) {
	cfg := restoreConfig(t, snapshotFile(t, 10, &etcdfile.Contents{CompactRevision: 3}, nil), "m1")
	cfg.BumpRevision, cfg.MarkCompacted = 1000, true
	done, err := Restore(t.Context(), cfg)
	require.NoError(t, err)
	require.EqualValues(t, 1+10+4+3+1000, done.Revision, "10 puts, 4 second ones, 3 deletions")
	require.Equal(t, done.Revision, done.Compacted)
	birth, err := ReadBirth(cfg.DataDir)
	require.NoError(t, err)
	require.Equal(t, done.Revision, birth.Cluster.Init.Revision)
	require.Equal(t, done.Revision, birth.Cluster.Init.CompactRevision)
}

func TestRestoreRefusals(t *testing.T) {
	good := snapshotFile(t, 20, &etcdfile.Contents{}, nil)
	whole, err := os.ReadFile(good)
	require.NoError(t, err)
	write := func(b []byte) string {
		path := filepath.Join(t.TempDir(), "f")
		require.NoError(t, os.WriteFile(path, b, 0o600))
		return path
	}
	flipped := bytes.Clone(whole)
	flipped[len(flipped)/2] ^= 0x40
	for name, tc := range map[string]struct {
		change func(c *RestoreConfig)
		want   string
	}{
		"truncated":         {func(c *RestoreConfig) { c.File = write(whole[:len(whole)/2]) }, "corrupt"},
		"flipped":           {func(c *RestoreConfig) { c.File = write(flipped) }, "corrupt"},
		"no checksum":       {func(c *RestoreConfig) { c.File = write(whole[:len(whole)-sha256.Size]) }, "--skip-hash-check"},
		"v2":                {func(c *RestoreConfig) { c.File = write([]byte(`{"action":"get"}`)) }, "v2"},
		"missing":           {func(c *RestoreConfig) { c.File = "/nowhere" }, "no such file"},
		"bump alone":        {func(c *RestoreConfig) { c.BumpRevision = 5 }, "--mark-compacted required"},
		"mark alone":        {func(c *RestoreConfig) { c.MarkCompacted = true }, "--mark-compacted required"},
		"not in cluster":    {func(c *RestoreConfig) { c.Name = "m9" }, "couldn't find local name"},
		"other URL":         {func(c *RestoreConfig) { c.PeerURLs = []string{"http://127.0.0.1:9"} }, "--initial-advertise-peer-urls"},
		"bad cluster":       {func(c *RestoreConfig) { c.InitialCluster = "m1=::" }, "--initial-cluster"},
		"wal-dir in use":    {func(c *RestoreConfig) { c.WALDir = filepath.Dir(good) }, "not empty"},
		"directory in use":  {func(c *RestoreConfig) { c.DataDir = filepath.Dir(good) }, "not empty"},
		"a key twice":       {func(c *RestoreConfig) { c.File = twice(t) }, "twice"},
		"put of no version": {func(c *RestoreConfig) { c.File = broken(t) }, "corrupt"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := restoreConfig(t, good, "m1")
			tc.change(&cfg)
			_, err := Restore(t.Context(), cfg)
			require.ErrorContains(t, err, tc.want)
			if name != "directory in use" && name != "wal-dir in use" {
				require.NoDirExists(t, cfg.DataDir, "nothing was written")
			}
		})
	}
	require.FileExists(t, good)
}

func twice(t *testing.T) string {
	return snapshotFile(t, 3, &etcdfile.Contents{}, func(w *etcdfile.Writer) {
		for sub := range int64(2) {
			require.NoError(t, w.Row(etcdfile.AppendRevision(nil, etcdfile.Revision{Main: 90, Sub: sub}),
				etcdfile.AppendKeyValue(nil, &etcdfile.KeyValue{Key: []byte("same"), Create: 90, Mod: 90, Version: 1})))
		}
	})
}

func broken(t *testing.T) string {
	return snapshotFile(t, 3, &etcdfile.Contents{}, func(w *etcdfile.Writer) {
		require.NoError(t, w.Row(etcdfile.AppendRevision(nil, etcdfile.Revision{Main: 90}),
			etcdfile.AppendKeyValue(nil, &etcdfile.KeyValue{Key: []byte("k"), Create: 90, Mod: 90})))
	})
}

// An interrupted restore is not taken for a member's directory, and the next one
// takes its place; a good one is never overwritten.
func TestInterruptedRestore(t *testing.T) {
	file := snapshotFile(t, 300, &etcdfile.Contents{}, nil)
	cfg := restoreConfig(t, file, "m1")
	d, err := datadir.BeginRestore(cfg.DataDir)
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(d.Join(manager.Dir, "2-1", "data-0"), 0o700))
	require.NoError(t, os.WriteFile(d.Join(birthName), []byte("half"), 0o600))
	_, err = Restore(t.Context(), cfg)
	require.ErrorContains(t, err, "in use by another process")
	require.NoError(t, d.Close())

	_, err = datadir.Open(cfg.DataDir)
	require.ErrorContains(t, err, "interrupted")
	_, err = Restore(t.Context(), cfg)
	require.NoError(t, err)
	before, _ := historyOf(t, cfg.DataDir)

	_, err = Restore(t.Context(), cfg)
	require.ErrorContains(t, err, "belongs to a member")
	after, _ := historyOf(t, cfg.DataDir)
	require.Equal(t, before, after)
}

// A restore that is told to stop leaves nothing that a member starts on.
func TestRestoreStopsInTheMiddle(t *testing.T) {
	file := snapshotFile(t, 5000, &etcdfile.Contents{}, nil)
	for _, after := range []int{1, 3, 9, 20} {
		cfg := restoreConfig(t, file, "m1")
		ctx := &countedContext{Context: t.Context(), left: after}
		_, err := Restore(ctx, cfg)
		require.ErrorIs(t, err, context.Canceled)
		if _, err := os.Stat(cfg.DataDir); errors.Is(err, os.ErrNotExist) {
			continue
		}
		_, err = datadir.Open(cfg.DataDir)
		require.ErrorContains(t, err, "interrupted")
		_, err = Restore(t.Context(), cfg)
		require.NoError(t, err)
	}
}

// countedContext ends when it was looked at a number of times.
type countedContext struct {
	context.Context
	left int
}

func (c *countedContext) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return nil
}

func TestSamplerCutsEvenly(t *testing.T) {
	s := sampler{step: 10}
	for i := range 10000 {
		s.add(fmt.Appendf(nil, "%04d", (i*7919)%10000), 10)
	}
	keys := s.splits(4)
	require.Len(t, keys, 3)
	for i, k := range keys {
		var at int
		_, err := fmt.Sscan(string(bytes.TrimLeft(k, "0")), &at)
		require.NoError(t, err)
		require.InDelta(t, (i+1)*2500, at, 50)
	}
	hot := sampler{step: 1}
	for range 100 {
		hot.add([]byte("one"), 10)
	}
	require.Empty(t, hot.splits(8), "one key cannot be cut")
	require.Empty(t, (&sampler{step: 1}).splits(0))
}
