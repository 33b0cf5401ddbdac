package multiraft

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/raftio"
	"github.com/lni/dragonboat/v4/raftpb"
	"go.uber.org/zap"

	"github.com/kvd-io/kvd/multiraft/peer"
)

// connectPatience is how long a raft message waits for a connection. When it has passed, Dragonboat takes the member for unreachable and
// drops what it has for it during half a second to a second, so it must cover a dial, but not more.
const connectPatience = 500 * time.Millisecond

// transport carries Dragonboat's messages over the mesh. It is both the factory and the one product of it.
type transport struct {
	mesh       *peer.Mesh
	deployment uint64
	preVote    bool
	counters   *counters
	log        *zap.Logger
	// running tells whether a replica, or with 0 any replica of a shard, runs here.
	running func(shard, replica uint64) bool

	messages raftio.MessageHandler
	chunks   raftio.ChunkHandler

	// repeats and beats are what each connection begins with.
	repeats repeats
	beats   beats
	echoes  echoes
	// repeating runs from Start until stop is closed.
	repeating sync.WaitGroup
	stop      chan struct{}

	// gate is held for reading while something is handed to Dragonboat, which takes its parts away once the transport is closed.
	gate struct {
		sync.RWMutex
		closed bool
	}

	mu struct {
		sync.Mutex
		// senders remembers, for the shards that run here, which member a replica was seen on. Dragonboat panics when that changes.
		senders map[raftio.NodeInfo]uint64
		// complained limits log lines about malformed frames to one per member.
		complained map[uint64]bool
	}
}

var (
	_ config.TransportFactory = (*transport)(nil)
	_ raftio.ITransport       = (*transport)(nil)
)

func newTransport(cfg *Config, counters *counters, running func(shard, replica uint64) bool) *transport {
	t := &transport{mesh: cfg.Mesh, deployment: cfg.DeploymentID, preVote: cfg.PreVote, counters: counters, log: cfg.Logger, running: running,
		stop: make(chan struct{})}
	t.repeats = repeats{after: repeatHeartbeats * cfg.Heartbeat}
	t.beats = beats{heartbeat: cfg.tick(), election: cfg.Election, idleAfter: cfg.idleAfter}
	t.echoes.heartbeat, t.echoes.election = cfg.tick(), cfg.Election
	t.echoes.runs = func(shard uint64) bool { return running(shard, 0) }
	t.mu.senders = make(map[raftio.NodeInfo]uint64)
	t.mu.complained = make(map[uint64]bool)
	return t
}

// Create implements config.TransportFactory.
func (t *transport) Create(_ config.NodeHostConfig, messages raftio.MessageHandler, chunks raftio.ChunkHandler) raftio.ITransport {
	t.messages, t.chunks = messages, chunks
	return t
}

// Validate implements config.TransportFactory.
func (t *transport) Validate(addr string) bool {
	_, ok := parseAddress(addr)
	return ok
}

// Name implements raftio.ITransport.
func (t *transport) Name() string { return "kvd-peer-mesh" }

// Start implements raftio.ITransport.
func (t *transport) Start() error {
	t.mesh.Handle(peer.ChannelRaft, t.receive)
	t.mesh.NotifyDown(func(member uint64, ch peer.Channel) {
		if ch == peer.ChannelRaft {
			t.echoes.lose(member)
		}
	})
	t.repeating.Go(t.repeatEchoes)
	return nil
}

// Close implements raftio.ITransport. The mesh is not the transport's to close.
func (t *transport) Close() error {
	t.gate.Lock()
	closed := t.gate.closed
	t.gate.closed = true
	t.gate.Unlock()
	if !closed {
		close(t.stop)
	}
	t.repeating.Wait()
	return nil
}

// repeatEchoes looks at each heartbeat for members that have fallen silent.
func (t *transport) repeatEchoes() {
	tick := time.NewTicker(t.echoes.heartbeat)
	defer tick.Stop()
	for {
		select {
		case <-t.stop:
			return
		case <-tick.C:
			all := t.echoes.due(time.Now())
			if len(all) == 0 {
				continue
			}
			t.counters.repeated.Add(uint64(len(all)))
			if err := t.inject(all...); err != nil && !errors.Is(err, ErrStopped) {
				t.log.Error("heartbeats could not be repeated", zap.Error(err))
			}
		}
	}
}

func (t *transport) closed() bool {
	t.gate.RLock()
	defer t.gate.RUnlock()
	return t.gate.closed
}

// GetConnection implements raftio.ITransport. It fails while the member is not connected, so that Dragonboat tells the groups.
func (t *transport) GetConnection(ctx context.Context, target string) (raftio.IConnection, error) {
	to, err := t.member(target)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, connectPatience)
	defer cancel()
	if err := t.mesh.WaitConnected(ctx, to, peer.ChannelRaft); err != nil {
		return nil, err
	}
	return &connection{t: t, to: to, repeats: t.repeats, beats: t.beats}, nil
}

