package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/kvd-io/kvd/api"
	"github.com/kvd-io/kvd/auth"
	"github.com/kvd-io/kvd/lease"
	"github.com/kvd-io/kvd/placement"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/router"
	"github.com/kvd-io/kvd/server/config"
	"github.com/kvd-io/kvd/shard"
	"github.com/kvd-io/kvd/shard/manager"
	"github.com/kvd-io/kvd/watch"
)

// wire makes the parts that serve requests, and shows them to each other in each
// other's words.
func (m *Member) wire() error {
	err := m.openAuth()
	if err != nil {
		return err
	}
	seq := sequencer{m.placement}
	m.hub = watch.NewHub(watch.Config{
		MemberID: m.id.member, Stores: stores{m}, Resolver: resolver{m}, Revisions: seq,
		Map: func() watch.RangeMap { return m.placement.Map() }, Peers: m.mesh,
		ProgressInterval: m.cfg.WatchProgressNotifyInterval, Logger: m.log.Named("watch"),
	})
	m.onClose(m.hub.Close)
	m.hub.RegisterFeed(m.mesh.Registrar())
	m.leases = lease.New(lease.Config{
		Router: leaseRouter{m}, MinTTL: minLeaseTTL(m.cfg), RequestTimeout: m.cfg.RequestTimeout(), Logger: m.log.Named("lease"),
	})
	m.onClose(m.leases.Close)
	m.auth.SetLeaseKeys(m.leaseKeys)
	m.manager, err = manager.New(manager.Config{
		Member: m.id.member, Incarnation: m.id.incarnation, Dir: m.dir.Join(manager.Dir), Engine: m.engine,
		Raft: m.host, Bind: func(id uint64) shard.Raft { return shard.Bind(m.host, id) },
		Placement: placementView{m.placement}, Sequencer: seq, Sink: m.hub, Txns: txns{m}, Leases: lease.Shards{Manager: m.leases},
		Alive: m.alive, Ask: m.askReplica,
		Changed: func(id uint64) { m.router.OwnerChanged(id) },
		Logger:  m.log.Named("shard"),
	})
	if err != nil {
		return err
	}
	m.onClose(m.closeManager)
	m.router, err = router.New(router.Config{
		Member: m.id.member, Replicas: replicas{m.manager}, Placement: routerPlacement{seq}, Mesh: m.mesh,
		Logger: m.log.Named("router"), RequestTimeout: m.cfg.RequestTimeout(), AuthOff: m.auth.Off,
		Fenced: func(id uint64) bool { return m.placement.View().Corrupt(id, m.id.member) },
	})
	if err != nil {
		return err
	}
	m.onClose(m.router.Close)
	// Raft has called other members since its log was opened: only from here on is
	// there somebody to tell that such a connection was lost.
	m.mesh.NotifyDown(m.peerDown)
	m.router.Register(m.mesh.Registrar())
	m.balancer = newBalancer(m)
	kvdpb.RegisterLoadsServer(m.mesh.Registrar(), m.balancer)
	m.balance()
	return nil
}

// balance lets the balancer look until the member closes.
func (m *Member) balance() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.balancer.run(ctx)
	}()
	m.onClose(func() {
		cancel()
		<-done
	})
}

// txns is the router in the words of package shard. No replica serves, and so asks,
// before the router is made.
type txns struct{ m *Member }

func (x txns) Inquire(ctx context.Context, record *kvdpb.TxnRecord) (*kvdpb.PartReply, error) {
	return x.m.router.Inquire(ctx, record)
}

func (x txns) Settle(ctx context.Context, record *kvdpb.TxnRecord) error {
	return x.m.router.Settle(ctx, record)
}

func (m *Member) closeManager() {
	m.bounded(stopTimeout, "stop the replicas", m.manager.Close)
}

// sequencer is the placement node in the words of package shard.
type sequencer struct{ *placement.Node }

func (s sequencer) Allocate(ctx context.Context, n int, auth uint64) (shard.Grant, error) {
	g, err := s.Node.Allocate(ctx, n, auth)
	return shard.Grant(g), err
}

func (s sequencer) Current(ctx context.Context) (shard.Grant, error) {
	g, err := s.Node.Current(ctx)
	return shard.Grant(g), err
}

func (s sequencer) TryCurrent() (shard.Grant, bool) {
	g, ok := s.Node.TryCurrent()
	return shard.Grant(g), ok
}

