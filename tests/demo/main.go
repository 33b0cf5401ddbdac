package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/kvd-io/kvd/tests/cluster"
)

// minWindow is the size of the revision window of an idle cluster, of which a crash skips the rest.
const minWindow = 256

type options struct {
	kvd, kvctl string
	dir        string
	shards     int
	workers    int
	limit      int
	calm       time.Duration
	gapBound   int64
	seed       uint64
}

func main() {
	o := options{}
	flag.StringVar(&o.kvd, "kvd", "bin/kvd", "kvd's `binary`")
	flag.StringVar(&o.kvctl, "kvctl", "bin/kvctl", "kvctl's `binary`; empty for a server without shards")
	flag.StringVar(&o.dir, "dir", "", "`directory` for the members' data, kept afterwards; empty means a temporary one")
	flag.IntVar(&o.shards, "shards", 8, "shards to split into")
	flag.IntVar(&o.workers, "clients", 64, "puts under way at a time")
	flag.IntVar(&o.limit, "packages", 0, "take only so many stanzas; 0 means all")
	flag.DurationVar(&o.calm, "calm", 2*time.Second, "time of updates before the kill, with two members, and with all three again")
	flag.Int64Var(&o.gapBound, "gap-bound", 0, "how many revisions may be lost with the member; 0 means two seconds of use at the peak rate and what was under way")
	flag.Uint64Var(&o.seed, "seed", rand.Uint64(), "seed of the random order")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	if err := run(ctx, &o); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
	fmt.Println("\nThe demo holds what it promises.")
}

// demo is one run.
type demo struct {
	o         *options
	model     *model
	cluster   *cluster.Cluster
	clients   []*clientv3.Client // for puts: each reaches all members
	pinned    []*clientv3.Client // one per member
	load      *load
	followers []*follower
	observers []*observer
	cuts      []string
	first     int64 // revision of the first put
	victim    *cluster.Member
	killed    time.Duration
	recovered time.Duration
	marks     []mark
	checks    checks
}

// mark is an old revision to read at later.
type mark struct {
	when     string
	revision int64
}

func run(ctx context.Context, o *options) error {
	began := time.Now()
	step("reading the package index")
	stanzas, source, err := readIndex(ctx)
	if err != nil {
		return err
	}
	if o.limit > 0 {
		stanzas = stanzas[:min(o.limit, len(stanzas))]
	}
	d := &demo{o: o, model: newModel(stanzas)}
	fmt.Printf("  %d stanzas of %d packages from %s; seed %d\n", len(stanzas), len(d.model.keys), source, o.seed)

	if err := d.start(ctx); err != nil {
		return err
	}
	defer d.close()
	loadCtx, stopLoad := context.WithCancel(ctx)
	defer stopLoad()
	watchCtx, stopWatches := context.WithCancel(ctx)
	defer stopWatches()
	reporting := make(chan struct{})
	go d.progress(watchCtx, reporting)
	var observing sync.WaitGroup
	for _, m := range d.cluster.Members {
		o := &observer{member: m, now: d.model.now}
		d.observers = append(d.observers, o)
		observing.Go(func() { o.run(watchCtx) })
	}

	if err := d.loadAndSplit(ctx, loadCtx, watchCtx); err != nil {
		return d.explain(err)
	}
	if err := d.killAndRestart(ctx); err != nil {
		return d.explain(err)
	}
	stopLoad()
	d.load.wg.Wait()
	if err := d.settle(ctx); err != nil {
		return d.explain(err)
	}
	stopWatches()
	<-reporting
	observing.Wait()
	if err := d.verify(ctx); err != nil {
		return d.explain(err)
	}
	fmt.Printf("  took %.0f s\n", time.Since(began).Seconds())
	return d.checks.err()
}

func step(format string, args ...any) { fmt.Printf("== "+format+"\n", args...) }

// explain adds the end of the members' logs to an error that ends the demo early.
func (d *demo) explain(err error) error {
	for _, m := range d.cluster.Members {
		fmt.Fprintf(os.Stderr, "--- end of the log of %s\n%s\n", m.Name, m.LogTail(3000))
	}
	return err
}

