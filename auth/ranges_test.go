package auth

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

// The twin looks at every key of a tiny key space.
const twinKeys = 7

func twinKey(i int) []byte { return []byte{'a' + byte(i)} }

// inRange is etcd's meaning of key and range end for key i.
func inRange(i int, key, end []byte) bool {
	k := string(twinKey(i))
	switch {
	case len(end) == 0:
		return k == string(key)
	case len(end) == 1 && end[0] == 0:
		return k >= string(key)
	}
	return k >= string(key) && k < string(end)
}

// TestRangesAgainstTwin: a request is covered exactly if every key of its range is
// permitted by some interval. Requests and permissions are of whole letters; what
// lies between two letters follows the letter before, except for single keys.
func TestRangesAgainstTwin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(what string, points bool) (key, end []byte) {
			a := rapid.IntRange(0, twinKeys-1).Draw(t, what+" from")
			switch rapid.IntRange(0, 2).Draw(t, what+" kind") {
			case 0:
				if points {
					return twinKey(a), nil
				}
			case 1:
				return twinKey(a), []byte{0}
			}
			b := rapid.IntRange(a+1, twinKeys).Draw(t, what+" to")
			return twinKey(a), twinKey(b)
		}
		var all []interval
		permitted := map[int]bool{}
		beyond := false
		for i := range rapid.IntRange(0, 6).Draw(t, "permissions") {
			key, end := draw(fmt.Sprint("permission ", i), false)
			all = append(all, intervalOf(key, end))
			for k := range twinKeys {
				permitted[k] = permitted[k] || inRange(k, key, end)
			}
			beyond = beyond || (len(end) == 1 && end[0] == 0)
		}
		r := newRanges(all)
		for i := 1; i < len(r); i++ {
			if r[i-1].end == nil || string(r[i-1].end) >= string(r[i].start) {
				t.Fatalf("intervals %q and %q overlap or touch", r[i-1], r[i])
			}
		}
		key, end := draw("request", true)
		want := true
		for k := range twinKeys {
			want = want && (!inRange(k, key, end) || permitted[k])
		}
		if len(end) == 1 && end[0] == 0 {
			want = want && beyond
		}
		if got := r.cover(key, end); got != want {
			t.Fatalf("%q to %q in %q: %v, want %v", key, end, r, got, want)
		}
	})
}

func TestSingleKeyPermits(t *testing.T) {
	r := newRanges([]interval{intervalOf([]byte("k"), nil)})
	for _, c := range []struct {
		key, end string
		want     bool
	}{
		{"k", "", true}, {"k", "k\x00", true}, {"k", "l", false}, {"k\x00", "", false}, {"j", "", false}, {"k", "\x00", false},
	} {
		if got := r.cover([]byte(c.key), []byte(c.end)); got != c.want {
			t.Errorf("%q to %q: %v", c.key, c.end, got)
		}
	}
}
