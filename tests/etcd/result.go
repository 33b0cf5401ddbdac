package main

import (
	"fmt"
	"regexp"
	"strings"
)

// event is a line of test2json.
type event struct {
	Action, Test, Output string
}

// result is what came of one test with all its parts.
type result struct {
	ended bool
	// skipped: the test skips itself on etcd as well.
	skipped bool
	// fault says what is wrong; empty if the test passed.
	fault string
	lines []string
	// last is the last line of each part, for the reason of a skip.
	last map[string]string
	// late says why a failure is excused: the machine is too slow for the test's own limit.
	late string
	// before are the tries that failed before this one.
	before []*result
}

// skippedOnEtcd are tests that etcd has not written yet: they only skip themselves.
var skippedOnEtcd = regexp.MustCompile(`^Test(Downgrade|MoveLeader|Snapshot)With(No|Invalid|Root|User)Auth$`)

// maxLines bounds what is kept of a test's output in memory; the log has all of it.
const maxLines = 400

// etcdSkips are the reasons for which etcd's tests skip parts of themselves on etcd as well.
var etcdSkips = []string{"Skipping test for single-member cluster", "options not supported by RangeStream"}

// take adds an event to the results of tests.
func take(results map[string]*result, e *event) {
	if e.Test == "" {
		return
	}
	name, _, part := strings.Cut(e.Test, "/")
	r := results[name]
	if r == nil {
		r = &result{last: map[string]string{}}
		results[name] = r
	}
	switch e.Action {
	case "output":
		r.lines = append(r.lines, e.Output)
		if len(r.lines) > maxLines {
			r.lines = r.lines[len(r.lines)-maxLines:]
		}
		if !strings.HasPrefix(strings.TrimSpace(e.Output), "---") {
			r.last[e.Test] = strings.TrimSpace(e.Output)
		}
	case "skip":
		if !part && skippedOnEtcd.MatchString(name) {
			r.ended, r.skipped = true, true
			return
		}
		if why := r.last[e.Test]; !skipsOnEtcd(why) && r.fault == "" {
			r.fault = fmt.Sprintf("skips itself: %q", why)
		}
		r.ended = r.ended || !part
	case "fail":
		if !part {
			r.ended, r.fault = true, "fails"
		}
	case "pass":
		r.ended = r.ended || !part
	}
}

func skipsOnEtcd(why string) bool {
	for _, known := range etcdSkips {
		if strings.Contains(why, known) {
			return true
		}
	}
	return false
}

func (r *result) passed() bool { return r.ended && r.fault == "" }

func (r *result) failed() bool { return !r.passed() && !r.skipped }

// verdict says what came of a test, in a few words.
func (r *result) verdict() string {
	switch {
	case r.skipped:
		return "skipped, as on etcd"
	case r.late != "":
		return "excused, because " + r.late
	case r.failed() && len(r.before) > 0:
		return fmt.Sprintf("%s, %d times", r.fault, len(r.before)+1)
	case r.failed():
		return r.fault
	case len(r.before) > 0:
		return fmt.Sprintf("ok at try %d", len(r.before)+1)
	}
	return "ok"
}

func (r *result) output() string { return strings.Join(r.lines, "") }