// start starts the members and connects the clients.
func (d *demo) start(ctx context.Context) error {
	step("starting three members")
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var err error
	if d.cluster, err = cluster.Start(ctx, cluster.Options{Binary: d.o.kvd, Members: 3, Dir: d.o.dir, Args: []string{"--quota-backend-bytes=8589934592"}}); err != nil {
		return err
	}
	members := d.cluster.Members
	for i := range 6 {
		order := append(slices.Clone(members[i%3:]), members[:i%3]...)
		cli, err := d.cluster.Client(order...)
		if err != nil {
			return err
		}
		d.clients = append(d.clients, cli)
	}
	for _, m := range members {
		cli, err := d.cluster.Client(m)
		if err != nil {
			return err
		}
		d.pinned = append(d.pinned, cli)
		fmt.Printf("  %s: process %d, %s\n", m.Name, m.Pid(), m.ClientURL)
	}
	resp, err := d.pinned[0].Get(ctx, prefix)
	if err != nil {
		return err
	}
	d.first = resp.Header.Revision + 1
	return nil
}

func (d *demo) close() {
	for _, cli := range append(d.clients, d.pinned...) {
		cli.Close()
	}
	d.cluster.Close()
}

func (d *demo) admin() *admin { return &admin{kvctl: d.o.kvctl, endpoints: d.cluster.Endpoints()} }

// progress prints a line about each second.
func (d *demo) progress(ctx context.Context, done chan<- struct{}) {
	defer close(done)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last := 0
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		answered, lost, rev, _ := d.model.counts()
		line := fmt.Sprintf("     %6.1f s  %7d puts answered (%6d/s), %d of unknown fate, revision %d, watches at", d.model.now().Seconds(), answered, answered-last, lost, rev)
		last = answered
		for _, f := range d.followers {
			at, _, _ := f.position()
			line += fmt.Sprintf(" %d", at)
		}
		fmt.Println(line)
	}
}

func (d *demo) mark(when string) {
	_, _, rev, _ := d.model.counts()
	d.marks = append(d.marks, mark{when, rev})
}

// loadAndSplit opens the watches, starts the load and splits shards while it runs.
func (d *demo) loadAndSplit(ctx, loadCtx, watchCtx context.Context) error {
	for i, m := range d.cluster.Members {
		d.followers = append(d.followers, follow(watchCtx, m.Name, d.pinned[i], d.model, d.first))
	}
	step("loading with %d clients, watching through every member", d.o.workers)
	d.load = startLoad(loadCtx, d.model, d.clients, d.o.workers, d.o.seed)
	total := int64(len(d.model.stanzas))
	if d.o.kvctl != "" {
		d.cuts = boundaries(d.model.keys, d.o.shards)
		a := d.admin()
		// The middle first, then the middles of the halves: every split divides a range that is in use.
		order := halving(len(d.cuts))
		for i, at := range order {
			if err := d.load.waitCount(ctx, total*int64(i+1)/int64(len(order)+2)); err != nil {
				return err
			}
			if i == len(order)/2 {
				d.mark("in the middle of the load")
			}
			began := time.Now()
			if err := a.split(ctx, d.cuts[at]); err != nil {
				return err
			}
			fmt.Printf("  split at %q took %v\n", d.cuts[at], time.Since(began).Round(time.Millisecond))
		}
		n, err := a.count(ctx)
		if err != nil {
			return err
		}
		var few error
		if n < d.o.shards {
			few = fmt.Errorf("%d shards, %d were asked for", n, d.o.shards)
		}
		d.checks.report(fmt.Sprintf("there are at least %d shards", d.o.shards), few)
	} else if err := d.load.waitCount(ctx, total/2); err != nil {
		return err
	} else {
		d.mark("in the middle of the load")
	}
	if err := d.load.waitLoaded(ctx); err != nil {
		return err
	}
	d.mark("when all was loaded")
	answered, _, _, first := d.model.counts()
	d.checks.report(fmt.Sprintf("no put failed while %d were answered and shards were split", answered), first)
	return nil
}

