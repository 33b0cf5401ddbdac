package cluster

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// readyText is what a member logs once it serves clients; etcd's own suites wait for the same text.
const readyText = "ready to serve client requests"

// pollInterval is how often a condition that nobody signals (a line in a file, an answer over HTTP) is looked at.
const pollInterval = 5 * time.Millisecond

// Member is one member of a cluster, running or not. Its methods may be called from several goroutines.
type Member struct {
	// Index counts from 0; Name is the member's --name.
	Index int
	Name  string
	// ClientURL is where it listens for clients, Address is its host and port; PeerURL is what it advertises to the other members.
	ClientURL, PeerURL, Address string
	// DataDir and LogPath lie below Dir. The log is appended to over all runs.
	Dir, DataDir, LogPath string

	cluster    *Cluster
	ports      []*port
	listenPeer string // PeerURL, or what lies behind the proxy there

	mu struct {
		sync.Mutex
		proc      *Process
		logOffset int64 // where the log of the running process begins
		extra     []string
	}
}

// SetArgs replaces the flags that are appended to the member's own at its next start.
func (m *Member) SetArgs(args ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.extra = args
}

// Args are the flags of the next start.
func (m *Member) Args() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.argsLocked()
}

func (m *Member) argsLocked() []string {
	o := m.cluster.opts
	args := []string{
		"--name=" + m.Name,
		"--data-dir=" + m.DataDir,
		"--listen-peer-urls=" + m.listenPeer,
		"--initial-advertise-peer-urls=" + m.PeerURL,
		"--listen-client-urls=" + m.ClientURL,
		"--advertise-client-urls=" + m.ClientURL,
		"--initial-cluster=" + m.cluster.initialCluster(),
		"--initial-cluster-state=new",
		"--initial-cluster-token=" + o.Token,
	}
	if c := o.ClientTLS; c != nil {
		args = append(args, "--cert-file="+c.ServerCert, "--key-file="+c.ServerKey, "--trusted-ca-file="+c.CA, "--client-cert-auth")
	}
	if c := o.PeerTLS; c != nil {
		args = append(args, "--peer-cert-file="+c.ServerCert, "--peer-key-file="+c.ServerKey, "--peer-trusted-ca-file="+c.CA, "--peer-client-cert-auth")
	}
	args = append(args, o.Args...)
	return append(args, m.mu.extra...)
}

// Start starts the process and returns at once; see WaitReady.
func (m *Member) Start() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.runningLocked() {
		return fmt.Errorf("member %s is already running", m.Name)
	}
	if err := os.MkdirAll(m.Dir, 0o700); err != nil {
		return fmt.Errorf("starting member %s: %w", m.Name, err)
	}
	log, err := os.OpenFile(m.LogPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("starting member %s: %w", m.Name, err)
	}
	defer log.Close()
	st, err := log.Stat()
	if err != nil {
		return fmt.Errorf("starting member %s: %w", m.Name, err)
	}
	p, err := StartProcess(ProcessOptions{Path: m.cluster.opts.Binary, Args: m.argsLocked(), Env: m.cluster.opts.Env, Dir: m.Dir, Log: log})
	if err != nil {
		return fmt.Errorf("starting member %s: %w", m.Name, err)
	}
	m.mu.proc, m.mu.logOffset = p, st.Size()
	return nil
}

// Process is the current or last run; nil before the first.
func (m *Member) Process() *Process {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.proc
}

// Running tells whether the process lives.
func (m *Member) Running() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.runningLocked()
}

func (m *Member) runningLocked() bool {
	if m.mu.proc == nil {
		return false
	}
	select {
	case <-m.mu.proc.Exited():
		return false
	default:
		return true
	}
}

// Pid is the process id of the current or last run, 0 before the first.
func (m *Member) Pid() int {
	if p := m.Process(); p != nil {
		return p.Pid()
	}
	return 0
}

// Kill ends the process with SIGKILL, as a power cut of that process would, and waits until it is gone.
func (m *Member) Kill() error { return m.end(context.Background(), syscall.SIGKILL) }

// Stop asks the process to end with SIGTERM and waits until it is gone or ctx ends.
func (m *Member) Stop(ctx context.Context) error { return m.end(ctx, syscall.SIGTERM) }

func (m *Member) end(ctx context.Context, sig os.Signal) error {
	p := m.Process()
	if p == nil {
		return nil
	}
	if err := p.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("sending %v to member %s: %w", sig, m.Name, err)
	}
	select {
	case <-p.Exited():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("member %s did not end on %v: %w", m.Name, sig, ctx.Err())
	}
}

// Pause freezes the process with SIGSTOP; Resume lets it go on.
func (m *Member) Pause() error { return m.signal(syscall.SIGSTOP) }

// Resume lets a paused process go on.
func (m *Member) Resume() error { return m.signal(syscall.SIGCONT) }

func (m *Member) signal(sig os.Signal) error {
	p := m.Process()
	if p == nil {
		return fmt.Errorf("member %s was never started", m.Name)
	}
	if err := p.Signal(sig); err != nil {
		return fmt.Errorf("sending %v to member %s: %w", sig, m.Name, err)
	}
	return nil
}

