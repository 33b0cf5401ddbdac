package etcdfile

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/authpb"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

// sample is the contents of writeSample's files.
func sample() *Contents {
	return &Contents{
		CompactRevision: 7, ConsistentIndex: 99, Term: 3, ClusterVersion: "3.7.0",
		Members: []Member{{ID: 0xabc, Name: "m1", PeerURLs: []string{"http://127.0.0.1:1"}}},
		Alarms:  []*etcdserverpb.AlarmMember{{MemberID: 5, Alarm: etcdserverpb.AlarmType_CORRUPT}},
		Auth: Auth{
			Enabled: true, Revision: 12,
			Users: []*authpb.User{{Name: []byte("root"), Password: []byte("hash"), Roles: []string{"root"}}},
			Roles: []*authpb.Role{{Name: []byte("root")}},
		},
	}
}

// writeSample writes a file of n rows, with its checksum unless bare.
func writeSample(t testing.TB, n int, bare bool) string {
	t.Helper()
	db := filepath.Join(t.TempDir(), "db")
	w, err := Create(db)
	require.NoError(t, err)
	for i := range n {
		rev := Revision{Main: int64(i/3 + 2), Sub: int64(i % 3), Tombstone: i%10 == 9}
		kv := KeyValue{Key: fmt.Appendf(nil, "key-%d", i%97)}
		if !rev.Tombstone {
			kv.Value, kv.Create, kv.Mod, kv.Version = bytes.Repeat([]byte{byte(i)}, i%5000), rev.Main, rev.Main, 1
		}
		require.NoError(t, w.Row(AppendRevision(nil, rev), AppendKeyValue(nil, &kv)))
	}
	for i := range int64(3) {
		require.NoError(t, w.Lease(Lease{ID: 3 - i, TTL: 60, Remaining: i}))
	}
	require.NoError(t, w.Finish(sample()))
	size, err := w.Size()
	require.NoError(t, err)
	var out bytes.Buffer
	require.NoError(t, w.WriteTo(context.Background(), &out))
	require.EqualValues(t, size, out.Len())
	require.NoError(t, w.Close())
	if !bare {
		sum := sha256.Sum256(out.Bytes())
		out.Write(sum[:])
	}
	path := filepath.Join(t.TempDir(), "snapshot")
	require.NoError(t, os.WriteFile(path, out.Bytes(), 0o600))
	return path
}

