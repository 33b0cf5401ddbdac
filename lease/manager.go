package lease

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
)

// MaxTTL is the largest time of a lease, in seconds, as in etcd.
const MaxTTL = 9_000_000_000

// Router is what the manager needs of the router.
type Router interface {
	// Lease carries a step to the owner of the shard that holds an encoded key,
	// again if need be. unsure: an earlier try may have been carried out.
	Lease(ctx context.Context, key []byte, call *kvdpb.LeaseCall) (answer *kvdpb.LeaseAnswer, unsure bool, err error)
	// Txn carries out a transaction over any shards.
	Txn(ctx context.Context, req *pb.TxnRequest) (*pb.TxnResponse, error)
}

// Config is what a Manager is made of.
type Config struct {
	Router Router
	// MinTTL is what shorter leases get. etcd: one and a half election timeouts.
	MinTTL time.Duration
	// RequestTimeout bounds one attempt to end a lease.
	RequestTimeout time.Duration
	Logger         *zap.Logger
}

// Manager is a member's part in the cluster's leases. Methods are safe for
// concurrent use.
type Manager struct {
	cfg    Config
	minTTL int64
	stats  counters

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu struct {
		sync.Mutex
		closed bool
		// ending holds the leases that wait to be ended or are in work.
		ending map[int64]bool
		queue  []int64
		// workers is how many run.
		workers int
	}
}

// New makes a manager.
func New(cfg Config) *Manager {
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	if cfg.RequestTimeout <= 0 {
		cfg.RequestTimeout = 7 * time.Second
	}
	m := &Manager{cfg: cfg, minTTL: int64((cfg.MinTTL + time.Second - 1) / time.Second)}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.mu.ending = make(map[int64]bool)
	return m
}

// Close ends the manager's work and returns when it has ended.
func (m *Manager) Close() {
	m.mu.Lock()
	m.mu.closed = true
	m.mu.Unlock()
	m.cancel()
	m.wg.Wait()
}

// Info is a lease as its owner sees it.
type Info struct {
	ID int64
	// TTL is what was granted, in seconds.
	TTL int64
	// Remaining is what is left of that, negative if it is over.
	Remaining time.Duration
	// Revision is a current one.
	Revision int64
	// spans are where keys may be attached.
	spans    []*kvdpb.LeaseSpan
	revoking bool
}

// Grant makes a lease; id 0 has one chosen. It fails with
// rpctypes.ErrGRPCLeaseExist and ErrGRPCLeaseTTLTooLarge.
func (m *Manager) Grant(ctx context.Context, id, ttl int64) (Info, error) {
	if ttl > MaxTTL {
		return Info{}, rpctypes.ErrGRPCLeaseTTLTooLarge
	}
	ttl = max(ttl, m.minTTL)
	chosen := id == 0
	for {
		if chosen {
			id = rand.Int64N(1<<63-1) + 1
		}
		answer, _, err := m.cfg.Router.Lease(ctx, keyspace.Lease(id), &kvdpb.LeaseCall{Step: &kvdpb.LeaseCall_Grant{
			Grant: &kvdpb.LeaseGrant{Id: id, Ttl: ttl, Nonce: rand.Uint64()}}})
		if chosen && errors.Is(err, rpctypes.ErrGRPCLeaseExist) {
			continue
		}
		if err != nil {
			return Info{}, err
		}
		m.stats.granted.Add(1)
		m.stats.observe(ttl)
		return Info{ID: id, TTL: ttl, Remaining: time.Duration(ttl) * time.Second, Revision: answer.GetRevision()}, nil
	}
}

// KeepAlive lets a lease live for its whole time again. It fails with
// rpctypes.ErrGRPCLeaseNotFound.
func (m *Manager) KeepAlive(ctx context.Context, id int64) (Info, error) {
	answer, _, err := m.cfg.Router.Lease(ctx, keyspace.Lease(id), &kvdpb.LeaseCall{Step: &kvdpb.LeaseCall_KeepAlive{KeepAlive: id}})
	if err != nil {
		return Info{Revision: answer.GetRevision()}, err
	}
	m.stats.renewed.Add(1)
	return oneInfo(id, answer)
}

// Describe tells what is left of a lease. It fails with
// rpctypes.ErrGRPCLeaseNotFound.
func (m *Manager) Describe(ctx context.Context, id int64) (Info, error) {
	answer, _, err := m.cfg.Router.Lease(ctx, keyspace.Lease(id), &kvdpb.LeaseCall{Step: &kvdpb.LeaseCall_Describe{Describe: id}})
	if err != nil {
		return Info{Revision: answer.GetRevision()}, err
	}
	return oneInfo(id, answer)
}

