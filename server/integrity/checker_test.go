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
		hashes   map[uint64]uint32
		wrong    []uint64
		alone    bool
	}{
		{"all the same", 3, map[uint64]uint32{1: 7, 2: 7, 3: 7}, nil, false},
		{"one differs", 3, map[uint64]uint32{1: 7, 2: 7, 3: 8}, []uint64{3}, false},
		{"the owner differs", 3, map[uint64]uint32{1: 9, 2: 7, 3: 7}, []uint64{1}, true},
		{"one is not there", 3, map[uint64]uint32{1: 7, 2: 8}, []uint64{2}, true},
		{"all differ", 3, map[uint64]uint32{1: 7, 2: 8, 3: 9}, []uint64{2, 3}, true},
		{"two of two", 2, map[uint64]uint32{1: 7, 2: 8}, []uint64{2}, true},
		{"two of five that can be asked agree", 5, map[uint64]uint32{1: 7, 2: 8, 3: 8}, []uint64{2, 3}, true},
		{"three of five", 5, map[uint64]uint32{1: 7, 2: 8, 3: 8, 4: 8}, []uint64{1}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			found := comparison{own: 1, replicas: c.replicas, hashes: c.hashes}
			want := map[uint64]bool{}
			for _, member := range c.wrong {
				want[member] = true
			}
			require.Equal(t, want, found.wrong())
			require.Equal(t, c.alone, found.alone())
		})
	}
}
