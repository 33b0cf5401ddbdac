package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/kvd-io/kvd/tests/cluster"
	"github.com/kvd-io/kvd/tests/history"
)

const (
	// snapshotEntries is how many entries a shard's log has before it is cut: few, so that a member that was away needs a snapshot.
	snapshotEntries = 200
	catchUpEntries  = 20
	maxSplits       = 5
	// defaultRecovery is how long everything may take to work again once all faults are healed, on a machine that does nothing else.
	defaultRecovery = 10 * time.Second
)

// Config says what a round does.
type Config struct {
	// Binary is the server to test.
	Binary string
	// Seed decides everything that is up to chance.
	Seed uint64
	// Faults is how long faults go on; the round takes about 15 s more.
	Faults time.Duration
	// Recovery is how long everything may take to work again once all faults are healed; 0 means 10 s.
	Recovery time.Duration
	// Only are the names of the faults to choose from; empty means all.
	Only []string
	// Args are further flags of every member.
	Args []string
	// Log is told what happens.
	Log func(format string, args ...any)
}

// Result says what a round that passed was made of.
type Result struct {
	Report  history.Report
	Watches int
	// OneShard tells that the server refused transactions over several shards.
	OneShard bool
	// Held is how long each fault was in force.
	Held map[string]time.Duration
	// Missing says why faults of disks could not be tried; empty if they could.
	Missing string
}

// Names are the names of all faults.
func Names() []string {
	var names []string
	for _, f := range faults {
		names = append(names, f.name)
	}
	return names
}

// round is a run under way.
type round struct {
	cfg        Config
	cluster    *cluster.Cluster
	disk       *disk
	certs      string             // directory of the certificates, if peers speak TLS
	plain      []*clientv3.Client // one per member
	ids        map[uint64]*cluster.Member
	recorder   *history.Recorder
	traffic    *traffic
	clients    []*client
	watchers   *watchers
	background sync.WaitGroup // splits, compactions and bursts
	started    time.Time

	mu struct {
		sync.Mutex
		splits, clients int
		intended        map[int]bool // process ids that were meant to end
		mayEnd          map[*cluster.Member]bool
		ended           []error
		timeline        []string
	}
}

// Run does one round. The error tells every promise that was broken, and where the evidence lies.
func Run(ctx context.Context, cfg Config) (Result, error) {
	if cfg.Log == nil {
		cfg.Log = func(string, ...any) {}
	}
	if cfg.Recovery == 0 {
		cfg.Recovery = defaultRecovery
	}
	rng := rand.New(rand.NewPCG(cfg.Seed, 1))
	r := &round{cfg: cfg, recorder: history.NewRecorder(), ids: map[uint64]*cluster.Member{}, started: time.Now()}
	r.mu.intended, r.mu.mayEnd = map[int]bool{}, map[*cluster.Member]bool{}
	r.traffic = &traffic{recorder: r.recorder}
	plan, err := makePlan(cfg, rng)
	if err != nil {
		return Result{}, err
	}
	result := Result{Held: map[string]time.Duration{}}
	// Nothing in a round waits for ever; if something does all the same, its goroutines say where.
	watchdog := time.AfterFunc(cfg.Faults+2*time.Minute+6*cfg.Recovery, func() {
		if r.disk != nil {
			_ = r.disk.thaw()
		}
		panic(fmt.Sprintf("chaos: the round with seed %d does not end", cfg.Seed))
	})
	defer watchdog.Stop()
	if err := r.lay(rng, plan, &result); err != nil {
		return result, errors.Join(err, r.close())
	}
	err = r.play(ctx, rng, plan, &result)
	if err != nil {
		err = r.keep(err)
	}
	return result, errors.Join(err, r.close())
}

// lay makes the cluster, without starting it.
func (r *round) lay(rng *rand.Rand, plan []step, result *Result) error {
	args := []string{
		fmt.Sprintf("--snapshot-count=%d", snapshotEntries), fmt.Sprintf("--snapshot-catchup-entries=%d", catchUpEntries),
		"--watch-progress-notify-interval=300ms", "--enable-pprof",
	}
	// Shards at birth: between one and six.
	var bounds []string
	for n := rng.IntN(6); n > 0; n-- {
		if at := keyName(1 + rng.IntN(keys-1)); !slices.Contains(bounds, at) {
			bounds = append(bounds, at)
		}
	}
	if len(bounds) > 0 {
		slices.Sort(bounds)
		args = append(args, "--initial-split-keys="+strings.Join(bounds, ","))
	}
	if rng.IntN(4) == 0 {
		args = append(args, "--read-mode=quorum")
	}
	r.note("seed %d, flags %q", r.cfg.Seed, args)
	members := 3
	if slices.ContainsFunc(plan, func(s step) bool { return s.has(moveFault) }) {
		members++
	}
	options := cluster.Options{Binary: r.cfg.Binary, Members: members, Network: true, Args: append(args, r.cfg.Args...)}
	if rng.IntN(4) == 0 {
		r.note("peers speak TLS")
		var err error
		if r.certs, err = os.MkdirTemp("", "kvd-chaos-certs-"); err != nil {
			return err
		}
		if options.PeerTLS, err = cluster.NewCerts(r.certs); err != nil {
			return err
		}
	}
	c, err := cluster.New(options)
	if err != nil {
		return err
	}
	r.cluster = c
	if slices.ContainsFunc(plan, func(s step) bool { return s.fault.disk }) {
		m := c.Members[0]
		if r.disk, err = newDisk(c.Dir); err != nil {
			result.Missing = err.Error()
			r.note("no faults of disks: %v", err)
			r.disk = nil
		} else {
			m.DataDir = filepath.Join(r.disk.mount, "data")
		}
	}
	return nil
}

