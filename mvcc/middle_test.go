package mvcc

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kvd-io/kvd/mvcc/keyspace"
)

func TestMiddleKey(t *testing.T) {
	ctx := context.Background()
	e := newTestEngine(t)
	middle := func(s *Store, span keyspace.Span) []byte {
		t.Helper()
		require.NoError(t, s.Flush())
		k, err := s.MiddleKey(ctx, span)
		require.NoError(t, err)
		return k
	}
	s := openStore(t, e, "even")
	require.Nil(t, middle(s, keyspace.All()), "an empty store has no middle")
	noise := func(i, n int) string {
		b := make([]byte, n)
		x := uint32(i)*2654435761 + 1
		for j := range b {
			x ^= x << 13
			x ^= x >> 17
			x ^= x << 5
			b[j] = byte(x)
		}
		return string(b)
	}
	for i := range 400 {
		apply(t, s, int64(i+2), put(fmt.Sprintf("%04d", i), noise(i, 4096), 1))
	}
	got := middle(s, keyspace.All())
	require.Greater(t, string(got), string(key("0150")))
	require.Less(t, string(got), string(key("0250")))
	got = middle(s, keyspace.Span{Start: key("0200"), End: key("0400")})
	require.Greater(t, string(got), string(key("0250")))
	require.Less(t, string(got), string(key("0350")))
	require.Nil(t, middle(s, keyspace.Key(key("0007"))), "there is no boundary inside one key")

	// By size, and not by number.
	s = openStore(t, e, "odd")
	for i := range 400 {
		size := 16
		if i >= 300 {
			size = 16 << 10
		}
		apply(t, s, int64(i+2), put(fmt.Sprintf("%04d", i), noise(i, size), 1))
	}
	got = middle(s, keyspace.All())
	require.Greater(t, string(got), string(key("0325")))
	require.Less(t, string(got), string(key("0375")))

	// One key that is almost everything: the boundary lies beside it.
	s = openStore(t, e, "one")
	apply(t, s, 2, put("a", "1", 1))
	for i := range 50 {
		apply(t, s, int64(i+3), put("m", noise(i, 32<<10), int64(i+1)))
	}
	apply(t, s, 60, put("z", "1", 1))
	got = middle(s, keyspace.All())
	require.Contains(t, []string{string(key("m")), string(key("z"))}, string(got))
}
