package keyspace

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestUserSpanHasEtcdsMeaning(t *testing.T) {
	for _, tc := range []struct {
		name          string
		key, rangeEnd string
		in, out       []string
	}{
		{"one key", "a", "", []string{"a"}, []string{"a\x00", "`", "b"}},
		{"half open", "a", "c", []string{"a", "b", "b\xff"}, []string{"c", "`"}},
		{"to the end", "b", "\x00", []string{"b", "c", "\xff\xff"}, []string{"a"}},
		{"all", "\x00", "\x00", []string{"\x00", "a", "\xff"}, nil},
		{"backward", "b", "a", nil, []string{"a", "b", "c"}},
		{"nothing", "b", "b", nil, []string{"a", "b", "c"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := UserSpan([]byte(tc.key), []byte(tc.rangeEnd))
			require.Equal(t, len(tc.in) == 0, s.Empty())
			for _, k := range tc.in {
				require.True(t, s.Contains(User([]byte(k))), "%q in %v", k, s)
			}
			for _, k := range tc.out {
				require.False(t, s.Contains(User([]byte(k))), "%q in %v", k, s)
			}
			require.False(t, s.Contains(Internal([]byte("x"))))
			require.Equal(t, tc.rangeEnd == "", s.IsKey())
		})
	}
}

func TestInternalSortsAfterUser(t *testing.T) {
	user, internal := User(bytes.Repeat([]byte{0xff}, 64)), Internal(nil)
	require.Negative(t, bytes.Compare(user, internal))
	require.True(t, All().Contains(user))
	require.True(t, All().Contains(internal))
	require.True(t, Users().Contains(user))
	require.False(t, Users().Contains(internal))
	_, ok := UserKey(internal)
	require.False(t, ok)
	name, ok := InternalName(Internal([]byte("n")))
	require.True(t, ok)
	require.Equal(t, "n", string(name))
}

func TestFormat(t *testing.T) {
	require.Equal(t, "[/min, /max)", All().String())
	require.Equal(t, `["a", "a\x00")`, UserSpan([]byte("a"), nil).String())
	require.Equal(t, `["a", /user-end)`, UserSpan([]byte("a"), []byte{0}).String())
	require.Equal(t, `internal:"l"`, Format(Internal([]byte("l"))))
	require.Equal(t, `invalid:""`, Format(nil))
}

// TestSpanAlgebraAgainstSets compares the span operations with sets of keys
// over a small alphabet.
func TestSpanAlgebraAgainstSets(t *testing.T) {
	var keys [][]byte
	for _, p := range []byte{1, 2} {
		for a := byte(0); a < 3; a++ {
			keys = append(keys, []byte{p, a}, []byte{p, a, 0}, []byte{p, a, 1})
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		bound := rapid.SampledFrom(append([][]byte{Min(), UserEnd(), Max()}, keys...))
		a := Span{bound.Draw(t, "as"), bound.Draw(t, "ae")}
		b := Span{bound.Draw(t, "bs"), bound.Draw(t, "be")}
		i, overlaps := a.Intersect(b), false
		subset := true
		for _, k := range keys {
			both := a.Contains(k) && b.Contains(k)
			overlaps = overlaps || both
			subset = subset && (a.Contains(k) || !b.Contains(k))
			if i.Contains(k) != both {
				t.Fatalf("%v in %v ∩ %v = %v", k, a, b, i)
			}
		}
		if overlaps && !a.Overlaps(b) {
			t.Fatalf("%v overlaps %v", a, b)
		}
		if a.Overlaps(b) != !i.Empty() || !i.Equal(b.Intersect(a)) {
			t.Fatalf("%v, %v: intersection %v", a, b, i)
		}
		if a.ContainsSpan(b) && !subset {
			t.Fatalf("%v does not contain %v", a, b)
		}
	})
}

func FuzzUserKey(f *testing.F) {
	f.Add([]byte(nil), []byte(nil))
	f.Add([]byte{1}, []byte{0})
	f.Add([]byte{1, 0xff}, []byte{0xff})
	f.Fuzz(func(t *testing.T, a, b []byte) {
		if k, ok := UserKey(a); ok && !bytes.Equal(User(k), a) {
			t.Fatalf("%x decodes to %x", a, k)
		}
		if k, ok := UserKey(User(a)); !ok || !bytes.Equal(k, a) {
			t.Fatalf("%x does not survive", a)
		}
		s := UserSpan(a, b)
		_ = s.String()
		if !Users().ContainsSpan(s) {
			t.Fatalf("%v leaves the user space", s)
		}
	})
}
