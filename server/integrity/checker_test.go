package integrity

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestWhoIsWrong: more than half of all replicas are right; where there is no such
// half, whoever owns the shard is.
func TestWhoIsWrong(t *testing.T) {
	for _, c := range []struct {
		name     string
		replicas int
		hashes   hashes
		wrong    []uint64
		alone    bool
	}{
		{"all the same", 3, hashes{1: 7, 2: 7, 3: 7}, nil, false},
		{"one differs", 3, hashes{1: 7, 2: 7, 3: 8}, []uint64{3}, false},
		{"the owner differs", 3, hashes{1: 9, 2: 7, 3: 7}, []uint64{1}, true},
		{"one is not there", 3, hashes{1: 7, 2: 8}, []uint64{2}, true},
		{"all differ", 3, hashes{1: 7, 2: 8, 3: 9}, []uint64{2, 3}, true},
		{"two of two", 2, hashes{1: 7, 2: 8}, []uint64{2}, true},
		{"two of five that can be asked agree", 5, hashes{1: 7, 2: 8, 3: 8}, []uint64{2, 3}, true},
		{"three of five", 5, hashes{1: 7, 2: 8, 3: 8, 4: 8}, []uint64{1}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			found := comparison{own: 1, replicas: c.replicas, hashes: c.hashes}
			want := map[uint64]bool{}
			for _, member := range c.wrong {
				want[member] = true
			}
			require.Equal(t, want, found.wrong())
			require.Equal(t, c.alone, found.alone())
			// The same of lease records, whose keys are alike.
			found = comparison{own: 1, replicas: c.replicas, hashes: hashes{1: 5, 2: 5, 3: 5}, leases: c.hashes}
			require.Equal(t, want, found.wrong())
			require.Equal(t, c.alone, found.alone())
		})
	}
	// A replica whose lease records cannot be compared is not judged.
	found := comparison{own: 1, replicas: 3, hashes: hashes{1: 7, 2: 7, 3: 7}, leases: hashes{1: 9}}
	require.Empty(t, found.wrong())
	require.False(t, found.alone())
}
