package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/kvd-io/kvd/api"
	"github.com/kvd-io/kvd/auth"
	"github.com/kvd-io/kvd/backup"
	"github.com/kvd-io/kvd/lease"
	"github.com/kvd-io/kvd/multiraft"
	"github.com/kvd-io/kvd/multiraft/peer"
	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/placement"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/router"
	"github.com/kvd-io/kvd/server/compactor"
	"github.com/kvd-io/kvd/server/config"
	"github.com/kvd-io/kvd/server/datadir"
	"github.com/kvd-io/kvd/server/integrity"
	"github.com/kvd-io/kvd/server/space"
	"github.com/kvd-io/kvd/shard"
	"github.com/kvd-io/kvd/shard/manager"
	"github.com/kvd-io/kvd/watch"
)

const (
	// drainTimeout bounds the release of the shards, and then that of the
	// sequencer, when stopping.
	drainTimeout = 5 * time.Second
	// stopTimeout bounds the stopping of replicas after that.
	stopTimeout = 5 * time.Second
	// clientGrace is how long requests under way may still take once the member
	// is stopping.
	clientGrace = time.Second
)

// raftDir is where the raft log lies in the data directory, placementDir the store
// of the placement group.
const (
	raftDir      = "raft"
	placementDir = "placement"
)

// Member is one running member.
type Member struct {
	cfg *config.Config
	log *zap.Logger
	id  *identity

	dir       *datadir.Dir
	engine    *mvcc.Engine
	mesh      *peer.Mesh
	host      *multiraft.Host
	calls     *calls
	placement *placement.Node
	hub       *watch.Hub
	manager   *manager.Manager
	balancer  *balancer
	leases    *lease.Manager
	router    *router.Router
	auth      *auth.Service
	backup    *backup.Saver
	api       *api.Server
	space     *space.Guard
	compactor *compactor.Compactor
	integrity *integrity.Checker

	// shown is the largest size that Status told: it never falls.
	shown atomic.Int64

	// leader is the raft leader of the placement group that was seen last,
	// leaderChanges how often it was another one than before.
	leader, leaderChanges atomic.Uint64
	// departing are the members that departed when the last view was looked at; only
	// the subscription to views uses it.
	departing []uint64

	stopped   chan error
	failOnce  sync.Once
	leaveOnce sync.Once
	closeOnce sync.Once
	// giveUp ends the start.
	giveUp context.CancelCauseFunc
	// closers undo what Start has done so far, last first.
	closers []func()
}

// Start starts a member and returns when it is ready: a sequencer answered it and
// it has published its client URLs. It gives up when ctx ends.
func Start(ctx context.Context, cfg *config.Config) (*Member, error) {
	m := &Member{cfg: cfg, log: cfg.Logger, stopped: make(chan error, 1)}
	if m.log == nil {
		m.log = zap.NewNop()
	}
	starting, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	m.giveUp = cancel
	if err := m.start(starting); err != nil {
		m.undo()
		if cause := context.Cause(starting); cause != nil && ctx.Err() == nil {
			err = cause
		}
		return nil, err
	}
	return m, nil
}

// Stopped yields an error when the member broke down by itself. Close must still
// be called.
func (m *Member) Stopped() <-chan error { return m.stopped }

// fail tells, once, that the member cannot go on.
func (m *Member) fail(err error) {
	m.failOnce.Do(func() {
		m.stopped <- err
		m.giveUp(err)
	})
}

// onClose registers what takes apart the part that was just started.
func (m *Member) onClose(f func()) { m.closers = append(m.closers, f) }

func (m *Member) undo() {
	for i := len(m.closers) - 1; i >= 0; i-- {
		m.closers[i]()
	}
	m.closers = nil
}

