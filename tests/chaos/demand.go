package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/kvd-io/kvd/tests/history"
)

// pollInterval is how often a condition that nobody signals is looked at.
const pollInterval = 50 * time.Millisecond

// until repeats cond until it holds, or the deadline is past.
func until(ctx context.Context, deadline time.Time, what string, cond func(context.Context) error) error {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	var why error
	for {
		err := cond(ctx)
		if err == nil {
			return nil
		}
		if why == nil || ctx.Err() == nil {
			why = err // the last try, which the deadline cut short, says nothing
		}
		if pause(ctx, pollInterval) != nil {
			return fmt.Errorf("%s: not in time after the end of all faults: %w", what, why)
		}
	}
}

// demandService demands that every member serves reads and writes on every shard again.
func (r *round) demandService(ctx context.Context, healed time.Time) error {
	errs := make([]error, len(r.cluster.Members))
	var wg sync.WaitGroup
	for i, m := range r.cluster.Members {
		c := r.clients[3*i]
		checker := r.traffic.client(400+i, m.Name, r.plain[i], c.rng)
		wg.Go(func() {
			// All of it in one go, so that what answers once answers again.
			errs[i] = until(ctx, healed.Add(r.cfg.Recovery), "service through "+m.Name, func(ctx context.Context) error {
				// One that a full disk ends may do so only now, and then whoever supervises
				// it starts it again. After it was down for long a gRPC client does not dial
				// for as long again of its own accord: that is not what it is judged by.
				if err := r.start(m); err != nil {
					return err
				}
				r.plain[i].ActiveConnection().ResetConnectBackoff()
				for k := 0; k < keys; k += 3 {
					if _, err := checker.do(ctx, history.Request{Put: &pb.PutRequest{Key: []byte(keyName(k)), Value: checker.value()}}); err != nil {
						return err
					}
				}
				for _, serializable := range []bool{false, true} {
					if _, err := checker.do(ctx, history.Request{Range: &pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l"), Serializable: serializable}}); err != nil {
						return err
					}
				}
				return nil
			})
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	r.note("everything serves again after %v", time.Since(healed).Round(time.Millisecond))
	return nil
}

// demandQuiet demands that every watch sees the end of what was written.
func (r *round) demandQuiet(ctx context.Context, healed time.Time) error {
	deadline := healed.Add(r.cfg.Recovery)
	if soon := time.Now().Add(r.cfg.Recovery / 2); soon.After(deadline) {
		deadline = soon // splits and bursts that were under way have ended only now
	}
	var last int64
	for _, op := range r.recorder.Operations() {
		if op.Response.Wrote() {
			last = max(last, op.Revision())
		}
	}
	return until(ctx, deadline, "watches", func(context.Context) error { return r.watchers.caughtUp(last, r.recorder.Operations()) })
}

// judge applies all checks to what was recorded.
func (r *round) judge(result *Result, complete bool) error {
	all, done, open := r.watchers.snapshot()
	errs := r.members()
	log, err := history.NewLog(all)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	operations, leases := r.recorder.Operations(), r.recorder.Leases()
	if !complete {
		// The log ends early: nothing can be said of what lies behind it.
		operations = slices.DeleteFunc(operations, func(op *history.Operation) bool { return op.Revision() > log.Last() })
		for _, watches := range [][]*history.Watch{all, done, open} {
			for i, w := range watches {
				watches[i] = w.Until(log.Last())
			}
		}
		for i, l := range leases {
			if l.Kind == history.Revoke && l.Revision > log.Last() {
				cut := *l
				cut.Outcome = history.Unknown
				leases[i] = &cut
			}
		}
	}
	if result.Report, err = history.Check(operations, leases, log); err != nil {
		errs = append(errs, err)
	}
	ev := &history.Evidence{Log: log, Operations: operations}
	for _, w := range done {
		errs = append(errs, history.CheckWatch(ev, w))
	}
	ev.Complete = complete
	for _, w := range append(all, open...) {
		errs = append(errs, history.CheckWatch(ev, w))
	}
	result.Watches = len(all) + len(done) + len(open)
	result.OneShard = r.traffic.oneShard.Load()
	return errors.Join(errs...)
}

// members tells of members that ended by themselves, or panicked.
func (r *round) members() []error {
	r.mu.Lock()
	errs := append([]error(nil), r.mu.ended...)
	r.mu.Unlock()
	for _, m := range r.cluster.Members {
		log := m.Log()
		for _, sign := range []string{"\npanic: ", "\nfatal error: ", "WARNING: DATA RACE"} {
			if i := strings.Index(log, sign); i >= 0 {
				// Its raft log cannot be written: a member stops rather than going on in doubt.
				if first, _, _ := strings.Cut(log[i+1:], "\n"); strings.HasSuffix(first, "no space left on device") && r.mu.mayEnd[m] {
					continue
				}
				errs = append(errs, fmt.Errorf("member %s printed %.5000s", m.Name, log[i:]))
				break
			}
		}
	}
	return errs
}

// demandHashes demands that the replicas of all members are equal.
func (r *round) demandHashes(ctx context.Context) error {
	rev := r.watchers.position()
	return until(ctx, time.Now().Add(r.cfg.Recovery), "hashes", func(ctx context.Context) error {
		sums := map[uint32][]string{}
		for i, m := range r.cluster.Members {
			h, err := r.plain[i].HashKV(ctx, m.ClientURL, rev)
			if err != nil {
				return fmt.Errorf("hash of %s at %d: %w", m.Name, rev, err)
			}
			sums[h.Hash] = append(sums[h.Hash], m.Name)
		}
		if len(sums) > 1 {
			return fmt.Errorf("replicas differ at revision %d: %v", rev, sums)
		}
		return nil
	})
}

// keep writes down the evidence of a failure and adds to the error where it lies.
func (r *round) keep(err error) error {
	dir, mkErr := os.MkdirTemp("", fmt.Sprintf("kvd-chaos-%d-", r.cfg.Seed))
	if mkErr != nil {
		return errors.Join(err, mkErr)
	}
	var all, done, open []*history.Watch
	if r.watchers != nil {
		all, done, open = r.watchers.snapshot()
	}
	r.mu.Lock()
	timeline := strings.Join(r.mu.timeline, "\n")
	r.mu.Unlock()
	write := func(name string, b []byte) {
		mkErr = errors.Join(mkErr, os.WriteFile(filepath.Join(dir, name), b, 0o600))
	}
	write("timeline", []byte(timeline+"\n"))
	write("error", []byte(err.Error()+"\n"))
	for name, v := range map[string]any{"operations.json": r.recorder.Operations(), "leases.json": r.recorder.Leases(), "watches.json": append(append(all, done...), open...)} {
		b, jsonErr := json.Marshal(v)
		mkErr = errors.Join(mkErr, jsonErr)
		write(name, b)
	}
	for _, m := range r.cluster.Members {
		write(m.Name+".log", []byte(m.Log()))
	}
	return errors.Join(fmt.Errorf("seed %d failed; timeline, history and logs are in %s: %w", r.cfg.Seed, dir, err), mkErr)
}
