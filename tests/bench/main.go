package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// emptyEnv tells this binary to be the empty server.
const emptyEnv = "KVD_BENCH_EMPTY"

type options struct {
	kvd, kvctl, etcd string
	// etcdctl and etcdutl are for the snapshot cell.
	etcdctl, etcdutl string
	dir              string
	ops              []string
	clients          []int
	conns            []int // empty means auto, see connsFor
	members          []int
	shards           []int
	systems          []string
	pairs, retries   int
	load             loadConfig
	restartKeys      int
	snapshotKeys     int
	snapshotRate     int
	markdown         string
	profileDir       string
	gate             bool
}

func main() {
	if os.Getenv(emptyEnv) != "" {
		if err := serveEmpty(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	// The generator shares the machine with the servers: it collects rarely, with a limit in case a cell keeps much.
	debug.SetGCPercent(1000)
	debug.SetMemoryLimit(2 << 30)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parseOptions(args []string) (*options, error) {
	o := &options{}
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.StringVar(&o.kvd, "kvd", "../../bin/kvd", "kvd's `binary`")
	fs.StringVar(&o.kvctl, "kvctl", "../../bin/kvctl", "kvctl's `binary`")
	fs.StringVar(&o.etcd, "etcd", "", "etcd's `binary`; empty builds it from this module")
	fs.StringVar(&o.etcdctl, "etcdctl", "", "etcdctl's `binary`, for the snapshot cell; empty builds it from this module")
	fs.StringVar(&o.etcdutl, "etcdutl", "", "etcdutl's `binary`, as etcdctl's")
	fs.StringVar(&o.dir, "dir", "../../.bench", "`directory` for data and for the built etcd; put it on the disk to be measured")
	ops := fs.String("cells", "get,range,put,watch,restart", "operations to measure")
	clients := fs.String("clients", "1,100,1000", "numbers of clients")
	conns := fs.String("conns", "auto", "numbers of connections, each combined with each number of clients; auto: 1, 10, 100 for 1, 100, 1000 clients")
	members := fs.String("members", "1,3", "numbers of members")
	shards := fs.String("shards", "1,8,64", "numbers of kvd's shards")
	systems := fs.String("systems", "etcd,kvd,empty", "systems to measure")
	fs.IntVar(&o.pairs, "pairs", 5, "rounds per cell")
	fs.IntVar(&o.retries, "retries", 5, "more rounds per cell, at most, in place of disturbed ones")
	seconds := fs.Float64("seconds", 2, "measured `seconds` per run")
	warmup := fs.Float64("warmup", 0.7, "`seconds` of load before that")
	fs.IntVar(&o.load.keys, "keys", 50000, "keys in the store")
	fs.IntVar(&o.load.valueBytes, "value-bytes", 256, "size of a value")
	fs.IntVar(&o.restartKeys, "restart-keys", 1_000_000, "keys in the store in the restart cells")
	fs.IntVar(&o.snapshotKeys, "snapshot-keys", 1_000_000, "keys in the store in the snapshot cell")
	fs.IntVar(&o.snapshotRate, "snapshot-rate", 500, "puts per second of the steady load in the snapshot cell")
	fs.StringVar(&o.markdown, "md", "", "Markdown `file` for the report")
	fs.StringVar(&o.profileDir, "cpuprofile", "", "`directory` for a CPU profile of every etcd and kvd member in every cell, taken in one more run after the measured ones")
	fs.BoolVar(&o.gate, "gate", false, "fail when kvd misses its floor in any cell")
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	if fs.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	o.ops, o.systems = strings.Split(*ops, ","), strings.Split(*systems, ",")
	o.load.duration = time.Duration(*seconds * float64(time.Second))
	o.load.warmup = time.Duration(*warmup * float64(time.Second))
	var err error
	if o.clients, err = numbers("clients", *clients); err != nil {
		return nil, err
	}
	if *conns != "auto" {
		if o.conns, err = numbers("conns", *conns); err != nil {
			return nil, err
		}
	}
	if o.members, err = numbers("members", *members); err != nil {
		return nil, err
	}
	if o.shards, err = numbers("shards", *shards); err != nil {
		return nil, err
	}
	for _, op := range o.ops {
		if !slices.Contains([]string{"get", "range", "put", "watch", "restart", "kill", "snapshot", "txn-near2", "txn-far2", "txn-near8", "txn-far8"}, op) {
			return nil, fmt.Errorf("-cells: no operation %q", op)
		}
	}
	for _, s := range o.systems {
		if !slices.Contains([]string{kindEtcd, kindKvd, kindEmpty}, s) {
			return nil, fmt.Errorf("-systems: no system %q", s)
		}
	}
	if o.load.keys < 2*rangeKeys || o.load.keys > 99_999_999 {
		return nil, fmt.Errorf("-keys: %d to 99999999 are possible", 2*rangeKeys)
	}
	if o.snapshotKeys < 2*rangeKeys || o.snapshotKeys > 99_999_999 || o.snapshotRate < 1 {
		return nil, fmt.Errorf("-snapshot-keys: %d to 99999999 are possible; -snapshot-rate must be positive", 2*rangeKeys)
	}
	if o.pairs < 1 || o.load.duration <= 0 {
		return nil, errors.New("-pairs and -seconds must be positive")
	}
	return o, nil
}

func numbers(name, list string) ([]int, error) {
	var out []int
	for part := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(part)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("-%s: %q is not a positive number", name, part)
		}
		out = append(out, n)
	}
	return out, nil
}

// connsFor are the numbers of connections that are combined with a number of clients.
func (o *options) connsFor(clients int) []int {
	if len(o.conns) == 0 {
		return []int{max(1, clients/10)}
	}
	var out []int
	for _, n := range o.conns {
		if n <= clients {
			out = append(out, n)
		}
	}
	return out
}

func run(ctx context.Context, args []string) error {
	o, err := parseOptions(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := o.prepare(ctx); err != nil {
		return err
	}
	defer os.RemoveAll(o.dir)
	r := newReport(os.Stdout, o)
	for _, t := range r.title {
		fmt.Println(t)
	}
	for _, members := range o.members {
		if err := measureMembers(ctx, o, r, members); err != nil {
			return err
		}
	}
	if slices.Contains(o.ops, "restart") {
		for _, members := range o.members {
			if err := measureRestart(ctx, o, r, members); err != nil {
				return err
			}
		}
	}
	if slices.Contains(o.ops, "kill") {
		for _, members := range o.members {
			if err := measureKill(ctx, o, r, members); err != nil {
				return err
			}
		}
	}
	if slices.Contains(o.ops, "snapshot") {
		for _, members := range o.members {
			if err := measureSnapshot(ctx, o, r, members); err != nil {
				return err
			}
		}
	}
	r.finish()
	if o.markdown != "" {
		if err := r.markdown(o.markdown); err != nil {
			return err
		}
	}
	if o.gate && !r.floorKept() {
		return errors.New("kvd missed its floor")
	}
	return nil
}

// prepare builds etcd if needed and makes the directory of this run.
func (o *options) prepare(ctx context.Context) error {
	for _, p := range []*string{&o.dir, &o.kvd, &o.kvctl} {
		abs, err := filepath.Abs(*p)
		if err != nil {
			return err
		}
		*p = abs
	}
	if err := os.MkdirAll(o.dir, 0o755); err != nil {
		return fmt.Errorf("making the directory of the benchmark: %w", err)
	}
	type program struct {
		path            *string
		name, directory string
		wanted          bool
	}
	snapshots := slices.Contains(o.ops, "snapshot")
	for _, p := range []program{
		{&o.etcd, "etcd", "server", slices.Contains(o.systems, kindEtcd)},
		{&o.etcdctl, "etcdctl", "etcdctl", snapshots},
		{&o.etcdutl, "etcdutl", "etcdutl", snapshots},
	} {
		if *p.path != "" || !p.wanted {
			continue
		}
		*p.path = filepath.Join(o.dir, p.name)
		fmt.Println("building", p.name)
		cmd := exec.CommandContext(ctx, "go", "build", "-o", *p.path, "go.etcd.io/etcd/"+p.directory+"/v3")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("building %s (from the directory of the benchmark's module): %w", p.name, err)
		}
	}
	var err error
	if o.dir, err = os.MkdirTemp(o.dir, "run-"); err != nil {
		return fmt.Errorf("making the directory of this run: %w", err)
	}
	return nil
}

// startAll starts every system that was asked for, frozen but for the moment of its own measurement.
func startAll(ctx context.Context, o *options, members int) (systems []*system, err error) {
	defer func() {
		if err != nil {
			closeAll(systems)
		}
	}()
	add := func(name, kind string, shards int) error {
		fmt.Printf("starting %s with %d members\n", name, members)
		s, err := startSystem(ctx, o, name, kind, shards, members)
		if err != nil {
			return err
		}
		systems = append(systems, s)
		return s.freeze()
	}
	for _, kind := range o.systems {
		if kind != kindKvd {
			if err := add(kind, kind, 0); err != nil {
				return systems, err
			}
			continue
		}
		for _, n := range o.shards {
			if err := add(fmt.Sprintf("kvd/%d", n), kind, n); err != nil {
				return systems, err
			}
		}
	}
	return systems, nil
}

func closeAll(systems []*system) {
	for _, s := range systems {
		s.close()
	}
}

func measureMembers(ctx context.Context, o *options, r *report, members int) error {
	var cells []cell
	for _, op := range []string{"get", "range", "put", "txn-near2", "txn-far2", "txn-near8", "txn-far8", "watch"} { // those that only read come first: the store is the same for all systems
		if !slices.Contains(o.ops, op) {
			continue
		}
		for _, clients := range o.clients {
			for _, conns := range o.connsFor(clients) {
				cells = append(cells, cell{op: op, clients: clients, conns: conns, members: members})
			}
		}
	}
	if len(cells) == 0 {
		return nil
	}
	systems, err := startAll(ctx, o, members)
	if err != nil {
		return err
	}
	defer closeAll(systems)
	for _, c := range cells {
		progress := newProgress()
		rounds, err := measure(ctx, o, systems, c, progress.show)
		progress.clear()
		if err != nil {
			return err
		}
		r.add(summarize(systems, c, rounds))
		if o.profileDir != "" {
			if err := profileCell(ctx, o, systems, c); err != nil {
				return err
			}
		}
	}
	return nil
}

// progress is one line that is overwritten on a terminal, and silent elsewhere.
type progress struct{ terminal bool }

func newProgress() *progress {
	st, err := os.Stderr.Stat()
	return &progress{terminal: err == nil && st.Mode()&os.ModeCharDevice != 0}
}

func (p *progress) show(text string) {
	if p.terminal {
		fmt.Fprintf(os.Stderr, "\r\033[K%s", text)
	}
}

func (p *progress) clear() { p.show("") }
