package mvcc

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kvd-io/kvd/mvcc/keyspace"
)

// FuzzDecode feeds every decoder of bytes on disk: none panics, and what one
// accepts is what its encoder would write.
func FuzzDecode(f *testing.F) {
	e := &Effect{Key: key("k"), Value: []byte("v"), Create: 3, Version: 2, Lease: -1}
	f.Add(appendVersionHeader(nil, 9, 300, e))
	f.Add(appendVersionHeader(nil, 9, 1, del("k")))
	f.Add(appendVersionKey(nil, key("k"), 9))
	f.Add(appendIndexKey(nil, 9, 5))
	f.Add(appendIndexKey(nil, 9, 5000))
	f.Add(appendLocalKey(nil, []byte("n")))
	f.Add(appendMeta(nil, &meta{applied: 1, last: 2, compact: 3, drops: 4}))
	f.Add(appendSweeps(nil, []sweep{{span: keyspace.Users(), upto: 7, drop: 1}}))
	f.Add(appendCollected(nil, 4, 5))
	f.Add([]byte{indexTombstone, 1, 'k'})
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, ok := decodeVersion(b, 1000); ok && !v.tombstone {
			require.Positive(t, v.create)
			e := &Effect{Create: v.create, Version: v.version, Lease: v.lease}
			again, ok := decodeVersion(append(appendVersionHeader(nil, 1000, v.sub, e), v.value...), 1000)
			require.True(t, ok)
			require.Equal(t, v.create, again.create)
			require.Equal(t, v.version, again.version)
			require.Equal(t, v.lease, again.lease)
			require.Equal(t, v.sub, again.sub)
			require.True(t, bytes.Equal(v.value, again.value))
		}
		if k, rev, ok := decodeVersionKey(b); ok {
			require.Equal(t, b, appendVersionKey(nil, k, rev))
		}
		if rev, sub, ok := decodeIndexKey(b); ok {
			require.Equal(t, b, appendIndexKey(nil, rev, sub))
		}
		if name, ok := decodeLocalKey(b); ok {
			require.Equal(t, b, appendLocalKey(nil, name))
		}
		if m, ok := decodeMeta(b); ok {
			require.Equal(t, b, appendMeta(nil, &m))
		}
		if list, ok := decodeSweeps(b); ok && len(b) > 0 {
			again, ok := decodeSweeps(appendSweeps(nil, list))
			require.True(t, ok)
			require.Equal(t, list, again)
		}
		if k, _, ok := decodeIndexValue(b); ok {
			require.True(t, keyspace.Valid(k))
		}
		if c, u, ok := decodeCollected(b); ok {
			require.Equal(t, b, appendCollected(nil, c, u))
		}
	})
}

// FuzzReplicaStream feeds garbage to the reader of replica streams.
func FuzzReplicaStream(f *testing.F) {
	var good bytes.Buffer
	s := openStore(f, newTestEngine(f), "db")
	fillSmall(f, s, 0, 3)
	sn := s.NewSnapshot()
	require.NoError(f, s.WriteSnapshot(sn, &good, nil))
	sn.Close()
	f.Add(good.Bytes()[len(streamHeader):])
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		in := &frameReader{r: bytes.NewReader(append([]byte(streamHeader), b...))}
		require.NoError(t, in.header())
		for {
			done, err := in.frame(func(k, v []byte) error {
				require.NoError(t, Comparer.ValidateKey(k))
				return nil
			})
			if done || err != nil {
				return
			}
		}
	})
}

// FuzzStoreKeys puts, gets and lists keys of any bytes.
func FuzzStoreKeys(f *testing.F) {
	f.Add([]byte("a"), []byte("a\x00"), []byte{})
	f.Add([]byte("a\x00\x00\x00\x00\x00\x00\x00\x00\x05\x09"), []byte("a"), []byte{9})
	f.Add(bytes.Repeat([]byte{0xff}, 20), bytes.Repeat([]byte{0}, 20), []byte{0, 9})
	f.Fuzz(func(t *testing.T, a, b, c []byte) {
		s := openStore(t, newTestEngine(t), "db")
		w := &twin{local: map[string]string{}}
		for i, k := range [][]byte{a, b, c, a} {
			k = keyspace.User(k)
			rev := int64(i + 1)
			apply(t, s, rev, w.effect(rev, 0, k, string(k), 0, false))
			w.last, w.applied = rev, w.applied+1
			if i == 1 {
				require.NoError(t, s.Flush())
			}
		}
		sn := s.NewSnapshot()
		defer sn.Close()
		spans := []keyspace.Span{keyspace.All(), keyspace.UserSpan(a, b), keyspace.UserSpan(b, nil), keyspace.UserSpan(c, []byte{0}), {Start: a, End: b}, {}}
		w.check(t, sn, spans[:4], []int64{0, 2})
		for _, sp := range spans[4:] {
			_, err := sn.Count(t.Context(), sp, 0)
			require.NoError(t, err)
		}
		_, _ = sn.Get(a, 0)
	})
}
