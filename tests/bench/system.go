package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/kvd-io/kvd/tests/cluster"
)

// system is something to measure: one running cluster of etcd, kvd or the empty server.
type system struct {
	name    string // as printed: etcd, kvd/8, empty
	kind    string
	shards  int // of kvd
	cluster *cluster.Cluster
}

const (
	kindEtcd  = "etcd"
	kindKvd   = "kvd"
	kindEmpty = "empty"
)

// startSystem starts a cluster and fills it with the keys that all cells read and overwrite.
func startSystem(ctx context.Context, o *options, name, kind string, shards, members int) (*system, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	s := &system{name: name, kind: kind, shards: shards}
	opts := cluster.Options{Members: members, Dir: fmt.Sprintf("%s/%s-%d", o.dir, strings.ReplaceAll(name, "/", "-"), members)}
	if err := os.MkdirAll(opts.Dir, 0o700); err != nil {
		return nil, err
	}
	switch kind {
	case kindEmpty:
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		opts.Binary = self
		opts.Env = []string{"GOGC=400", "GOMEMLIMIT=1GiB", emptyEnv + "=1"}
		opts.Args = []string{fmt.Sprintf("--value-bytes=%d", o.load.valueBytes)}
	case kindEtcd, kindKvd:
		opts.Binary = o.etcd
		if kind == kindKvd {
			opts.Binary = o.kvd
		}
		opts.Args = append(opts.Args, "--quota-backend-bytes=8589934592")
		if o.profileDir != "" {
			opts.Args = append(opts.Args, "--enable-pprof")
		}
	}
	c, err := cluster.New(opts)
	if err != nil {
		return nil, err
	}
	s.cluster = c
	if err := s.start(ctx, o); err != nil {
		s.close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return s, nil
}

func (s *system) start(ctx context.Context, o *options) error {
	if s.kind == kindEmpty {
		for _, m := range s.cluster.Members {
			if err := m.Start(); err != nil {
				return err
			}
		}
		for _, m := range s.cluster.Members {
			if err := m.WaitReady(ctx); err != nil {
				return err
			}
		}
		return nil
	}
	if err := s.cluster.StartAll(ctx); err != nil {
		return err
	}
	if err := s.preload(ctx, o.load.keys, o.load.valueBytes); err != nil {
		return err
	}
	return s.split(ctx, o, o.load.keys)
}

// preload puts keys 0..n-1 in order, a hundred per transaction; it must run before the keys lie in several shards.
func (s *system) preload(ctx context.Context, n, valueBytes int) error {
	cli, err := s.cluster.Client()
	if err != nil {
		return err
	}
	defer cli.Close()
	const perTxn, parallel = 100, 8
	value := strings.Repeat("v", valueBytes)
	errs := make(chan error, parallel)
	for p := range parallel {
		go func() {
			for first := p * perTxn; first < n; first += parallel * perTxn {
				var ops []clientv3.Op
				for i := first; i < min(first+perTxn, n); i++ {
					ops = append(ops, clientv3.OpPut(string(benchKey(i)), value))
				}
				if _, err := cli.Txn(ctx).Then(ops...).Commit(); err != nil {
					errs <- fmt.Errorf("loading keys: %w", err)
					return
				}
			}
			errs <- nil
		}()
	}
	var all error
	for range parallel {
		all = errors.Join(all, <-errs)
	}
	return all
}

// split cuts the loaded keys into as many shards as the system is to have.
func (s *system) split(ctx context.Context, o *options, keys int) error {
	for i := 1; i < s.shards; i++ {
		if _, err := s.kvctl(ctx, o, "shard", "split", string(benchKey(keys*i/s.shards))); err != nil {
			return err
		}
	}
	if s.shards == 0 {
		return nil
	}
	list, err := s.cluster.Shards(ctx, o.kvctl)
	if err != nil {
		return err
	}
	if len(list) < s.shards {
		return fmt.Errorf("%d shards, %d were asked for", len(list), s.shards)
	}
	return nil
}

func (s *system) kvctl(ctx context.Context, o *options, args ...string) ([]byte, error) {
	return s.cluster.Kvctl(ctx, o.kvctl, args...)
}

// thaw lets a frozen system go on and waits until every member answers a linearizable read and a write again.
func (s *system) thaw(ctx context.Context) error {
	if err := s.cluster.ResumeAll(); err != nil {
		return err
	}
	if s.kind == kindEmpty {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	for _, m := range s.cluster.Members {
		cli, err := s.cluster.Client(m)
		if err != nil {
			return err
		}
		err = untilDone(ctx, func(ctx context.Context) error {
			if _, err := cli.Put(ctx, keyPrefix+"thaw", ""); err != nil {
				return err
			}
			_, err := cli.Get(ctx, keyPrefix+"thaw")
			return err
		})
		cli.Close()
		if err != nil {
			return fmt.Errorf("%s after it was frozen: %w; end of the log of %s:\n%s", s.name, err, m.Name, m.LogTail(4096))
		}
	}
	return nil
}

// untilDone tries fn with short deadlines until it succeeds or ctx ends.
func untilDone(ctx context.Context, fn func(context.Context) error) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		try, cancel := context.WithTimeout(ctx, 3*time.Second)
		err := fn(try)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

func (s *system) freeze() error { return s.cluster.PauseAll() }

// close ends the processes and removes what they stored.
func (s *system) close() {
	s.cluster.Close()
	os.RemoveAll(s.cluster.Dir)
}