// Restart stops the member in an orderly way, starts it again and waits until it serves clients.
func (m *Member) Restart(ctx context.Context) error {
	if err := m.Stop(ctx); err != nil {
		return err
	}
	if err := m.Start(); err != nil {
		return err
	}
	return m.WaitReady(ctx)
}

// WaitReady waits until the current run has logged that it serves clients.
func (m *Member) WaitReady(ctx context.Context) error { return m.WaitLog(ctx, readyText) }

// WaitLog waits until the current run has logged text. The error tells the end of the log if the process ended first.
func (m *Member) WaitLog(ctx context.Context, text string) error {
	m.mu.Lock()
	p, offset := m.mu.proc, m.mu.logOffset
	m.mu.Unlock()
	if p == nil {
		return fmt.Errorf("member %s was never started", m.Name)
	}
	r, err := openLog(m.LogPath, offset)
	if err != nil {
		return fmt.Errorf("waiting for %q of member %s: %w", text, m.Name, err)
	}
	defer r.close()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		var gone bool
		select {
		case <-p.Exited():
			gone = true // look once more, then give up
		default:
		}
		found, err := r.find([]byte(text))
		if err != nil || found {
			return err
		}
		if gone {
			return fmt.Errorf("member %s ended (%v) before it logged %q; end of its log:\n%s", m.Name, p.Err(), text, tail(m.LogPath, 4096))
		}
		select {
		case <-tick.C:
		case <-p.Exited():
		case <-ctx.Done():
			return fmt.Errorf("waiting for %q of member %s: %w; end of its log:\n%s", text, m.Name, ctx.Err(), tail(m.LogPath, 4096))
		}
	}
}

// Health asks the member's health endpoint once; nil means that it calls itself healthy.
func (m *Member) Health(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.ClientURL+"/health", nil)
	if err != nil {
		return err
	}
	resp, err := m.cluster.http.Do(req)
	if err != nil {
		return fmt.Errorf("health of member %s: %w", m.Name, err)
	}
	defer resp.Body.Close()
	var body struct {
		Health string `json:"health"`
		Reason string `json:"reason"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil {
		return fmt.Errorf("health of member %s: %w", m.Name, err)
	}
	if resp.StatusCode != http.StatusOK || body.Health != "true" {
		return fmt.Errorf("health of member %s: %s %s", m.Name, resp.Status, body.Reason)
	}
	return nil
}

// WaitHealthy waits until the member calls itself healthy.
func (m *Member) WaitHealthy(ctx context.Context) error {
	return m.wait(ctx, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		return m.Health(ctx)
	})
}

// wait repeats cond until it gives no error, the process is gone or ctx ends.
func (m *Member) wait(ctx context.Context, cond func(context.Context) error) error {
	p := m.Process()
	if p == nil {
		return fmt.Errorf("member %s was never started", m.Name)
	}
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		err := cond(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-p.Exited():
			return fmt.Errorf("member %s ended (%v); end of its log:\n%s", m.Name, p.Err(), tail(m.LogPath, 4096))
		case <-ctx.Done():
			return fmt.Errorf("%w; end of the log of member %s:\n%s", err, m.Name, tail(m.LogPath, 4096))
		}
	}
}

// Log is the whole log of all runs.
func (m *Member) Log() string {
	b, err := os.ReadFile(m.LogPath)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// LogTail is the end of the log, at most limit bytes.
func (m *Member) LogTail(limit int64) string { return tail(m.LogPath, limit) }

func newMember(c *Cluster, index int) (*Member, error) {
	m := &Member{Index: index, Name: fmt.Sprintf("m%d", index+1), cluster: c}
	for range 3 {
		p, err := reservePort()
		if err != nil {
			m.releasePorts()
			return nil, err
		}
		m.ports = append(m.ports, p)
	}
	m.Dir = filepath.Join(c.Dir, m.Name)
	m.DataDir = filepath.Join(m.Dir, "data")
	m.LogPath = filepath.Join(m.Dir, "log")
	m.Address = fmt.Sprintf("127.0.0.1:%d", m.ports[0].number)
	m.ClientURL = c.opts.clientScheme() + "://" + m.Address
	m.PeerURL = fmt.Sprintf("%s://127.0.0.1:%d", c.opts.peerScheme(), m.ports[1].number)
	m.listenPeer = m.PeerURL
	if c.Network != nil {
		behind := fmt.Sprintf("127.0.0.1:%d", m.ports[2].number)
		m.listenPeer = c.opts.peerScheme() + "://" + behind
		if err := c.Network.listen(index, fmt.Sprintf("127.0.0.1:%d", m.ports[1].number), behind); err != nil {
			m.releasePorts()
			return nil, err
		}
	}
	return m, nil
}

func (m *Member) releasePorts() {
	for _, p := range m.ports {
		p.release()
	}
}

func (c *Cluster) initialCluster() string {
	var parts []string
	for _, m := range c.Members {
		parts = append(parts, m.Name+"="+m.PeerURL)
	}
	return strings.Join(parts, ",")
}

func httpClient(conf *tls.Config) *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true}}
}
