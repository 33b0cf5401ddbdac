package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/kvd-io/kvd/tests/cluster"
)

// snapshotSample is what one system did in one round of the snapshot cell.
type snapshotSample struct {
	// save and restore are how long each took, bytes the size of the file.
	save, restore time.Duration
	bytes         int64
	// memory is by how much the largest member grew above its idle memory while it saved without other load, tool the
	// memory of the restoring program. Both are peaks.
	memory, tool int64
	// calm and busy are p99 of a steady load of puts without and with a save beside it.
	calm, busy time.Duration
}

const (
	// putters carry the steady load: enough of them that a slow answer delays nobody else's.
	putters = 64
	// memoryEvery is how often the members' memory is read during a save.
	memoryEvery = 10 * time.Millisecond
)

// measureSnapshot loads the same keys, with a second version of some, into all systems, and measures saving (with etcdctl) and restoring (with etcdutl
// and kvctl).
func measureSnapshot(ctx context.Context, o *options, r *report, members int) error {
	big := *o
	big.load.keys = o.snapshotKeys
	big.systems = nil
	for _, s := range o.systems {
		if s != kindEmpty {
			big.systems = append(big.systems, s)
		}
	}
	systems, err := startAll(ctx, &big, members)
	if err != nil {
		return err
	}
	defer closeAll(systems)
	took := make([][]snapshotSample, len(systems))
	for n := range o.pairs {
		for i := range systems {
			at := (i + n) % len(systems)
			s := systems[at]
			if err := s.thaw(ctx); err != nil {
				return err
			}
			if n == 0 {
				if err := s.update(ctx, o.snapshotKeys/10, big.load); err != nil {
					return fmt.Errorf("%s: %w", s.name, err)
				}
			}
			sample, err := s.snapshot(ctx, &big)
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			took[at] = append(took[at], sample)
			if err := s.freeze(); err != nil {
				return err
			}
		}
	}
	text := snapshotTable(&big, systems, took, members)
	fmt.Println(text)
	r.more = append(r.more, text)
	return nil
}

// snapshot takes one sample of a system.
func (s *system) snapshot(ctx context.Context, o *options) (out snapshotSample, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp(o.dir, "snapshot-")
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	file := filepath.Join(dir, "db")

	watch, err := watchMemory(s.cluster.Pids())
	if err != nil {
		return out, err
	}
	out.save, err = s.save(ctx, o, file)
	if out.memory = watch(); err != nil {
		return out, err
	}
	info, err := os.Stat(file)
	if err != nil {
		return out, err
	}
	out.bytes = info.Size()

	tool, args := o.etcdutl, []string{"snapshot", "restore", file, "--data-dir", filepath.Join(dir, "data")}
	if s.kind == kindKvd {
		tool = o.kvctl
	}
	cmd := exec.CommandContext(ctx, tool, args...)
	began := time.Now()
	if said, err := cmd.CombinedOutput(); err != nil {
		return out, fmt.Errorf("restoring: %w: %s", err, said)
	}
	out.restore = time.Since(began)
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		out.tool = usage.Maxrss << 10
	}

	if out.calm, err = s.steadyLoad(ctx, o, func(ctx context.Context) error {
		select {
		case <-time.After(o.load.duration):
		case <-ctx.Done():
		}
		return ctx.Err()
	}); err != nil {
		return out, err
	}
	out.busy, err = s.steadyLoad(ctx, o, func(ctx context.Context) error {
		for end := time.Now().Add(o.load.duration); ; {
			if _, err := s.save(ctx, o, file); err != nil || time.Now().After(end) {
				return err
			}
		}
	})
	return out, err
}

// save saves a snapshot of a system with stock etcdctl.
func (s *system) save(ctx context.Context, o *options, file string) (time.Duration, error) {
	began := time.Now()
	out, err := exec.CommandContext(ctx, o.etcdctl, "--endpoints", s.cluster.Members[0].ClientURL, "snapshot", "save", file).CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("saving: %w: %s", err, out)
	}
	return time.Since(began), nil
}

// watchMemory watches the resident memory of processes until the returned function is called, which tells by how much the one that grew most did.
func watchMemory(pids []int) (stop func() int64, err error) {
	idle := make([]int64, len(pids))
	for i, pid := range pids {
		if idle[i], err = cluster.RSS(pid); err != nil {
			return nil, err
		}
	}
	most := int64(0)
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(memoryEvery)
		defer tick.Stop()
		for {
			for i, pid := range pids {
				if now, err := cluster.RSS(pid); err == nil {
					most = max(most, now-idle[i])
				}
			}
			select {
			case <-tick.C:
			case <-done:
				return
			}
		}
	})
	return func() int64 {
		close(done)
		wg.Wait()
		return most
	}, nil
}

