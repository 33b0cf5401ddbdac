package multiraft

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lni/dragonboat/v4"
	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/raftio"
	"go.uber.org/zap"

	"github.com/kvd-io/kvd/internal/histogram"
	"github.com/kvd-io/kvd/multiraft/logstore"
)

// Host runs this member's replicas of any number of raft groups. It is safe for concurrent use.
type Host struct {
	cfg       Config
	log       *zap.Logger
	nh        *dragonboat.NodeHost
	transport *transport
	events    *dispatcher
	// logs is the raft log, once it is open.
	logs     atomic.Pointer[logstore.Store]
	counters counters
	// shortener bounds the logs.
	shortener *shortener
	// ctx ends when Close begins, and with it all calls that wait.
	ctx    context.Context
	cancel context.CancelFunc
	// gate is held for reading during every call of nh, which must not be called any more once it is being closed.
	gate struct {
		sync.RWMutex
		closed bool
	}
	// replicas maps a shard to its *replica, from before it starts until its state machine is closed.
	replicas sync.Map
	// markers is the directory of non-voting markers.
	markers string
	// stamp is the directory's.
	stamp stamp
}

// NewHost opens the directory and starts the engine. It must be called before the mesh is started. An error tells what is wrong with
// configuration or directory.
func NewHost(cfg Config) (h *Host, err error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	if cfg.Dir, err = filepath.Abs(cfg.Dir); err != nil {
		return nil, fmt.Errorf("multiraft: %w", err)
	}
	if cfg.WALDir != "" {
		if cfg.WALDir, err = filepath.Abs(cfg.WALDir); err != nil {
			return nil, fmt.Errorf("multiraft: %w", err)
		}
	}
	h = &Host{cfg: cfg, log: cfg.Logger, markers: filepath.Join(cfg.Dir, "nonvoting")}
	h.counters.applies = histogram.New(lowestApply, applyBuckets)
	if err := h.prepareDirs(); err != nil {
		return nil, err
	}
	routeLogs(cfg.Logger.Named("raft"))
	h.transport = newTransport(&h.cfg, &h.counters, h.runs)
	cfg.Mesh.Registrar().RegisterService(&chunkDesc, h.transport)
	h.ctx, h.cancel = context.WithCancel(context.Background())
	h.shortener = newShortener(h)
	h.events = newDispatcher(h.noteLeader, h.cfg.OnLeader, h.cfg.OnReplica)
	if h.nh, err = openNodeHost(h.nodeHostConfig()); err != nil {
		h.cancel()
		h.events.close()
		return nil, err
	}
	go h.shortener.run()
	h.stamp.Complete = true
	if err := writeStamp(cfg.Dir, h.stamp); err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

// What is in Dir: Dragonboat's own files, the log store, which lies in WALDir as well if there is one, and markers.
const (
	hostElement    = "host"
	entriesElement = "log"
)

// prepareDirs makes the directories and checks that they are this member's.
func (h *Host) prepareDirs() error {
	if err := os.MkdirAll(h.markers, 0o700); err != nil {
		return fmt.Errorf("multiraft: %w", err)
	}
	data := []string{filepath.Join(h.cfg.Dir, hostElement), filepath.Join(h.cfg.Dir, entriesElement)}
	if h.cfg.WALDir != "" {
		data = append(data, filepath.Join(h.cfg.WALDir, entriesElement))
	}
	var err error
	if h.stamp, err = readStamp(h.cfg.Dir, h.cfg.stamp(), data); err != nil {
		return err
	}
	for _, dir := range data {
		if !h.stamp.Complete {
			if err := os.RemoveAll(dir); err != nil {
				return fmt.Errorf("multiraft: %w", err)
			}
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("multiraft: %w", err)
		}
	}
	return nameless(data[0])
}

func (h *Host) nodeHostConfig() config.NodeHostConfig {
	// The log store brings its own configuration; this one only says that there is one of it.
	logs := config.GetTinyMemLogDBConfig()
	logs.Shards = 1
	return config.NodeHostConfig{
		DeploymentID:        h.cfg.DeploymentID,
		NodeHostDir:         filepath.Join(h.cfg.Dir, hostElement),
		RTTMillisecond:      uint64(h.cfg.tick() / time.Millisecond),
		RaftAddress:         address(h.cfg.MemberID),
		MaxSendQueueSize:    maxQueueBytes,
		MaxReceiveQueueSize: maxQueueBytes,
		RaftEventListener:   h.events,
		SystemEventListener: &systemListener{h: h},
		Expert: config.ExpertConfig{
			TransportFactory: h.transport,
			LogDBFactory:     &logFactory{h},
			LogDB:            logs,
			Engine: config.EngineConfig{
				ExecShards: h.stamp.StepWorkers, CommitShards: 1, ApplyShards: applyWorkers, SnapshotShards: snapshotWorkers, CloseShards: closeWorkers,
			},
		},
	}
}

// logFactory opens the log store for Dragonboat.
type logFactory struct{ h *Host }

func (f *logFactory) Name() string { return logstore.Name }

func (f *logFactory) Create(_ config.NodeHostConfig, busy config.LogDBCallback, _, _ []string) (raftio.ILogDB, error) {
	cfg := &f.h.cfg
	opts := logstore.Options{Dir: filepath.Join(cfg.Dir, entriesElement), NoSync: cfg.UnsafeNoFsync, Fatal: cfg.OnFatal,
		Busy: func(b bool) { busy(config.LogDBInfo{Busy: b}) }, Logger: cfg.Logger.Named("raftlog")}
	if cfg.WALDir != "" {
		opts.WALDir = filepath.Join(cfg.WALDir, entriesElement)
	}
	store, err := logstore.Open(opts)
	if err != nil {
		return nil, err
	}
	f.h.logs.Store(store)
	return store, nil
}

// openNodeHost turns Dragonboat's panics about a bad directory into errors.
func openNodeHost(cfg config.NodeHostConfig) (nh *dragonboat.NodeHost, err error) {
	defer func() {
		if r := recover(); r != nil {
			nh, err = nil, fmt.Errorf("multiraft: opening the raft log: %v", r)
		}
	}()
	nh, err = dragonboat.NewNodeHost(cfg)
	if err != nil {
		return nil, fmt.Errorf("multiraft: opening the raft log: %w", err)
	}
	if nh == nil {
		// It swallows panics that are not errors; its log has said why.
		return nil, errors.New("multiraft: opening the raft log failed")
	}
	return nh, nil
}

// Close stops all replicas and waits until their state machines are closed. Proposals in flight end with an unknown fate.
func (h *Host) Close() {
	h.cancel()
	h.gate.Lock()
	closed := h.gate.closed
	h.gate.closed = true
	h.gate.Unlock()
	if closed {
		return
	}
	<-h.shortener.done
	h.nh.Close()
	h.events.close()
}

// enter begins a call of nh and keeps it from being closed until leave. It returns ErrStopped when it is too late.
func (h *Host) enter() error {
	h.gate.RLock()
	if h.gate.closed {
		h.gate.RUnlock()
		return ErrStopped
	}
	return nil
}

func (h *Host) leave() { h.gate.RUnlock() }

// waiting runs a call of nh that waits for an answer. It is given a context that ends with the host, and that has a deadline.
func (h *Host) waiting(ctx context.Context, call func(context.Context) error) error {
	if err := h.enter(); err != nil {
		return err
	}
	defer h.leave()
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	stop := context.AfterFunc(h.ctx, cancel)
	defer stop()
	err := call(ctx)
	switch {
	case err == nil:
		return nil
	case h.ctx.Err() != nil:
		return ErrStopped
	case ctx.Err() != nil:
		return ctxError(ctx)
	}
	return translate(err)
}

// runs tells whether a replica of the shard, that one unless it is 0, runs here.
func (h *Host) runs(shard, replica uint64) bool {
	r := h.replica(shard)
	return r != nil && (replica == 0 || r.id == replica)
}

func (h *Host) replica(shard uint64) *replica {
	v, ok := h.replicas.Load(shard)
	if !ok {
		return nil
	}
	return v.(*replica)
}
