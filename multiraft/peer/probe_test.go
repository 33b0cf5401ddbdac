package peer

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

// A probe learns what a member would be told, is answered before the member is ready for frames, and leaves nothing behind.
func TestProbe(t *testing.T) {
	n := newTestNet(t)
	m := n.member(2, func(c *Config) {
		c.Allowed = func(from uint64) error {
			switch from {
			case 5:
				return ErrRemoved
			case 6:
				return errors.New("no member")
			}
			return nil
		}
		c.Began = func(from uint64) bool { return from == 4 }
	})
	require.NoError(t, m.Start())
	url := n.addresses(2)[0]
	probe := func(cluster, from, to uint64) *RefusedError {
		t.Helper()
		err := Probe(testContext(t), url, nil, cluster, from, to)
		var refused *RefusedError
		if err != nil && !errors.As(err, &refused) {
			t.Fatal(err)
		}
		return refused
	}
	require.Nil(t, probe(testCluster, 3, 2))
	require.True(t, probe(testCluster, 4, 2).Began())
	require.True(t, probe(testCluster, 5, 2).Removed())
	require.True(t, probe(testCluster, 6, 2).NotAllowed())
	require.True(t, probe(0xc2, 4, 2).ClusterMismatch())
	require.False(t, probe(testCluster, 4, 7).Began(), "another member than the one that was meant")
	for _, s := range m.Peers() {
		require.Zero(t, s.Incoming)
	}
	m.Close()
	err := Probe(testContext(t), url, nil, testCluster, 3, 2)
	var refused *RefusedError
	require.Error(t, err)
	require.False(t, errors.As(err, &refused), "nobody is there")
}
