package shard

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kvd-io/kvd/mvcc/keyspace"
)

func TestBalancedKey(t *testing.T) {
	all := keyspace.Users()
	key := func(i int) []byte { return keyspace.User(fmt.Appendf(nil, "%04d", i)) }
	var s samples
	require.Nil(t, s.balanced(all))
	for i := range balancedSamples - 1 {
		s.take(key(i))
	}
	require.Nil(t, s.balanced(all), "too few to tell")
	for i := range 10 * sampleKeys {
		s.take(key(1000 + i*7%100))
	}
	require.Len(t, s.mu.keys, sampleKeys)
	require.EqualValues(t, (balancedSamples-1+10*sampleKeys)*sampleEvery, s.writes())
	got := s.balanced(all)
	require.GreaterOrEqual(t, string(got), string(key(1040)))
	require.LessOrEqual(t, string(got), string(key(1060)))
	require.Nil(t, s.balanced(keyspace.Span{Start: key(2000), End: all.End}), "nothing of it is here")

	// One hot key: there is no use in cutting beside it.
	for i := range sampleKeys {
		if i%5 == 0 {
			s.take(key(i))
		} else {
			s.take(key(500))
		}
	}
	require.Nil(t, s.balanced(all))
	require.Nil(t, s.balanced(keyspace.Span{Start: key(500), End: key(501)}))

	// Two hot keys are separated.
	for i := range sampleKeys {
		s.take(key(500 + i%2))
	}
	require.Equal(t, key(501), s.balanced(all))
}
