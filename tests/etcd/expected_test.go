package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestExpectedList(t *testing.T) {
	list, err := readExpected("expected.txt")
	require.NoError(t, err, "the list that is committed")
	for name, reasons := range list {
		for _, reason := range reasons {
			require.NotContains(t, strings.ToLower(reason), "hard", name)
		}
	}

	for text, want := range map[string]string{
		"both TestA":                        "line 1: want mode, test and reason",
		"# one\n\nthree TestA why":          `line 3: "three" is no mode`,
		"one TestA why\nboth TestA why not": "line 2: TestA is listed twice",
	} {
		_, err := parseExpected(strings.NewReader(text))
		require.ErrorContains(t, err, want)
	}
	list, err = parseExpected(strings.NewReader("one TestA leases are missing\nsplit TestA transactions\nboth TestB auth\n"))
	require.NoError(t, err)
	require.Equal(t, expected{
		"TestA": {"one": "leases are missing", "split": "transactions"},
		"TestB": {"one": "auth", "split": "auth"},
	}, list)
	require.NoError(t, list.unknown([]string{"TestA", "TestB", "TestC"}))
	require.ErrorContains(t, list.unknown([]string{"TestA"}), "TestB")
}

func TestReport(t *testing.T) {
	list := expected{"TestKnown": {"one": "leases"}, "TestMended": {"one": "leases"}, "TestOther": {"split": "txn"}}
	results := map[string]*result{
		"TestGood": {ended: true}, "TestKnown": {ended: true, fault: "fails"}, "TestMended": {ended: true},
		"TestFlaky": {ended: true, before: []*result{{ended: true, fault: "fails"}}},
		"TestLate":  {ended: true, fault: "fails", late: "slow"},
		"TestFails": {ended: true, fault: "fails", before: []*result{{ended: true, fault: "fails"}}},
		"TestOther": {ended: true, fault: "fails"}, "TestSkips": {ended: true, fault: `skips itself: "no"`}, "TestCut": {},
	}
	names := []string{"TestGood", "TestFlaky", "TestLate", "TestFails", "TestKnown", "TestMended", "TestOther", "TestSkips", "TestCut", "TestGone"}
	wrong := report("one", names, results, list, time.Second, "log")
	require.Equal(t, []string{
		"one/TestFails: fails, 2 times",
		"one/TestMended: passes, but is listed (leases): take it off the list",
		"one/TestOther: fails",
		`one/TestSkips: skips itself: "no"`,
		"one/TestCut: ",
		"one/TestGone: did not run",
	}, wrong)
}

// A test is tried again only as long as it fails, as often as is allowed, and at least twice.
func TestRetry(t *testing.T) {
	good, bad, skips := &result{ended: true}, &result{ended: true, fault: "fails"}, &result{skipped: true}
	for _, c := range []struct {
		results []*result
		allowed int
		spent   bool
		tried   int
		passes  bool
	}{
		{[]*result{good}, 4, false, 1, true},
		{[]*result{skips}, 4, false, 1, false},
		{[]*result{bad, bad, good}, 4, false, 3, true},
		{[]*result{bad, bad, bad, bad, good}, 4, false, 4, false},
		{[]*result{bad, good}, 1, false, 1, false},
		{[]*result{bad, good}, 4, true, 2, true},
		{[]*result{bad, bad, good}, 4, true, 2, false},
	} {
		tried := 0
		r, err := retry(c.allowed, func() bool { return c.spent }, func(n int) (*result, error) {
			tried++
			require.Equal(t, tried, n)
			r := *c.results[n-1]
			return &r, nil
		})
		require.NoError(t, err)
		require.Equal(t, c.tried, tried)
		require.Equal(t, c.passes, r.passed())
		require.Len(t, r.before, tried-1)
	}
}

// Where the time is short, what was not run is named, and too little of it is a failure.
func TestBudget(t *testing.T) {
	names := []string{"TestA", "TestB", "TestC", "TestD", "TestE"}
	results := map[string]*result{"TestA": {ended: true}, "TestB": {ended: true}}
	begun, left := split(names, results)
	require.Equal(t, names[:2], begun)
	require.Equal(t, names[2:], left)
	require.Empty(t, reportLeft("one", begun, left, results, time.Minute))
	require.Empty(t, reportLeft("one", begun[:1], nil, results, time.Minute))
	require.Equal(t, []string{"one: only 1 of 5 tests passed, 0 were excused and 4 not run"}, reportLeft("one", names[:1], names[1:], results, time.Minute))
	for _, name := range names[1:] {
		results[name] = &result{ended: true, fault: "fails", late: "slow"}
	}
	require.Equal(t, []string{"one: only 1 of 5 tests passed, 4 were excused and 0 not run"}, reportLeft("one", names, nil, results, time.Minute))
}

