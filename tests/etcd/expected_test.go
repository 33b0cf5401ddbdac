package main

import (
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
	require.NoError(t, list.unknown([]string{"TestA", "TestB", "TestC"}, "."))
	require.NoError(t, list.unknown([]string{"TestA"}, "A"))
	require.ErrorContains(t, list.unknown([]string{"TestA"}, "."), "TestB")
}

func TestReport(t *testing.T) {
	list := expected{"TestKnown": {"one": "leases"}, "TestMended": {"one": "leases"}, "TestOther": {"split": "txn"}}
	results := map[string]*result{
		"TestGood": {ended: true}, "TestKnown": {ended: true, fault: "fails"}, "TestMended": {ended: true},
		"TestFlaky": {ended: true, before: &result{ended: true, fault: "fails"}},
		"TestOther": {ended: true, fault: "fails"}, "TestSkips": {ended: true, fault: `skips itself: "no"`}, "TestCut": {},
	}
	names := []string{"TestGood", "TestFlaky", "TestKnown", "TestMended", "TestOther", "TestSkips", "TestCut", "TestGone"}
	wrong := report("one", names, results, list, time.Second, "log")
	require.Equal(t, []string{
		"one/TestMended: passes, but is listed (leases): take it off the list",
		"one/TestOther: fails",
		`one/TestSkips: skips itself: "no"`,
		"one/TestCut: ",
		"one/TestGone: did not run",
	}, wrong)
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
