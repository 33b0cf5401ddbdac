package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestShowKey(t *testing.T) {
	for key, want := range map[string]string{
		"/debian/x":   "/debian/x",
		"mit Blank":   "mit Blank",
		"ü":           "ü",
		" front":      `" front"`,
		"tail\t":      `"tail\t"`,
		"a\x00":       `"a\x00"`,
		"\xff":        `"\xff"`,
		`"quoted"`:    `"\"quoted\""`,
		`in"side\x00`: `in"side\x00`,
		"\u200b":      `"\u200b"`,
		"":            `""`,
	} {
		require.Equal(t, want, showKey([]byte(key)))
	}
	require.Equal(t, "(internal lease)", showBound([]byte("lease"), true, "end"))
	require.Equal(t, "(start)", showBound(nil, false, "start"))
	require.Equal(t, `"(end)"`, showBound([]byte("(end)"), false, "end"), "a key is not taken for the end")
}

func TestShowSize(t *testing.T) {
	for size, want := range map[int64]string{
		-1: "?", 0: "0 B", 999: "999 B", 1000: "1.0 kB", 9949: "9.9 kB", 9950: "10 kB", 999499: "999 kB", 999500: "1.0 MB",
		20480: "20 kB", 5_000_000_000: "5.0 GB", 1 << 62: "4612 PB",
	} {
		require.Equal(t, want, showSize(size), size)
	}
}

func FuzzKeysAreReadAsTheyAreShown(f *testing.F) {
	f.Add([]byte("a\x00b"))
	f.Add([]byte(`"x`))
	f.Fuzz(func(t *testing.T, key []byte) {
		if len(key) == 0 {
			return
		}
		again, err := readKey(showKey(key), false)
		if err != nil || string(again) != string(key) {
			t.Fatalf("%q is shown as %s and read as %q: %v", key, showKey(key), again, err)
		}
	})
}
