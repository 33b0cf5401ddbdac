package chaos

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// server finds or builds the member.
func server(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("KVD_TEST_BIN"); path != "" {
		return path
	}
	path := filepath.Join(t.TempDir(), "kvd")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", path, "github.com/kvd-io/kvd/cmd/kvd").CombinedOutput(); err != nil {
		t.Fatalf("building kvd: %v\n%s", err, out)
	}
	return path
}

// TestSeeds runs a few rounds whose plans cover each kind of fault; make soak runs as many as there is time for.
func TestSeeds(t *testing.T) {
	if testing.Short() {
		t.Skip("rounds take half a minute each")
	}
	bin := server(t)
	for _, c := range []struct {
		name   string
		seed   uint64
		faults []string
	}{
		{"Losses", 3, []string{"kill-owner", "kill-sequencer", "kill-anchor", "kill-any", "kill-all", "lag", "compact"}},
		{"Pauses", 4, []string{"pause-owner", "pause-sequencer", "pause-anchor", "pause-short", "stutter", "split"}},
		{"Networks", 5, []string{"isolate-owner", "isolate-sequencer", "isolate-anchor", "cut-pair", "one-way", "deaf", "mute", "delay", "loss", "reset"}},
		{"HandOvers", 8, []string{"restart-owner", "restart-sequencer", "transfer", "split", "merge", "move", "compact"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			// How soon all works again is what soaking asks on a quiet machine; here it must work again at all. And where
			// the machine stood still through most of a round, another one has to say something.
			cfg := Config{Binary: bin, Seed: c.seed, Only: c.faults, Faults: 8 * time.Second, Recovery: time.Minute, Log: t.Logf}
			result, err := Run(t.Context(), cfg)
			if err == nil && result.Report.Answered < 100 {
				result, err = Run(t.Context(), cfg)
			}
			if err != nil {
				t.Fatal(err)
			}
			if result.Report.Answered < 100 || result.Watches < 20 || len(result.Held) == 0 {
				t.Errorf("the round says little: %+v", result)
			}
		})
	}
}

// TestPlansFollowFromSeeds: the same seed makes the same plan, whatever was planned before, and another seed another.
func TestPlansFollowFromSeeds(t *testing.T) {
	plan := func(seed uint64) (names []string) {
		p, err := makePlan(Config{Faults: time.Minute}, rand.New(rand.NewPCG(seed, 1)))
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range p {
			names = append(names, s.fault.name+s.hold.String()+s.calm.String())
		}
		return names
	}
	if a, b := plan(1), plan(1); !slices.Equal(a, b) || slices.Equal(a, plan(2)) {
		t.Error("plans do not follow from seeds")
	}
	if _, err := makePlan(Config{Faults: time.Minute, Only: []string{"no such fault"}}, rand.New(rand.NewPCG(1, 1))); err == nil {
		t.Error("an unknown fault was planned")
	}
}