func (t *transport) member(target string) (uint64, error) {
	to, ok := parseAddress(target)
	if !ok {
		return 0, fmt.Errorf("multiraft: raft address %q", target)
	}
	if t.closed() {
		return 0, ErrStopped
	}
	return to, nil
}

// connection sends one group of shards' messages to one member. All of them share the member's raft channel. One goroutine at a time
// uses it.
type connection struct {
	t       *transport
	to      uint64
	repeats repeats
	beats   beats
}

// Close implements raftio.IConnection.
func (c *connection) Close() {}

// SendMessageBatch implements raftio.IConnection. The batch is encoded straight into the connection's buffer before it returns, because
// its entries are reused afterwards.
func (c *connection) SendMessageBatch(batch raftpb.MessageBatch) error {
	if c.t.closed() {
		return ErrStopped
	}
	// The receiver knows who we are better than we could say.
	batch.SourceAddress = ""
	now := time.Now()
	batch.Requests = c.repeats.drop(batch.Requests, now)
	before := len(batch.Requests)
	var heartbeats int
	batch.Requests, heartbeats = c.beats.drop(batch.Requests, now)
	c.t.counters.heartbeats.Add(uint64(heartbeats))
	c.t.counters.withheld.Add(uint64(before - len(batch.Requests)))
	if len(batch.Requests) == 0 {
		return nil
	}
	return c.t.mesh.SendWith(c.to, peer.ChannelRaft, batch.Size(), batch.MarshalTo)
}

// receive takes one frame of raft messages.
func (t *transport) receive(from uint64, frame []byte) {
	batch, err := decodeBatch(frame, t.deployment, t.preVote)
	if err == nil {
		err = t.checkSenders(from, batch.Requests)
	}
	if err == nil && len(batch.Requests) > 0 {
		t.echoes.hear(from, batch.Requests, time.Now())
		batch.SourceAddress = address(from)
		err = t.deliver(batch)
	}
	if err != nil && !errors.Is(err, ErrStopped) {
		t.complain(from, err)
	}
}

// deliver hands messages to Dragonboat. Its address book panics when told two members for one replica; checkSenders and the membership
// that the log brings could disagree only about a member that lies, and then its messages are dropped.
func (t *transport) deliver(batch raftpb.MessageBatch) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("multiraft: raft messages refused: %v", r)
		}
	}()
	t.gate.RLock()
	defer t.gate.RUnlock()
	if t.gate.closed {
		return ErrStopped
	}
	t.messages(batch)
	return nil
}

// checkSenders makes sure that a replica's messages come from one member only.
func (t *transport) checkSenders(from uint64, all []raftpb.Message) error {
	var last raftio.NodeInfo
	for i := range all {
		key := raftio.NodeInfo{ShardID: all[i].ShardID, ReplicaID: all[i].From}
		if key == last {
			continue
		}
		last = key
		if t.running(key.ShardID, key.ReplicaID) {
			return fmt.Errorf("multiraft: replica %d of shard %d is this member's own", key.ReplicaID, key.ShardID)
		}
		t.mu.Lock()
		known, ok := t.mu.senders[key]
		if !ok && t.running(key.ShardID, 0) {
			t.mu.senders[key] = from
		}
		t.mu.Unlock()
		if ok && known != from {
			return fmt.Errorf("multiraft: replica %d of shard %d is on member %016x", key.ReplicaID, key.ShardID, known)
		}
	}
	return nil
}

// forget drops what was learned about a shard whose replica here has ended.
func (t *transport) forget(shard uint64) {
	t.echoes.forget(shard)
	t.mu.Lock()
	defer t.mu.Unlock()
	for key := range t.mu.senders {
		if key.ShardID == shard {
			delete(t.mu.senders, key)
		}
	}
}

func (t *transport) complain(from uint64, err error) {
	t.mu.Lock()
	again := t.mu.complained[from]
	t.mu.complained[from] = true
	t.mu.Unlock()
	level := zap.ErrorLevel
	if again {
		level = zap.DebugLevel
	}
	t.log.Log(level, "raft messages of a peer dropped", zap.String("member", fmt.Sprintf("%016x", from)), zap.Error(err))
}

// inject hands messages to local replicas as if they had come from outside.
func (t *transport) inject(all ...raftpb.Message) error {
	return t.deliver(raftpb.MessageBatch{DeploymentId: t.deployment, BinVer: raftio.TransportBinVersion, Requests: all})
}

var errChunkRefused = errors.New("multiraft: snapshot chunk refused by the receiver")
