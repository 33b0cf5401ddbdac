package main

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"io"
	"os/exec"
	"strings"
)

const prefix = "/debian/"

// aptHelper prints index files of apt whatever their compression.
const aptHelper = "/usr/lib/apt/apt-helper"

//go:embed testdata/packages.txt
var excerpt []byte

// stanza is one package as the index describes it.
type stanza struct {
	key  string // /debian/<section>/<package>
	text string
}

// readIndex gives the stanzas of this machine's package index, or the checked-in excerpt if it has none, and says where they come from.
func readIndex(ctx context.Context) (stanzas []stanza, source string, err error) {
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(FILENAME)", "Created-By: Packages").Output()
	if err == nil {
		files := strings.Fields(string(out))
		for _, file := range files {
			text, err := exec.CommandContext(ctx, aptHelper, "cat-file", file).Output()
			if err != nil {
				continue // listed, but not fetched
			}
			s, err := parseIndex(bytes.NewReader(text))
			if err != nil {
				return nil, "", fmt.Errorf("reading %s: %w", file, err)
			}
			stanzas = append(stanzas, s...)
		}
		if len(stanzas) > 0 {
			return stanzas, fmt.Sprintf("this machine's apt lists (%d files)", len(files)), nil
		}
	}
	stanzas, err = parseIndex(bytes.NewReader(excerpt))
	return stanzas, "the checked-in excerpt, as this machine has no apt lists", err
}

// parseIndex reads stanzas that are separated by empty lines.
func parseIndex(r io.Reader) ([]stanza, error) {
	var out []stanza
	var text strings.Builder
	var name, section string
	flush := func() error {
		if text.Len() == 0 {
			return nil
		}
		if name == "" {
			return fmt.Errorf("a stanza without a package: %.100q", text.String())
		}
		if section == "" {
			section = "unknown"
		}
		out = append(out, stanza{key: prefix + section + "/" + name, text: text.String()})
		text.Reset()
		name, section = "", ""
		return nil
	}
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 4<<20)
	for sc.Scan() {
		line := sc.Text()
		if line == "" {
			if err := flush(); err != nil {
				return nil, err
			}
			continue
		}
		if v, ok := strings.CutPrefix(line, "Package: "); ok {
			name = v
		}
		if v, ok := strings.CutPrefix(line, "Section: "); ok {
			section = v
		}
		text.WriteString(line)
		text.WriteByte('\n')
	}
	if err := sc.Err(); err != nil {
		return nil, err
	}
	if err := flush(); err != nil {
		return nil, err
	}
	return out, nil
}
