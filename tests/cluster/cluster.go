package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// Cluster is a set of members that were told of each other.
type Cluster struct {
	Members []*Member
	// Network lies between the members if Options.Network asked for it; nil otherwise.
	Network *Network
	// Dir is the base directory of all members.
	Dir string

	opts      Options
	temporary bool
	http      *http.Client
	closeOnce sync.Once
}

// New lays out a cluster: directories, ports and names, but starts no process.
func New(opts Options) (*Cluster, error) {
	if err := opts.validate(); err != nil {
		return nil, err
	}
	bin, err := filepath.Abs(opts.Binary)
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	if _, err := os.Stat(bin); err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	opts.Binary = bin
	c := &Cluster{Dir: opts.Dir, opts: opts}
	if c.Dir == "" {
		if c.Dir, err = os.MkdirTemp("", "kvd-cluster-"); err != nil {
			return nil, fmt.Errorf("cluster: %w", err)
		}
		c.temporary = true
	} else if c.Dir, err = filepath.Abs(c.Dir); err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	if c.opts.Token == "" {
		c.opts.Token = filepath.Base(c.Dir)
	}
	tlsConf, err := c.TLSConfig()
	if err != nil {
		return nil, err
	}
	c.http = httpClient(tlsConf)
	if opts.Network {
		c.Network = newNetwork(c)
	}
	for i := range opts.Members {
		m, err := newMember(c, i)
		if err != nil {
			c.Close()
			return nil, err
		}
		c.Members = append(c.Members, m)
	}
	return c, nil
}

// Start lays out a cluster, starts all its members and waits until each serves clients and calls itself healthy.
func Start(ctx context.Context, opts Options) (*Cluster, error) {
	c, err := New(opts)
	if err != nil {
		return nil, err
	}
	if err := c.StartAll(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// StartAll starts every member that does not run and waits until all are ready and healthy.
func (c *Cluster) StartAll(ctx context.Context) error {
	for _, m := range c.Members {
		if m.Running() {
			continue
		}
		if err := m.Start(); err != nil {
			return err
		}
	}
	return c.each(func(m *Member) error {
		if err := m.WaitReady(ctx); err != nil {
			return err
		}
		return m.WaitHealthy(ctx)
	})
}

// StopAll asks every member to end, all at once, and waits until they are gone.
func (c *Cluster) StopAll(ctx context.Context) error {
	return c.each(func(m *Member) error { return m.Stop(ctx) })
}

// KillAll ends every member with SIGKILL.
func (c *Cluster) KillAll() error { return c.each((*Member).Kill) }

// PauseAll freezes every member, ResumeAll lets them go on.
func (c *Cluster) PauseAll() error { return c.each((*Member).Pause) }

// ResumeAll lets paused members go on.
func (c *Cluster) ResumeAll() error { return c.each((*Member).Resume) }

func (c *Cluster) each(fn func(*Member) error) error {
	errs := make([]error, len(c.Members))
	var wg sync.WaitGroup
	for i, m := range c.Members {
		wg.Go(func() { errs[i] = fn(m) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Close kills what still runs and removes the base directory if New made it, unless KVD_TEST_KEEP is set. It may be called twice.
func (c *Cluster) Close() error {
	var err error
	c.closeOnce.Do(func() {
		err = c.KillAll()
		if c.Network != nil {
			c.Network.close()
		}
		for _, m := range c.Members {
			m.releasePorts()
		}
		if c.temporary && os.Getenv("KVD_TEST_KEEP") == "" {
			err = errors.Join(err, os.RemoveAll(c.Dir))
		}
	})
	return err
}

// Endpoints are the client URLs of all members.
func (c *Cluster) Endpoints() []string {
	var eps []string
	for _, m := range c.Members {
		eps = append(eps, m.ClientURL)
	}
	return eps
}

// Pids are the process ids of all members that run.
func (c *Cluster) Pids() []int {
	var pids []int
	for _, m := range c.Members {
		if m.Running() {
			pids = append(pids, m.Pid())
		}
	}
	return pids
}

// CPU is the CPU time that the running members have used together.
func (c *Cluster) CPU() (time.Duration, error) {
	var sum time.Duration
	for _, pid := range c.Pids() {
		t, err := CPUTime(pid)
		if err != nil {
			return 0, err
		}
		sum += t
	}
	return sum, nil
}

// RSS is the resident memory of the running members together, in bytes.
func (c *Cluster) RSS() (int64, error) {
	var sum int64
	for _, pid := range c.Pids() {
		n, err := RSS(pid)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// TLSConfig is what a client needs to talk to the members; nil when they serve plain text.
func (c *Cluster) TLSConfig() (*tls.Config, error) {
	if c.opts.ClientTLS == nil {
		return nil, nil
	}
	return c.opts.ClientTLS.ClientConfig()
}

// Client connects a stock client to the given members, all if none is named. The caller closes it.
func (c *Cluster) Client(members ...*Member) (*clientv3.Client, error) {
	if len(members) == 0 {
		members = c.Members
	}
	var eps []string
	for _, m := range members {
		eps = append(eps, m.ClientURL)
	}
	conf, err := c.TLSConfig()
	if err != nil {
		return nil, err
	}
	cli, err := clientv3.New(clientv3.Config{
		Endpoints:            eps,
		TLS:                  conf,
		DialTimeout:          5 * time.Second,
		DialKeepAliveTime:    2 * time.Second,
		DialKeepAliveTimeout: 5 * time.Second,
		Logger:               zap.NewNop(),
	})
	if err != nil {
		return nil, fmt.Errorf("connecting to %v: %w", eps, err)
	}
	return cli, nil
}
