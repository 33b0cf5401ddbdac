package main

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// slowCommand is from when on a machine is too slow for etcd's limits: a test of the suite runs etcdctl up to sixty
// times in ten seconds, so there is no time for kvd if a run that talks to nobody takes so long.
const slowCommand = 100 * time.Millisecond

// limitSigns are how a test ends that reached its own limit of ten seconds, or this program's of five minutes.
var limitSigns = []string{"context deadline exceeded", "test timed out after", "has completed", "signal: killed"}

// atItsLimit tells whether a test that failed says that its time was over. It may have failed for another reason as
// well.
func (r *result) atItsLimit() bool {
	out := r.output()
	return slices.ContainsFunc(limitSigns, func(sign string) bool { return strings.Contains(out, sign) })
}

// measureCommand is the median duration of a run of etcdctl that talks to nobody.
func (s *suite) measureCommand(ctx context.Context) (time.Duration, error) {
	var took []time.Duration
	for range 7 {
		began := time.Now()
		if out, err := exec.CommandContext(ctx, s.etcdctl(), "version").CombinedOutput(); err != nil {
			return 0, fmt.Errorf("etcdctl version: %w\n%s", err, out)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return took[len(took)/2], nil
}

// excuse excuses a test all of whose tries ended at its limit, if the machine is too slow for that at this moment.
func (s *suite) excuse(ctx context.Context, r *result) error {
	if !r.failed() || !r.atItsLimit() || !allAtTheirLimit(r.before) {
		return nil
	}
	took, err := s.measureCommand(ctx)
	if err == nil && took > slowCommand {
		r.late = fmt.Sprintf("its time was over; the machine takes %v for a run of etcdctl that does nothing", took.Round(time.Millisecond))
	}
	return err
}

func allAtTheirLimit(tries []*result) bool {
	return !slices.ContainsFunc(tries, func(r *result) bool { return !r.atItsLimit() })
}
