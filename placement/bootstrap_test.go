package placement

import (
	"fmt"
	"testing"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
)

// The ids that etcd itself computes for its defaults.
func TestBootstrapHasEtcdsIDs(t *testing.T) {
	c, err := Bootstrap("default=http://localhost:2380", "etcd-cluster", nil)
	require.NoError(t, err)
	require.Equal(t, "8e9e05c52164694d", fmt.Sprintf("%016x", c.Member("default").Id))
	require.Equal(t, "cdf818194e3a8c32", fmt.Sprintf("%016x", c.ID))
	require.Equal(t, map[uint64]uint64{1: 0x8e9e05c52164694d}, c.Voters())
	require.Len(t, c.Init.Shards, 1)
	require.EqualValues(t, FirstShard, c.Init.Shards[0].Shard)
	require.Nil(t, c.Member("other"))
}

func TestBootstrapIsTheSameEverywhere(t *testing.T) {
	a, err := Bootstrap("a=http://h1:1,a=http://h1:2,b=http://h2:1,c=http://h3:1", "tok", [][]byte{[]byte("m"), []byte("d")})
	require.NoError(t, err)
	b, err := Bootstrap("c=http://h3:1,b=http://h2:1,a=http://h1:2,a=http://h1:1", "tok", [][]byte{[]byte("d"), []byte("m")})
	require.NoError(t, err)
	require.True(t, proto.Equal(a.Init, b.Init))
	require.Equal(t, []string{"http://h1:1", "http://h1:2"}, a.Member("a").PeerUrls)
	other, err := Bootstrap("a=http://h1:1,a=http://h1:2,b=http://h2:1,c=http://h3:1", "tok2", nil)
	require.NoError(t, err)
	require.NotEqual(t, a.ID, other.ID)

	require.Len(t, a.Init.Shards, 3)
	require.Equal(t, keyspace.User([]byte("d")), a.Init.Shards[0].End)
	for _, d := range a.Init.Shards {
		require.Len(t, d.Replicas, 3)
	}
	s := NewState()
	want(t, none, do(s, a.Init))
	require.EqualValues(t, 5, s.nextShard)
}

func TestBootstrapOfManyMembers(t *testing.T) {
	urls := ""
	for i := range 7 {
		urls += fmt.Sprintf("m%d=http://h%d:2380,", i, i)
	}
	c, err := Bootstrap(urls[:len(urls)-1], "tok", [][]byte{[]byte("k")})
	require.NoError(t, err)
	require.Len(t, c.Members, 7)
	require.Len(t, c.Voters(), maxVoters)
	for _, d := range c.Init.Shards {
		require.Len(t, d.Replicas, maxReplicas)
	}
	require.NotEqual(t, c.Init.Shards[0].Replicas[0].Member, c.Init.Shards[1].Replicas[0].Member)
}

func TestBootstrapRefusesBadFlags(t *testing.T) {
	for _, bad := range []string{"", "a", "a=", "a=localhost:2380", "a=ftp://h:1", "a=http://h", "a=http://h:1/path",
		"a=http://h:1,b=http://h:1", "=http://h:1,x"} {
		_, err := Bootstrap(bad, "tok", nil)
		require.Error(t, err, "%q", bad)
	}
	for _, keys := range [][][]byte{{nil}, {[]byte("a"), []byte("a")}} {
		_, err := Bootstrap("a=http://h:1", "tok", keys)
		require.Error(t, err, "%q", keys)
	}
}
