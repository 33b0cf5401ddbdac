package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// expected is the list of tests that are known to fail: the reason by test and mode.
type expected map[string]map[string]string

func readExpected(path string) (expected, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	list, err := parseExpected(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return list, nil
}

// parseExpected reads lines "mode test reason"; mode is one, split or both. Empty lines and those that begin with # are
// for readers.
func parseExpected(r io.Reader) (expected, error) {
	list := expected{}
	lines := bufio.NewScanner(r)
	for number := 1; lines.Scan(); number++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		fields := strings.Fields(line)
		if len(fields) < 3 {
			return nil, fmt.Errorf("line %d: want mode, test and reason", number)
		}
		matched := false
		for _, m := range modes {
			if fields[0] != m.name && fields[0] != "both" {
				continue
			}
			matched = true
			if list[fields[1]] == nil {
				list[fields[1]] = map[string]string{}
			}
			if _, twice := list[fields[1]][m.name]; twice {
				return nil, fmt.Errorf("line %d: %s is listed twice", number, fields[1])
			}
			list[fields[1]][m.name] = strings.Join(fields[2:], " ")
		}
		if !matched {
			return nil, fmt.Errorf("line %d: %q is no mode", number, fields[0])
		}
	}
	return list, lines.Err()
}

// unknown finds listed tests that the suite does not have. It can tell only if all tests were asked for.
func (e expected) unknown(names []string, pattern string) error {
	if pattern != "." {
		return nil
	}
	var gone []string
	for name := range e {
		if !slices.Contains(names, name) {
			gone = append(gone, name)
		}
	}
	if len(gone) > 0 {
		slices.Sort(gone)
		return fmt.Errorf("the list names tests that etcd's suite does not have: %s", strings.Join(gone, ", "))
	}
	return nil
}

// report prints what came of a mode and returns what is not as the list says.
func report(mode string, names []string, results map[string]*result, list expected, took fmt.Stringer, log string) []string {
	var wrong []string
	passed, known, skipped := 0, 0, 0
	var flaky []string
	for _, name := range names {
		r := results[name]
		reason, listed := list[name][mode]
		switch {
		case r == nil:
			wrong = append(wrong, fmt.Sprintf("%s/%s: did not run", mode, name))
		case r.passed() && listed:
			wrong = append(wrong, fmt.Sprintf("%s/%s: passes, but is listed (%s): take it off the list", mode, name, reason))
		case r.skipped:
			skipped++
		case r.passed():
			passed++
			if r.before != nil {
				flaky = append(flaky, fmt.Sprintf("%s/%s: %s", mode, name, r.before.fault))
				fmt.Printf("\n=== output of the first try of %s/%s\n%s", mode, name, r.before.output())
			}
		case listed:
			known++
		default:
			wrong = append(wrong, fmt.Sprintf("%s/%s: %s", mode, name, r.fault))
			fmt.Printf("\n=== output of %s/%s\n%s", mode, name, r.output())
		}
	}
	fmt.Printf("\nmode %s: %d of %d tests pass, %d fail as listed, %d are not as listed; %s; everything is in %s\n",
		mode, passed, len(names)-skipped, known, len(wrong), took, log)
	if len(flaky) > 0 {
		fmt.Printf("flaky, which passed at the second try:\n  %s\n", strings.Join(flaky, "\n  "))
	}
	return wrong
}