// halving orders 0..n-1 so that the middle comes first, then the middles of what remains.
func halving(n int) []int {
	var out []int
	queue := [][2]int{{0, n}}
	for len(queue) > 0 {
		lo, hi := queue[0][0], queue[0][1]
		queue = queue[1:]
		if lo >= hi {
			continue
		}
		mid := (lo + hi) / 2
		out = append(out, mid)
		queue = append(queue, [2]int{lo, mid}, [2]int{mid + 1, hi})
	}
	return out
}

// killAndRestart kills the leader's process under updates, waits for new owners, and brings the member back.
func (d *demo) killAndRestart(ctx context.Context) error {
	step("updating for %v", d.o.calm)
	if err := pause(ctx, d.o.calm); err != nil {
		return err
	}
	victim, err := d.leader(ctx)
	if err != nil {
		return err
	}
	d.victim = victim
	d.mark("just before the kill")
	d.killed = d.model.now()
	if err := victim.Kill(); err != nil {
		return err
	}
	step("killed %s (process %d), which Status calls the leader, with SIGKILL in the middle of updates", victim.Name, victim.Pid())
	if err := d.awaitOwners(ctx); err != nil {
		return err
	}
	d.recovered = d.model.now()
	fmt.Printf("  every shard has taken a put again after %v\n", (d.recovered - d.killed).Round(time.Millisecond))
	d.mark("when new owners had answered for all shards")
	if err := pause(ctx, d.o.calm); err != nil {
		return err
	}
	step("starting %s again", victim.Name)
	began := time.Now()
	ready, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := victim.Start(); err != nil {
		return err
	}
	if err := victim.WaitReady(ready); err != nil {
		return err
	}
	if err := victim.WaitHealthy(ready); err != nil {
		return err
	}
	fmt.Printf("  ready and healthy after %v\n", time.Since(began).Round(time.Millisecond))
	d.mark("when the member was back")
	return pause(ctx, d.o.calm)
}

// pause lets the load go on for a while.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// leader is the member that Status calls the leader: in kvd the one that hands out revisions.
func (d *demo) leader(ctx context.Context) (*cluster.Member, error) {
	list, err := d.pinned[0].MemberList(ctx)
	if err != nil {
		return nil, err
	}
	st, err := d.pinned[0].Status(ctx, d.cluster.Members[0].ClientURL)
	if err != nil {
		return nil, err
	}
	for _, lm := range list.Members {
		for _, m := range d.cluster.Members {
			if lm.ID == st.Leader && lm.Name == m.Name {
				return m, nil
			}
		}
	}
	return nil, fmt.Errorf("status names leader %x, which is none of the members", st.Leader)
}

// awaitOwners puts one package of every shard until each was answered.
func (d *demo) awaitOwners(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	probes := []string{d.model.keys[0]}
	probes = append(probes, d.cuts...)
	errs := make(chan error, len(probes))
	for i, key := range probes {
		st := slices.IndexFunc(d.model.stanzas, func(s stanza) bool { return s.key == key })
		go func() {
			for {
				_, err := d.load.put(st, i)
				if err == nil || ctx.Err() != nil {
					errs <- err
					return
				}
			}
		}()
	}
	var all error
	for range probes {
		all = errors.Join(all, <-errs)
	}
	if all != nil {
		return fmt.Errorf("no new owner: %w", all)
	}
	return nil
}

// settle puts one last package and waits until every watch has seen it: as watches are ordered, they then have seen all before it.
func (d *demo) settle(ctx context.Context) error {
	step("waiting for the watches")
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	rev, err := d.load.put(0, 0)
	if err != nil {
		return fmt.Errorf("the last put: %w", err)
	}
	d.marks = append(d.marks, mark{"in the end", rev})
	for _, f := range d.followers {
		if err := f.waitFor(ctx, rev); err != nil {
			return err
		}
	}
	return nil
}