func openSample(t testing.TB, path string) *Reader {
	t.Helper()
	r, err := Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

// TestReaderAgreesWithBolt compares everything that the reader sees with bbolt.
func TestReaderAgreesWithBolt(t *testing.T) {
	for _, n := range []int{0, 1, 50, 3000} {
		path := writeSample(t, n, false)
		r := openSample(t, path)
		require.NoError(t, r.VerifySum(t.Context()))
		db, err := bolt.Open(path, 0o400, &bolt.Options{ReadOnly: true})
		require.NoError(t, err)
		h := crc32.New(crc32.MakeTable(crc32.Castagnoli))
		require.NoError(t, db.View(func(tx *bolt.Tx) error {
			for err := range tx.Check() {
				t.Error(err)
			}
			return tx.ForEach(func(name []byte, b *bolt.Bucket) error {
				h.Write(name)
				c := b.Cursor()
				k, v := c.First()
				require.NoError(t, r.bucket(t.Context(), string(name), func(key, value []byte) error {
					require.Equal(t, k, key)
					require.True(t, bytes.Equal(v, value))
					h.Write(k)
					h.Write(v)
					k, v = c.Next()
					return nil
				}))
				require.Nil(t, k)
				return nil
			})
		}))
		require.NoError(t, db.Close())
		st, err := r.Status(t.Context())
		require.NoError(t, err)
		require.Equal(t, h.Sum32(), st.Hash)
		require.Equal(t, StorageVersion, st.Version)
		if n == 3000 {
			require.EqualValues(t, 1001, st.Revision)
			require.Equal(t, 97-10, st.TotalKey)
		}
	}
}

func TestContentsComeBack(t *testing.T) {
	r := openSample(t, writeSample(t, 10, false))
	got, err := r.Contents(t.Context())
	require.NoError(t, err)
	want := sample()
	require.Equal(t, want.CompactRevision, got.CompactRevision)
	require.Equal(t, want.ConsistentIndex, got.ConsistentIndex)
	require.Equal(t, want.Auth.Enabled, got.Auth.Enabled)
	require.Equal(t, want.Auth.Revision, got.Auth.Revision)
	require.True(t, proto.Equal(want.Auth.Users[0], got.Auth.Users[0]))
	require.True(t, proto.Equal(want.Auth.Roles[0], got.Auth.Roles[0]))
	require.True(t, proto.Equal(want.Alarms[0], got.Alarms[0]))
	var leases []Lease
	require.NoError(t, r.Leases(t.Context(), func(l Lease) error {
		leases = append(leases, l)
		return nil
	}))
	require.Equal(t, []Lease{{1, 60, 2}, {2, 60, 1}, {3, 60, 0}}, leases)
}

func TestWriterRefusesDisorder(t *testing.T) {
	w, err := Create(filepath.Join(t.TempDir(), "db"))
	require.NoError(t, err)
	require.NoError(t, w.Row(AppendRevision(nil, Revision{Main: 3}), nil))
	require.Error(t, w.Row(AppendRevision(nil, Revision{Main: 3}), nil))
	require.Error(t, w.Row(AppendRevision(nil, Revision{Main: 2}), nil))
	require.NoError(t, w.Close())
}

func TestChecksum(t *testing.T) {
	require.ErrorIs(t, openSample(t, writeSample(t, 10, true)).VerifySum(t.Context()), ErrCorrupt)
	path := writeSample(t, 10, false)
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	b[len(b)/2] ^= 1
	require.NoError(t, os.WriteFile(path, b, 0o600))
	require.ErrorIs(t, openSample(t, path).VerifySum(t.Context()), ErrCorrupt)
}

func TestRefusedFiles(t *testing.T) {
	whole, err := os.ReadFile(writeSample(t, 2000, false))
	require.NoError(t, err)
	for name, b := range map[string][]byte{
		"empty":     {},
		"short":     []byte("hello"),
		"text":      bytes.Repeat([]byte("no database "), 1000),
		"json (v2)": []byte(`{"action":"get","node":{"dir":true}}`),
		"zeros":     make([]byte, 1<<16),
		"cut":       whole[:len(whole)/2],
		"one page":  whole[:pageSize],
		"two pages": whole[:2*pageSize],
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "f")
			require.NoError(t, os.WriteFile(path, b, 0o600))
			r, err := Open(path)
			if err == nil {
				_, err = r.Status(t.Context())
				require.NoError(t, r.Close())
			}
			require.Error(t, err)
			t.Log(err)
		})
	}
	_, err = Open(t.TempDir())
	require.ErrorIs(t, err, ErrNotSnapshot)
	_, err = Open(filepath.Join(t.TempDir(), "missing"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestPageThatPointsToItself(t *testing.T) {
	path := writeSample(t, 3000, true)
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	hit := 0
	for at := 0; at+pageSize <= len(b); at += pageSize {
		if binary.LittleEndian.Uint16(b[at+8:]) == flagBranch {
			binary.LittleEndian.PutUint64(b[at+pageHeaderLen+8:], uint64(at/pageSize))
			hit++
		}
	}
	require.Positive(t, hit)
	require.NoError(t, os.WriteFile(path, b, 0o600))
	r := openSample(t, path)
	_, err = r.Status(t.Context())
	require.ErrorIs(t, err, ErrCorrupt)
}

func TestNewerStorageVersionIsRefused(t *testing.T) {
	require.NoError(t, checkVersion("3.5.0"))
	require.NoError(t, checkVersion("3.7.0"))
	require.ErrorContains(t, checkVersion("3.8.0"), "reads up to")
	require.ErrorContains(t, checkVersion("4.0.0"), "reads up to")
	require.ErrorIs(t, checkVersion("x"), ErrCorrupt)
}

// TestDamagedFiles flips bytes all over a file without checksum: whatever comes
// of it, it is no panic and it ends.
func TestDamagedFiles(t *testing.T) {
	whole, err := os.ReadFile(writeSample(t, 400, true))
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "f")
	rng := rand.New(rand.NewSource(1))
	for range 300 {
		b := bytes.Clone(whole)
		for range 1 + rng.Intn(4) {
			// Headers and elements stand at the beginnings of pages.
			at := rng.Intn(len(b)/pageSize)*pageSize + rng.Intn(128)
			b[at] = byte(rng.Intn(256))
		}
		require.NoError(t, os.WriteFile(path, b, 0o600))
		readAll(path)
	}
}

// readAll reads whatever a file has. Errors are what hostile files end in.
func readAll(path string) {
	r, err := Open(path)
	if err != nil {
		return
	}
	defer func() { _ = r.Close() }()
	ctx := context.Background()
	_, _ = r.Status(ctx)
	_ = r.Leases(ctx, func(Lease) error { return nil })
}

func FuzzReader(f *testing.F) {
	for _, n := range []int{0, 40} {
		b, err := os.ReadFile(writeSample(f, n, true))
		require.NoError(f, err)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "f")
		require.NoError(t, os.WriteFile(path, b, 0o600))
		readAll(path)
	})
}

func FuzzKeyValue(f *testing.F) {
	f.Add(AppendKeyValue(nil, &KeyValue{Key: []byte("k"), Value: []byte("v"), Create: 1, Mod: 2, Version: 3, Lease: -4}))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := ParseKeyValue(b)
		var want mvccpb.KeyValue
		if proto.Unmarshal(b, &want) != nil {
			return // unknown kinds of fields are read more leniently here
		}
		require.NoError(t, err)
		same := func(kv KeyValue) {
			require.True(t, bytes.Equal(want.Key, kv.Key) && bytes.Equal(want.Value, kv.Value))
			require.Equal(t, []int64{want.CreateRevision, want.ModRevision, want.Version, want.Lease}, []int64{kv.Create, kv.Mod, kv.Version, kv.Lease})
		}
		same(got)
		again, err := ParseKeyValue(AppendKeyValue(nil, &got))
		require.NoError(t, err)
		same(again)
	})
}