// Only who ended at its own limit at every try, on a machine that is too slow, is excused.
func TestExcuse(t *testing.T) {
	over := &result{ended: true, fault: "fails", lines: []string{"x: context deadline exceeded\n"}}
	wrong := &result{ended: true, fault: "fails", lines: []string{"want 1, got 2\n"}}
	require.True(t, over.atItsLimit())
	require.False(t, wrong.atItsLimit())
	require.True(t, allAtTheirLimit([]*result{over, over}))
	require.False(t, allAtTheirLimit([]*result{over, wrong}))

	dir := t.TempDir()
	s := &suite{bin: dir}
	for pause, excused := range map[string]bool{"0": false, "0.3": true} {
		require.NoError(t, os.WriteFile(s.etcdctl(), []byte("#!/bin/sh\nexec sleep "+pause+"\n"), 0o700))
		r := *over
		r.before = []*result{over}
		require.NoError(t, s.excuse(t.Context(), &r))
		if excused {
			require.Contains(t, r.verdict(), "excused")
		} else if r.late != "" {
			t.Logf("this machine is slow: %s", r.late)
		}
		r = *wrong
		require.NoError(t, s.excuse(t.Context(), &r))
		require.Empty(t, r.late)
		r = *over
		r.before = []*result{wrong}
		require.NoError(t, s.excuse(t.Context(), &r))
		require.Empty(t, r.late)
	}
}

func TestChoice(t *testing.T) {
	all := append([]string{"TestOther"}, acrossShards...)
	names, err := choose(all, regexp.MustCompile("."), true)
	require.NoError(t, err)
	require.Equal(t, acrossShards, names)
	names, err = choose(all, regexp.MustCompile("^TestOther$"), false)
	require.NoError(t, err)
	require.Equal(t, []string{"TestOther"}, names)
	_, err = choose(all, regexp.MustCompile("^TestOther$"), true)
	require.ErrorContains(t, err, "no test is chosen")
	_, err = choose(all[:5], regexp.MustCompile("."), true)
	require.ErrorContains(t, err, "etcd's suite has no test")
}

func TestResultsFromEvents(t *testing.T) {
	results := map[string]*result{}
	for _, e := range []event{
		{Action: "run", Test: "TestA"},
		{Action: "run", Test: "TestA/x"},
		{Action: "output", Test: "TestA/x", Output: "one\n"},
		{Action: "pass", Test: "TestA/x"},
		{Action: "pass", Test: "TestA"},
		{Action: "run", Test: "TestB"},
		{Action: "output", Test: "TestB/x", Output: "Skipping test for single-member cluster\n"},
		{Action: "skip", Test: "TestB/x"},
		{Action: "pass", Test: "TestB"},
		{Action: "run", Test: "TestC"},
		{Action: "output", Test: "TestC/x", Output: "RangeStream is not supported by this cluster\n"},
		{Action: "skip", Test: "TestC/x"},
		{Action: "pass", Test: "TestC"},
		{Action: "run", Test: "TestD"},
		{Action: "fail", Test: "TestD"},
		{Action: "run", Test: "TestMoveLeaderWithNoAuth"},
		{Action: "skip", Test: "TestMoveLeaderWithNoAuth"},
		{Action: "run", Test: "TestE"},
		{Action: "output", Output: "panic: no test has this line\n"},
	} {
		take(results, &e)
	}
	require.True(t, results["TestA"].passed())
	require.Equal(t, "one\n", results["TestA"].output())
	require.True(t, results["TestB"].passed(), "a skip of etcd's own")
	require.False(t, results["TestC"].passed(), "a skip because kvd lacks something")
	require.False(t, results["TestD"].passed())
	require.True(t, results["TestMoveLeaderWithNoAuth"].skipped, "etcd has not written it")
	require.False(t, results["TestE"].passed())
	require.False(t, results["TestE"].ended)
}
