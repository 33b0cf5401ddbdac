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

// unknown finds listed tests that the suite, which has these names, does not have.
func (e expected) unknown(names []string) error {
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
	var flaky, late []string
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
			if len(r.before) > 0 {
				flaky = append(flaky, fmt.Sprintf("%s/%s: %s", mode, name, r.verdict()))
			}
			for i, b := range r.before {
				fmt.Printf("\n=== output of try %d of %s/%s, which %s\n%s", i+1, mode, name, b.fault, b.output())
			}
		case r.late != "":
			late = append(late, fmt.Sprintf("%s/%s: %s", mode, name, r.late))
			fmt.Printf("\n=== output of %s/%s\n%s", mode, name, r.output())
		case listed:
			known++
		default:
			wrong = append(wrong, fmt.Sprintf("%s/%s: %s", mode, name, r.verdict()))
			fmt.Printf("\n=== output of %s/%s\n%s", mode, name, r.output())
		}
	}
	fmt.Printf("\nmode %s: %d of %d tests pass, %d fail as listed, %d are not as listed; %s; everything is in %s\n",
		mode, passed, len(names)-skipped, known, len(wrong), took, log)
	if len(flaky) > 0 {
		fmt.Printf("flaky, which did not pass at the first try:\n  %s\n", strings.Join(flaky, "\n  "))
	}
	if len(late) > 0 {
		fmt.Printf("excused:\n  %s\n", strings.Join(late, "\n  "))
	}
	return wrong
}

// leastShare of the chosen tests must have passed, however slow the machine is: one in so many.
const leastShare = 4

// split tells the tests that were begun from those for which no time was left.
func split(names []string, results map[string]*result) (begun, left []string) {
	for _, name := range names {
		if results[name] == nil {
			left = append(left, name)
		} else {
			begun = append(begun, name)
		}
	}
	return begun, left
}

// reportLeft names the tests for which no time was left, and returns what is wrong if too few passed, because of that or
// because they were excused.
func reportLeft(mode string, begun, left []string, results map[string]*result, budget fmt.Stringer) []string {
	all := len(begun) + len(left)
	if len(left) > 0 {
		fmt.Printf("not run, because %v had passed: %d of %d tests\n  %s\n", budget, len(left), all, strings.Join(left, "\n  "))
	}
	passed, excused := 0, 0
	for _, name := range begun {
		switch r := results[name]; {
		case r.late != "":
			excused++
		case !r.failed():
			passed++
		}
	}
	if (len(left) > 0 || excused > 0) && passed*leastShare < all {
		return []string{fmt.Sprintf("%s: only %d of %d tests passed, %d were excused and %d not run", mode, passed, all, excused, len(left))}
	}
	return nil
}