// routerPlacement is the placement node in the words of package router.
type routerPlacement struct{ sequencer }

// placementView is the placement node in the words of package manager.
type placementView struct{ *placement.Node }

func (p placementView) Shards() []*kvdpb.Descriptor {
	m := p.Map()
	if len(m.Seeding()) == 0 {
		return m.Live()
	}
	all := make([]*kvdpb.Descriptor, 0, m.Len()+len(m.Seeding()))
	return append(append(all, m.Live()...), m.Seeding()...)
}

func (p placementView) Sequencer() uint64 {
	if own := p.View().Ownership; own.Serving && !own.Released {
		return own.Member
	}
	return 0
}

func (p placementView) OwnersFollow() bool { return placement.OwnersFollow(p.View().Settings) }

func (p placementView) Corrupt(id, member uint64) bool { return p.View().Corrupt(id, member) }

func (p placementView) Compacted() int64 { return p.View().CompactRevision }

// stores are this member's stores in the words of package watch. The hub is made
// before the manager, and asks only once that runs.
type stores struct{ m *Member }

func (s stores) Snapshot(id uint64) (watch.Snapshot, error) {
	store := s.m.manager.Store(id)
	if store == nil {
		return nil, watch.ErrNoReplica
	}
	sn := store.NewSnapshot()
	if err := sn.Err(); err != nil {
		sn.Close()
		return nil, err
	}
	return sn, nil
}

// resolver is the router, which is made after the hub.
type resolver struct{ m *Member }

func (r resolver) Resolve(ctx context.Context, revision int64, shards []uint64, answer func(shard.Resolved)) {
	r.m.router.Resolve(ctx, revision, shards, answer)
}

// leaseRouter is the router, which is made after the lease manager.
type leaseRouter struct{ m *Member }

func (r leaseRouter) Lease(ctx context.Context, key []byte, call *kvdpb.LeaseCall) (*kvdpb.LeaseAnswer, bool, error) {
	return r.m.router.Lease(ctx, key, call)
}

// Txn deletes what was attached to a lease: whoever may attach keys to a lease or
// revoke it was asked for permission then.
func (r leaseRouter) Txn(ctx context.Context, req *pb.TxnRequest) (*pb.TxnResponse, error) {
	return r.m.router.Txn(auth.Exempt(ctx), req)
}

// minLeaseTTL is etcd's: one and a half election timeouts, counted in heartbeats.
func minLeaseTTL(cfg *config.Config) time.Duration {
	ticks := cfg.ElectionTimeout / cfg.HeartbeatInterval
	return 3 * ticks / 2 * cfg.HeartbeatInterval
}

// storage adds up this member's replicas.
func (m *Member) storage() api.Storage {
	var sum api.Storage
	m.manager.Each(func(r *shard.Replica) bool {
		if store := r.Store(); store != nil {
			sizes := store.Sizes()
			sum.DiskBytes += sizes.DiskBytes
			sum.LiveBytes += sizes.LiveBytes
		}
		applied, revision := r.Applied()
		sum.Applied += applied
		sum.Revision = max(sum.Revision, revision)
		return true
	})
	// What is in use lies partly in memory. Clients expect a size that holds it
	// and that, as etcd's without defragmentation, never falls.
	sum.DiskBytes = max(sum.DiskBytes, sum.LiveBytes)
	for {
		shown := m.shown.Load()
		if sum.DiskBytes <= shown {
			sum.DiskBytes = shown
			return sum
		}
		if m.shown.CompareAndSwap(shown, sum.DiskBytes) {
			return sum
		}
	}
}

// replicas are the manager's in the words of package router.
type replicas struct{ *manager.Manager }

func (r replicas) Replica(id uint64) (router.Replica, bool) {
	found, ok := r.Manager.Replica(id)
	if !ok {
		return nil, false
	}
	return replica{found}, true
}

// replica is a shard's replica in the words of package router.
type replica struct{ *shard.Replica }

func (r replica) View(ctx context.Context, generation, applied uint64, rev int64) (router.View, error) {
	c, err := r.Copy(ctx, generation, applied, rev)
	if errors.Is(err, shard.ErrStaleCopy) {
		return nil, fmt.Errorf("%w: %w", router.ErrStaleView, err)
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

var (
	_ shard.Sequencer   = sequencer{}
	_ router.Placement  = routerPlacement{}
	_ router.Replicas   = replicas{}
	_ manager.Placement = placementView{}
)