// verify compares everything with the model.
func (d *demo) verify(ctx context.Context) error {
	step("checking")
	end := d.marks[len(d.marks)-1].revision
	events := d.followers[0].list()
	if i := slices.IndexFunc(events, func(e seen) bool { return e.revision > end }); i >= 0 {
		events = events[:i]
	}
	h := &history{model: d.model, puts: d.model.snapshot(), events: events, first: d.first}
	answered, lost, _, _ := d.model.counts()
	resolved, err := h.checkAnswered()
	d.checks.report(fmt.Sprintf("each of %d answered puts happened once, at its revision; of %d puts of unknown fate %d happened, once", answered, lost, resolved), err)
	d.checks.report("a put that began after another was answered has the larger revision", h.checkRealTime())
	for _, f := range d.followers {
		_, _, werr := f.position()
		if werr == nil {
			werr = h.checkSame(f)
		}
		what := fmt.Sprintf("the watch through %s saw %d events, each once and in order", f.name, len(f.list()))
		if f.name == d.victim.Name {
			what += ", though its member was killed"
		}
		d.checks.report(what, werr)
	}
	d.checkDensity(h)
	for i, mk := range d.marks {
		want := h.at(mk.revision)
		way := scanWays[i%len(scanWays)]
		m := i % len(d.pinned)
		kvs, err := way.scan(ctx, d.pinned[m], mk.revision)
		if err == nil {
			err = h.checkState(kvs, want)
		}
		d.checks.report(fmt.Sprintf("range at revision %d (%s), %d keys %s through %s, equals the model", mk.revision, mk.when, len(want), way.name, d.cluster.Members[m].Name), err)
	}
	final := h.at(end)
	for i, cli := range d.pinned {
		kvs, err := scanPages(ctx, cli, 0)
		if err == nil {
			err = h.checkState(kvs, final)
		}
		d.checks.report(fmt.Sprintf("every answered put is read back through %s: %d keys", d.cluster.Members[i].Name, len(final)), err)
	}
	if d.o.kvctl == "" {
		return nil
	}
	step("shards")
	table, err := d.admin().table(ctx)
	if err != nil {
		return err
	}
	fmt.Print(table)
	return nil
}

// checkDensity prints every gap in the revisions and checks where it lies and how large it is. Revisions may be lost with the member that
// was killed, and with an ownership that a live member lost, which is printed: no member should, but one that gets no CPU does.
func (d *demo) checkDensity(h *history) {
	l := lossLimits(h.puts, d.killed, d.recovered)
	rate := peakRate(h.puts)
	if l.most = d.o.gapBound; l.most == 0 {
		l.most = max(2*rate, minWindow) + int64(d.o.workers)
	}
	var changes []limits
	for _, o := range d.observers {
		for _, c := range o.changes {
			if c.from > d.recovered || c.to < d.killed {
				fmt.Printf("  change  %s lost an ownership between %.1f s and %.1f s\n", c.member, c.from.Seconds(), c.to.Seconds())
				changes = append(changes, lossLimits(h.puts, c.from, c.to))
			}
		}
	}
	gaps := findGaps(h.events, h.first)
	var missing int64
	var misplaced error
	for _, g := range gaps {
		missing += g.size()
		explained := l.within(g)
		for _, c := range changes {
			explained = explained || c.within(g)
		}
		fmt.Printf("  gap     %v\n", g)
		if !explained {
			misplaced = errors.Join(misplaced, fmt.Errorf("%v: not lost with %s, and no ownership changed then", g, d.victim.Name))
		}
	}
	if most := l.most * int64(1+len(changes)); missing > most {
		misplaced = errors.Join(misplaced, fmt.Errorf("%d revisions are missing", missing))
	}
	d.checks.report(fmt.Sprintf("revisions %d to %d are dense but for %d in %d gaps; only %d to %d may be lost with the member, at most %d (peak rate %d/s), and some with each of %d other changes of ownership",
		h.first, h.events[len(h.events)-1].revision, missing, len(gaps), l.after+1, l.before-1, l.most, rate, len(changes)), misplaced)
}