func (m *Member) start(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		m.openDirectory, m.openEngine, m.forceNewCluster, m.openMesh, m.openPlacement, m.openShards, m.openBackup, m.openMaintenance, m.openAPI, m.run, m.becomeReady,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (m *Member) openDirectory(ctx context.Context) error {
	dir, err := datadir.Open(m.cfg.DataDir)
	if err != nil {
		return err
	}
	m.dir = dir
	m.onClose(func() { m.logError("close data directory", dir.Close()) })
	if m.id, err = identify(ctx, m.cfg, dir); err != nil {
		return err
	}
	m.log.Info("opened the data directory", zap.String("data-dir", m.cfg.DataDir),
		zap.String("cluster-id", fmt.Sprintf("%x", m.id.cluster)), zap.String("local-member-id", fmt.Sprintf("%x", m.id.member)))
	return nil
}

func (m *Member) openEngine(context.Context) error {
	engine, err := mvcc.NewEngine(mvcc.EngineOptions{
		CacheBytes: m.cfg.BlockCacheBytes, MemtableBudget: m.cfg.MemtableBytes, Logger: m.log.Named("mvcc"), OnFailure: m.fail,
	})
	if err != nil {
		return fmt.Errorf("open storage engine: %w", err)
	}
	m.engine = engine
	m.onClose(func() { m.logError("close storage engine", engine.Close()) })
	return nil
}

// openMesh opens the peer port and the node host on it.
func (m *Member) openMesh(context.Context) error {
	opened, err := m.cfg.ListenPeers()
	if err != nil {
		return err
	}
	ports := make([]net.Listener, len(opened))
	for i, l := range opened {
		ports[i] = l.Listener
	}
	clientTLS, err := m.cfg.PeerClientTLS()
	if err == nil {
		m.mesh, err = peer.New(peer.Config{
			ClusterID: m.id.cluster, MemberID: m.id.member, Incarnation: m.id.incarnation,
			Listeners: ports, ClientTLS: clientTLS, Addresses: m.peerURLs, Allowed: m.allowed, Began: m.began,
			Open: []string{placement.DescribeMethod}, OnRemoved: func(uint64) { m.removed() },
			Heartbeat: m.cfg.HeartbeatInterval, Logger: m.log.Named("peer"),
		})
	}
	if err != nil {
		for _, l := range ports {
			err = errors.Join(err, l.Close())
		}
		return fmt.Errorf("open peer port: %w", err)
	}
	m.onClose(m.mesh.Close)
	m.calls = newCalls(func(to uint64, frame []byte) error { return m.mesh.Send(to, peer.ChannelRequest, frame) })
	m.mesh.Handle(peer.ChannelRequest, m.demultiplex)
	wal, err := walDir(m.cfg)
	if err != nil {
		return err
	}
	m.host, err = multiraft.NewHost(multiraft.Config{
		Dir: m.dir.Join(raftDir), WALDir: wal, MemberID: m.id.member, DeploymentID: m.id.cluster, Mesh: m.mesh,
		Heartbeat: m.cfg.HeartbeatInterval, Election: m.cfg.ElectionTimeout, PreVote: m.cfg.PreVote,
		UnsafeNoFsync: m.cfg.UnsafeNoFsync, SnapshotEntries: m.cfg.SnapshotCount, CompactionOverhead: m.cfg.SnapshotCatchUpEntries,
		OnLeader: m.onLeader, OnReplica: m.onReplica, OnFatal: m.fail, Logger: m.log.Named("raft"),
	})
	if err != nil {
		return fmt.Errorf("open raft log: %w", err)
	}
	m.onClose(m.host.Close)
	return nil
}

func (m *Member) openPlacement(context.Context) error {
	replica, err := m.placementReplica()
	if err != nil {
		return err
	}
	mode := placement.ReadLease
	if m.cfg.ReadMode == config.ReadModeQuorum {
		mode = placement.ReadQuorum
	}
	var init *kvdpb.PlacementInit
	if m.id.birth != nil {
		init = m.id.birth.Init
	}
	m.placement, err = placement.NewNode(placement.Config{
		Member: m.id.member, Replica: replica.Replica, Incarnation: m.id.incarnation,
		Raft: placement.NewRaft(m.host), Init: init, ReadMode: mode, Election: m.cfg.ElectionTimeout,
		Open: func() (placement.Storage, error) {
			store, err := m.engine.Open(m.dir.Join(placementDir))
			if err != nil {
				return nil, err
			}
			return placement.NewStorage(store), nil
		},
		Send:   func(to uint64, frame []byte) error { return m.mesh.Send(to, peer.ChannelRequest, frame) },
		Conn:   func(to uint64) (grpc.ClientConnInterface, error) { return m.calls.to(to), nil },
		Alive:  m.alive,
		Logger: m.log.Named("placement"),
	})
	if err != nil {
		return err
	}
	m.onClose(m.placement.Close)
	m.calls.serve(&kvdpb.Placement_ServiceDesc, m.placement.Service())
	m.onClose(m.calls.close)
	kvdpb.RegisterMembershipServer(m.mesh.Registrar(), m.placement.MembershipService())
	m.onClose(func() {
		m.bounded(stopTimeout, "stop the placement replica", func(ctx context.Context) error {
			return m.host.StopReplica(ctx, placement.Shard, replica.Replica)
		})
	})
	return m.host.StartReplica(replica, func() multiraft.StateMachine { return m.placement.Machine() })
}

// placementReplica says how this member's replica of the placement group starts.
func (m *Member) placementReplica() (multiraft.ReplicaConfig, error) {
	rc := multiraft.ReplicaConfig{Shard: placement.Shard}
	if m.id.replica != 0 {
		// It votes once it has caught up.
		rc.Replica, rc.Join, rc.NonVoting = m.id.replica, true, true
		return rc, nil
	}
	if birth := m.id.birth; birth != nil {
		for _, member := range birth.Members {
			if member.Id == m.id.member {
				rc.Replica = member.Replica
			}
		}
		voters := birth.Voters()
		if _, votes := voters[rc.Replica]; votes {
			rc.Initial = voters
		} else {
			// The voters add it as soon as there is a sequencer.
			rc.Join, rc.NonVoting = true, true
		}
		// A cluster of one waits for nobody, and at its birth a cluster has no
		// leader whom an early election could disturb.
		rc.QuickFirstElection = len(birth.Members) == 1 || (m.id.fresh && rc.Replica == 1)
		return rc, nil
	}
	// The flags no longer tell: the raft log knows which replica this member was.
	for id := uint64(1); id <= maxPlacementReplica; id++ {
		if m.host.HasReplica(placement.Shard, id) {
			rc.Replica = id
			return rc, nil
		}
	}
	return rc, fmt.Errorf("the data directory %q was made for another cluster than the flags describe, and that cluster was never joined: give the --initial-cluster and --initial-cluster-token of its first start, or another --data-dir",
		m.cfg.DataDir)
}

// maxPlacementReplica bounds the search for this member's replica id.
const maxPlacementReplica = 1024

func (m *Member) openShards(context.Context) error {
	if err := os.MkdirAll(m.dir.Join(manager.Dir), 0o700); err != nil {
		return fmt.Errorf("create directory of the shards: %w", err)
	}
	return m.wire()
}

// run lets the parts loose on each other.
func (m *Member) run(context.Context) error {
	if err := m.mesh.Start(); err != nil {
		return fmt.Errorf("start peer port: %w", err)
	}
	m.placement.Start()
	m.onClose(m.placement.Subscribe(func(*placement.View) {
		m.manager.Wake()
		m.router.MapChanged()
		m.hub.MapChanged()
		m.auth.Changed()
	}))
	m.onClose(m.placement.Subscribe(m.forsake))
	m.manager.Start()
	m.space.Start()
	m.compactor.Start()
	m.integrity.Start()
	// Probes may look at a member that is not ready yet.
	return m.api.StartMetrics()
}

// becomeReady waits for the cluster, publishes this member and serves clients.
func (m *Member) becomeReady(ctx context.Context) error {
	if _, err := m.placement.Current(ctx); err != nil {
		return fmt.Errorf("wait for the sequencer: %w", err)
	}
	// A member that has published itself has caught up, and may be made to vote.
	if err := m.placement.Barrier(ctx); err != nil {
		return fmt.Errorf("catch up with the cluster: %w", err)
	}
	if err := m.placement.UpdateSelf(ctx, m.cfg.Name, m.cfg.AdvertiseClientURLs.StringSlice()); err != nil {
		return fmt.Errorf("publish this member: %w", err)
	}
	if err := m.placement.Barrier(ctx); err != nil {
		return fmt.Errorf("catch up with the cluster: %w", err)
	}
	if m.cfg.InitialCorruptCheck() {
		if err := m.integrity.Verify(ctx); err != nil {
			return fmt.Errorf("check this member's data: %w", err)
		}
	}
	if err := m.api.Start(); err != nil {
		return fmt.Errorf("serve clients: %w", err)
	}
	m.log.Info("ready to serve client requests", zap.String("name", m.cfg.Name),
		zap.Strings("client-urls", m.cfg.AdvertiseClientURLs.StringSlice()))
	return nil
}

// Close stops the member gracefully and returns when it has stopped.
func (m *Member) Close() {
	m.closeOnce.Do(func() {
		m.log.Info("stopping")
		m.placement.Stopping()
		m.api.Stop(clientGrace)
		m.bounded(drainTimeout, "release this member's shards", m.manager.Drain)
		m.bounded(drainTimeout, "release the sequencer", m.placement.Release)
		m.undo()
	})
}

// bounded runs a step of stopping, which goes on whatever comes of it.
func (m *Member) bounded(limit time.Duration, what string, step func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	m.logError(what, step(ctx))
}

func (m *Member) logError(what string, err error) {
	if err != nil {
		m.log.Warn("could not "+what, zap.Error(err))
	}
}

// onLeader passes on who leads a group.
func (m *Member) onLeader(e multiraft.LeaderEvent) {
	if e.Shard == placement.Shard {
		if e.Leader != 0 && m.leader.Swap(e.Leader) != e.Leader {
			m.leaderChanges.Add(1)
		}
		m.placement.OnLeader()
		return
	}
	m.manager.OnLeader(e)
}

// demultiplex passes on a frame of the request channel by its first byte.
func (m *Member) demultiplex(from uint64, frame []byte) {
	switch {
	case len(frame) == 0:
	case frame[0] <= placement.FrameKindMax:
		m.placement.HandleFrame(from, frame)
	case frame[0] == frameCall || frame[0] == frameCallReply:
		if err := m.calls.handle(from, frame); err != nil {
			m.log.Warn("dropped a frame of another member", zap.Uint64("member", from), zap.Error(err))
		}
	default:
		m.router.HandleFrame(from, frame)
	}
}

func (m *Member) peerDown(member uint64, ch peer.Channel) {
	m.router.PeerDown(member, ch)
	if ch == peer.ChannelRequest {
		m.placement.PeerDown(member)
		m.calls.peerDown(member)
	}
}

// peerURLs is the member table as the mesh dials it.
func (m *Member) peerURLs(member uint64) []string {
	v := m.placement.View()
	if known := v.Peer(member); known != nil {
		return known.PeerUrls
	}
	if v.Initialized() {
		return nil
	}
	for _, p := range m.id.peers {
		if uint64(p.MemberID) == member {
			return p.PeerURLs
		}
	}
	if m.id.birth != nil {
		for _, b := range m.id.birth.Members {
			if b.Id == member {
				return b.PeerUrls
			}
		}
	}
	return nil
}

// allowed refuses members that the cluster does not know.
func (m *Member) allowed(member uint64) error {
	v := m.placement.View()
	switch {
	case v.Removed(member):
		return peer.ErrRemoved
	case v.Initialized() && v.Peer(member) == nil:
		return fmt.Errorf("member %x is not part of the cluster", member)
	}
	return nil
}

// began tells whether a member has ever been ready.
func (m *Member) began(member uint64) bool {
	known := m.placement.View().Peer(member)
	return known != nil && len(known.ClientUrls) > 0
}

var _ shard.Sequencer = sequencer{}