func (r *round) play(ctx context.Context, rng *rand.Rand, plan []step, result *Result) error {
	starting, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for _, m := range r.cluster.Members {
		if err := r.start(m); err != nil {
			return err
		}
	}
	if err := r.cluster.StartAll(starting); err != nil {
		return err
	}
	if err := r.connect(starting); err != nil {
		return err
	}
	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	var names []string
	for _, m := range r.cluster.Members {
		names = append(names, m.Name)
	}
	r.watchers = openWatchers(watching, r.recorder, r.plain, names)
	defer r.watchers.close()
	stop := make(chan struct{})
	var working sync.WaitGroup
	for _, c := range r.clients {
		working.Add(1)
		go c.work(stop, &working)
	}
	for _, l := range r.openLessees(new(atomic.Int64)) {
		working.Add(1)
		go l.work(stop, &working)
	}
	watchRNG := rand.New(rand.NewPCG(r.cfg.Seed, 2))
	working.Go(func() { r.watchers.come(watching, stop, watchRNG, r.traffic.seen.Load) })
	if err := pause(ctx, 2*time.Second); err != nil {
		return err
	}
	before, err := r.measure(ctx)
	if err != nil {
		return err
	}
	failed := r.execute(ctx, plan, result)
	r.note("healed")
	healed := time.Now()
	serving := r.demandService(ctx, healed)
	close(stop)
	working.Wait()
	r.background.Wait()
	if err := errors.Join(failed, serving); err != nil {
		return errors.Join(err, r.judge(result, false))
	}
	if err := r.demandNoLeases(ctx); err != nil {
		return errors.Join(err, r.judge(result, false))
	}
	quiet := r.demandQuiet(ctx, time.Now())
	if err := r.judge(result, quiet == nil); err != nil || quiet != nil {
		return errors.Join(quiet, err)
	}
	if err := r.demandHashes(ctx); err != nil {
		return err
	}
	return r.demandResources(ctx, before, healed)
}

// connect opens the clients: one for watches and three for requests through each member.
func (r *round) connect(ctx context.Context) error {
	for i, m := range r.cluster.Members {
		cli, err := r.cluster.Client(m)
		if err != nil {
			return err
		}
		r.plain = append(r.plain, cli)
		for range 3 {
			id := r.nextClient()
			r.clients = append(r.clients, r.traffic.client(id, m.Name, cli, rand.New(rand.NewPCG(r.cfg.Seed, uint64(10+id)))))
		}
		if i == 0 {
			list, err := cli.MemberList(ctx)
			if err != nil {
				return err
			}
			for _, x := range list.Members {
				for _, m := range r.cluster.Members {
					if m.Name == x.Name {
						r.ids[x.ID] = m
					}
				}
			}
		}
	}
	return nil
}

func (r *round) nextClient() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.clients++
	return r.mu.clients - 1
}

// note adds to the timeline of the round.
func (r *round) note(format string, args ...any) {
	line := fmt.Sprintf("%7.3f s  ", time.Since(r.started).Seconds()) + fmt.Sprintf(format, args...)
	r.cfg.Log("%s", line)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.timeline = append(r.mu.timeline, line)
}

func (r *round) compact(ctx context.Context, c *client, rev int64, physical bool) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	// Its fate is in the history.
	_, _ = r.recorder.Do(ctx, c.kv, c.id, c.member, history.Request{Compact: &pb.CompactionRequest{Revision: rev, Physical: physical}})
}

// close ends everything.
func (r *round) close() error {
	var errs []error
	if r.certs != "" {
		defer os.RemoveAll(r.certs)
	}
	if r.cluster == nil {
		return nil
	}
	for _, m := range r.cluster.Members {
		r.intend(m)
	}
	for _, cli := range r.plain {
		errs = append(errs, cli.Close())
	}
	if r.disk != nil {
		_ = r.disk.thaw() // so that its member can end; closing it tells what went wrong
		errs = append(errs, r.cluster.KillAll(), r.disk.close())
	}
	return errors.Join(append(errs, r.cluster.Close())...)
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
