package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

func TestExcerptIsUsable(t *testing.T) {
	stanzas, err := parseIndex(bytes.NewReader(excerpt))
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, s := range stanzas {
		if !strings.HasPrefix(s.key, prefix) || strings.Count(s.key, "/") < 3 || len(s.text) < 100 {
			t.Errorf("odd stanza %q of %d bytes", s.key, len(s.text))
		}
		keys = append(keys, s.key)
	}
	slices.Sort(keys)
	keys = slices.Compact(keys)
	if len(keys) < 100 {
		t.Fatalf("only %d packages", len(keys))
	}
	b := boundaries(keys, 8)
	if len(b) != 7 || !slices.IsSorted(b) || len(slices.Compact(b)) != 7 || b[0] <= keys[0] || b[6] > keys[len(keys)-1] {
		t.Errorf("boundaries %q", b)
	}
}

func TestParseIndexEdges(t *testing.T) {
	got, err := parseIndex(strings.NewReader("\n\nPackage: a\nSection: x/y\n\n\nPackage: b\nDescription: c\n more"))
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0].key != "/debian/x/y/a" || got[1].key != "/debian/unknown/b" || got[1].text != "Package: b\nDescription: c\n more\n" {
		t.Errorf("got %q", got)
	}
	if _, err := parseIndex(strings.NewReader("Section: x\n")); err == nil {
		t.Error("a stanza without a package was accepted")
	}
}