// steadyLoad puts keys at a steady rate while beside runs, and returns p99 of the time from when each was due to its answer.
func (s *system) steadyLoad(ctx context.Context, o *options, beside func(context.Context) error) (time.Duration, error) {
	cli, err := s.cluster.Client(s.cluster.Members[0])
	if err != nil {
		return 0, err
	}
	defer cli.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	value := strings.Repeat("s", o.load.valueBytes)
	every := time.Second * putters / time.Duration(o.snapshotRate)
	began := time.Now().Add(o.load.warmup)
	stop := make(chan struct{})
	hists := make([]histogram, putters)
	errs := make([]error, putters)
	var wg sync.WaitGroup
	for p := range putters {
		wg.Go(func() {
			errs[p] = putSteadily(ctx, cli, p, o, value, began, every, stop, &hists[p])
		})
	}
	time.Sleep(time.Until(began))
	err = beside(ctx)
	close(stop)
	wg.Wait()
	var all histogram
	for p := range putters {
		all.merge(&hists[p])
	}
	if err = errors.Join(append(errs, err)...); err == nil && all.n == 0 {
		err = errors.New("nothing was put in the measured time")
	}
	return all.quantile(0.99), err
}

// putSteadily is one of the putters, whose puts are due every so often. What is due before began counts as warming up.
func putSteadily(ctx context.Context, cli *clientv3.Client, p int, o *options, value string, began time.Time, every time.Duration, stop <-chan struct{}, h *histogram) error {
	due := time.Now().Add(every * time.Duration(p) / putters)
	for n := p; ; n += putters {
		timer := time.NewTimer(time.Until(due))
		select {
		case <-timer.C:
		case <-stop:
			timer.Stop()
			return nil
		}
		if _, err := cli.Put(ctx, string(benchKey(n*7919%o.load.keys)), value); err != nil {
			return fmt.Errorf("steady load: %w", err)
		}
		if !due.Before(began) {
			h.add(time.Since(due))
		}
		due = due.Add(every)
	}
}

// snapshotTable is the report in Markdown: medians, and medians of the ratios to etcd within the rounds.
func snapshotTable(o *options, systems []*system, took [][]snapshotSample, members int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Snapshots of %d members with %d keys of %d bytes and %d updates, medians of %d; p99 of %d puts/s, alone and while snapshots are saved. "+
		"Memory is the peak above idle of the member that grew most, and of the restoring program.\n\n",
		members, o.load.keys, o.load.valueBytes, o.load.keys/10, o.pairs, o.snapshotRate)
	columns := []struct {
		name  string
		value func(s snapshotSample) float64
		ratio bool
	}{
		{"file, MB", func(s snapshotSample) float64 { return float64(s.bytes) / 1e6 }, false},
		{"save, MB/s", func(s snapshotSample) float64 { return float64(s.bytes) / 1e6 / s.save.Seconds() }, false},
		{"save, s", func(s snapshotSample) float64 { return s.save.Seconds() }, true},
		{"restore, MB/s", func(s snapshotSample) float64 { return float64(s.bytes) / 1e6 / s.restore.Seconds() }, false},
		{"restore, s", func(s snapshotSample) float64 { return s.restore.Seconds() }, true},
		{"member, MB", func(s snapshotSample) float64 { return float64(s.memory) / 1e6 }, false},
		{"restore, MB", func(s snapshotSample) float64 { return float64(s.tool) / 1e6 }, true},
		{"p99 alone, ms", func(s snapshotSample) float64 { return float64(s.calm.Microseconds()) / 1000 }, true},
		{"p99 saving, ms", func(s snapshotSample) float64 { return float64(s.busy.Microseconds()) / 1000 }, true},
		{"saving / alone", func(s snapshotSample) float64 { return float64(s.busy) / float64(s.calm) }, true},
	}
	b.WriteString("| system |")
	rule := "\n| --- |"
	for _, c := range columns {
		fmt.Fprintf(&b, " %s |", c.name)
		rule += " ---: |"
		if c.ratio {
			b.WriteString(" x etcd |")
			rule += " ---: |"
		}
	}
	b.WriteString(rule + "\n")
	for i, s := range systems {
		fmt.Fprintf(&b, "| %s |", s.name)
		for _, c := range columns {
			var values, ratios []float64
			for n, sample := range took[i] {
				values = append(values, c.value(sample))
				ratios = append(ratios, c.value(sample)/c.value(took[0][n]))
			}
			fmt.Fprintf(&b, " %.2f |", median(values))
			switch {
			case c.ratio && systems[0].kind == kindEtcd:
				fmt.Fprintf(&b, " %.2f |", median(ratios))
			case c.ratio:
				b.WriteString(" - |")
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}