func oneInfo(id int64, answer *kvdpb.LeaseAnswer) (Info, error) {
	if len(answer.GetLeases()) != 1 || answer.Leases[0].GetRecord().GetId() != id {
		return Info{}, fmt.Errorf("answer about another lease than %x", id)
	}
	l := answer.Leases[0]
	return Info{
		ID: id, TTL: l.Record.Ttl, Remaining: time.Duration(l.RemainingMs) * time.Millisecond, Revision: answer.Revision,
		spans: l.Record.Spans, revoking: l.Record.Revoking,
	}, nil
}

// Keys lists the client's keys that are attached to a lease, in order.
func (m *Manager) Keys(ctx context.Context, id int64) ([][]byte, error) {
	info, err := m.Describe(ctx, id)
	if err != nil {
		return nil, err
	}
	encoded, err := m.attached(ctx, info, false)
	if err != nil {
		return nil, err
	}
	keys := make([][]byte, 0, len(encoded))
	for _, e := range encoded {
		if key, ok := keyspace.UserKey(e); ok {
			keys = append(keys, key)
		}
	}
	return keys, nil
}

// List lists all leases, those that end first at the beginning, as etcd does, with
// a current revision.
func (m *Manager) List(ctx context.Context) (all []Info, revision int64, err error) {
	span := keyspace.Leases()
	for at, after := span.Start, []byte(nil); span.Contains(at); {
		answer, _, err := m.cfg.Router.Lease(ctx, at, &kvdpb.LeaseCall{Step: &kvdpb.LeaseCall_List{List: &kvdpb.LeaseList{After: after}}})
		if err != nil {
			return nil, 0, err
		}
		revision = max(revision, answer.Revision)
		for _, l := range answer.Leases {
			all = append(all, Info{ID: l.GetRecord().GetId(), TTL: l.GetRecord().GetTtl(),
				Remaining: time.Duration(l.RemainingMs) * time.Millisecond, Revision: answer.Revision})
		}
		if answer.More && len(answer.Leases) > 0 {
			after = keyspace.Lease(answer.Leases[len(answer.Leases)-1].GetRecord().GetId())
			at = keyspace.Key(after).End
			continue
		}
		if at = bytes.Clone(answer.End); len(at) == 0 {
			return nil, 0, errors.New("list of leases without an end")
		}
	}
	slices.SortStableFunc(all, func(a, b Info) int { return cmp.Compare(a.Remaining, b.Remaining) })
	return all, revision, nil
}

// Revoke ends a lease before its time and returns, with a current revision, when
// its keys are deleted. It fails with rpctypes.ErrGRPCLeaseNotFound.
func (m *Manager) Revoke(ctx context.Context, id int64) (revision int64, err error) {
	answer, unsure, err := m.cfg.Router.Lease(ctx, keyspace.Lease(id), &kvdpb.LeaseCall{Step: &kvdpb.LeaseCall_Revoke{Revoke: id}})
	if unsure && errors.Is(err, rpctypes.ErrGRPCLeaseNotFound) {
		// The try before was carried out.
		err = nil
	}
	if err == nil {
		m.stats.revoked.Add(1)
	}
	return answer.GetRevision(), err
}

// Register notes that keys of a span may be attached to a lease.
func (m *Manager) Register(ctx context.Context, id int64, span keyspace.Span) error {
	_, _, err := m.cfg.Router.Lease(ctx, keyspace.Lease(id), &kvdpb.LeaseCall{Step: &kvdpb.LeaseCall_Register{Register: &kvdpb.LeaseRegister{
		Id: id, Span: &kvdpb.LeaseSpan{Start: span.Start, End: span.End}}}})
	return err
}

// attached lists the encoded keys that are attached to a lease in the spans that
// are registered, in order. With fence none can be added any more.
func (m *Manager) attached(ctx context.Context, info Info, fence bool) ([][]byte, error) {
	var keys [][]byte
	for _, s := range info.spans {
		for at := s.Start; bytes.Compare(at, s.End) < 0; {
			answer, _, err := m.cfg.Router.Lease(ctx, at, &kvdpb.LeaseCall{Step: &kvdpb.LeaseCall_Attached{Attached: &kvdpb.LeaseAttached{
				Id: info.ID, Span: &kvdpb.LeaseSpan{Start: at, End: s.End}, Fence: fence}}})
			if err != nil {
				return nil, err
			}
			keys = append(keys, answer.Keys...)
			switch {
			case answer.More && len(answer.Keys) > 0:
				at = keyspace.Key(answer.Keys[len(answer.Keys)-1]).End
			case len(answer.End) > 0 && bytes.Compare(answer.End, at) > 0:
				at = bytes.Clone(answer.End)
			default:
				return nil, errors.New("list of attached keys without an end")
			}
		}
	}
	slices.SortFunc(keys, bytes.Compare)
	return slices.CompactFunc(keys, bytes.Equal), nil
}
