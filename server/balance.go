package server

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/placement"
	"github.com/kvd-io/kvd/placement/balance"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard"
)

const (
	// balanceEvery is how often the sequencer's member looks at the loads.
	balanceEvery = 5 * time.Second
	// reportTimeout bounds the question to one member.
	reportTimeout = 2 * time.Second
	// carryOutTimeout bounds what is decided for one shard. A split that takes longer
	// goes on.
	carryOutTimeout = 30 * time.Second
)

// balancer gathers what members report of their loads while this member is the
// sequencer, and carries out what package balance decides.
type balancer struct {
	kvdpb.UnimplementedLoadsServer
	m     *Member
	began time.Time

	mu struct {
		// Mutex is held over a whole pass: two never run at once.
		sync.Mutex
		core *balance.Balancer
		// last are the former reports, which rates are computed from.
		last map[uint64]timedReport
	}
}

type timedReport struct {
	at     time.Time
	report *kvdpb.LoadReport
}

func newBalancer(m *Member) *balancer {
	b := &balancer{m: m, began: time.Now()}
	b.mu.core, b.mu.last = balance.New(), map[uint64]timedReport{}
	return b
}

// run looks at the cluster now and then, until ctx ends.
func (b *balancer) run(ctx context.Context) {
	tick := time.NewTicker(balanceEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if b.m.placement.Serving() {
			b.pass(ctx)
			continue
		}
		// Whoever becomes the sequencer begins with a clean memory.
		b.mu.Lock()
		b.mu.core, b.mu.last = balance.New(), map[uint64]timedReport{}
		b.mu.Unlock()
	}
}

// pass looks, decides and carries out, and tells what in words.
func (b *balancer) pass(ctx context.Context) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var told []string
	for _, d := range b.mu.core.Decide(b.observe(ctx)) {
		words := b.words(d)
		limited, cancel := context.WithTimeout(ctx, carryOutTimeout)
		err := b.carryOut(limited, d)
		cancel()
		if err != nil {
			words += fmt.Sprintf(", which failed: %v", err)
			b.m.log.Warn("the cluster could not do what it decided", zap.String("decision", words))
		} else {
			b.m.log.Info("the cluster changed itself", zap.String("decision", words))
		}
		told = append(told, words)
	}
	return told
}

func (b *balancer) words(d balance.Decision) string {
	name := operations{b.m}.name
	switch d.Kind {
	case balance.Split:
		return fmt.Sprintf("split shard %d at %s: %s", d.Shard, keyspace.Format(d.Key), d.Why)
	case balance.Merge:
		return fmt.Sprintf("merge shard %d into shard %d: %s", d.Right, d.Shard, d.Why)
	case balance.HandOver:
		return fmt.Sprintf("transfer shard %d to %s: %s", d.Shard, name(d.Member), d.Why)
	}
	return fmt.Sprintf("let any member own shard %d: %s", d.Shard, d.Why)
}

func (b *balancer) carryOut(ctx context.Context, d balance.Decision) error {
	if d.Kind == balance.Merge {
		_, err := operations{b.m}.Merge(ctx, d.Shard, d.Right, false)
		return err
	}
	if d.Kind == balance.Split {
		key, ok := keyspace.UserKey(d.Key)
		if !ok {
			return fmt.Errorf("%s is no user's key", keyspace.Format(d.Key))
		}
		_, _, err := b.m.router.Split(ctx, key)
		return err
	}
	_, err := b.m.placement.Update(ctx, &kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_PreferOwner{
		PreferOwner: &kvdpb.PreferOwner{Shard: d.Shard, Member: d.Member, Automatic: true}}})
	return err
}

// observe asks all members. Those that do not answer count as not alive.
func (b *balancer) observe(ctx context.Context) balance.Observation {
	v := b.m.placement.View()
	set := placement.BalanceSettings(v.Settings)
	o := balance.Observation{Now: time.Since(b.began), Sequencer: b.m.id.member, Settings: set}
	now := b.ask(ctx, v.Members, set.SplitBytes)
	loads, owners, rates := map[uint64]*kvdpb.ShardLoad{}, map[uint64]uint64{}, map[uint64]float64{}
	for _, m := range v.Members {
		member := balance.Member{ID: m.Id, CPU: -1}
		if r, ok := now[m.Id]; ok {
			before := b.mu.last[m.Id]
			member.Alive = !m.Learner
			member.CPU = cpuShare(before, r)
			for _, s := range r.report.Shards {
				loads[s.Shard], owners[s.Shard], rates[s.Shard] = s, m.Id, writeRate(before, r, s)
			}
		}
		o.Members = append(o.Members, member)
	}
	b.mu.last = now
	for _, d := range v.Map.Live() {
		s := balance.Shard{ID: d.Shard, Owner: owners[d.Shard], Busy: placement.Doing(v.Map, d) != "",
			Preferred: d.PreferredOwner, Automatic: d.PreferredAutomatically, Writes: rates[d.Shard]}
		for _, r := range d.Replicas {
			if !r.NonVoting && !r.Leaving {
				s.Voters = append(s.Voters, r.Member)
			}
		}
		if l := loads[d.Shard]; l != nil {
			s.Bytes, s.Middle, s.Balanced = l.Bytes, orNil(l.Middle), orNil(l.Balanced)
		}
		o.Shards = append(o.Shards, s)
	}
	return o
}

func orNil(key []byte) []byte {
	if len(key) == 0 {
		return nil
	}
	return key
}

// cpuShare is the share of its processors that a member used between two reports;
// negative if that cannot be told.
func cpuShare(before, now timedReport) float64 {
	past := now.at.Sub(before.at)
	if !follows(before, now) || now.report.Cpus == 0 || now.report.CpuMicros == 0 {
		return -1
	}
	return float64(now.report.CpuMicros-before.report.CpuMicros) / float64(past.Microseconds()) / float64(now.report.Cpus)
}

// writeRate is the number of writes per second of a shard between two reports.
func writeRate(before, now timedReport, s *kvdpb.ShardLoad) float64 {
	if !follows(before, now) {
		return 0
	}
	for _, old := range before.report.Shards {
		if old.Shard == s.Shard && s.Writes >= old.Writes {
			return float64(s.Writes-old.Writes) / now.at.Sub(before.at).Seconds()
		}
	}
	return 0
}

// follows tells whether rates can be computed from two reports.
func follows(before, now timedReport) bool {
	return before.report != nil && before.report.Incarnation == now.report.Incarnation && now.at.Sub(before.at) >= time.Second
}

// ask asks members for their reports, all at once.
func (b *balancer) ask(ctx context.Context, members []*kvdpb.Member, splitBytes int64) map[uint64]timedReport {
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	got := map[uint64]timedReport{}
	for _, m := range members {
		wg.Go(func() {
			r, err := b.report(ctx, m.Id, &kvdpb.LoadRequest{SplitBytes: splitBytes})
			if err != nil {
				b.m.log.Debug("a member does not report its load", zap.String("member", fmt.Sprintf("%016x", m.Id)), zap.Error(err))
				return
			}
			mu.Lock()
			defer mu.Unlock()
			got[m.Id] = timedReport{time.Now(), r}
		})
	}
	wg.Wait()
	return got
}

func (b *balancer) report(ctx context.Context, member uint64, req *kvdpb.LoadRequest) (*kvdpb.LoadReport, error) {
	if member == b.m.id.member {
		return b.Report(ctx, req)
	}
	if !b.m.alive(member) {
		return nil, fmt.Errorf("not connected")
	}
	conn, err := b.m.mesh.Conn(member)
	if err != nil {
		return nil, err
	}
	return kvdpb.NewLoadsClient(conn).Report(ctx, req)
}

// Report implements kvdpb.LoadsServer.
func (b *balancer) Report(ctx context.Context, req *kvdpb.LoadRequest) (*kvdpb.LoadReport, error) {
	report := &kvdpb.LoadReport{CpuMicros: cpuTime().Microseconds(), Cpus: uint32(runtime.GOMAXPROCS(0)), Incarnation: b.m.id.incarnation}
	b.m.manager.Each(func(r *shard.Replica) bool {
		if !r.Serving() {
			return true
		}
		l, err := r.Load(ctx, req.SplitBytes)
		if err != nil {
			b.m.log.Debug("cannot tell the load of a shard", zap.Uint64("shard", r.Shard()), zap.Error(err))
			return ctx.Err() == nil
		}
		report.Shards = append(report.Shards, &kvdpb.ShardLoad{Shard: r.Shard(), Bytes: l.Bytes, Writes: l.Writes, Middle: l.Middle, Balanced: l.Balanced})
		return true
	})
	return report, nil
}

// Pass implements kvdpb.LoadsServer.
func (b *balancer) Pass(ctx context.Context, _ *kvdpb.RebalanceRequest) (*kvdpb.RebalanceResponse, error) {
	if !b.m.placement.Serving() {
		return nil, status.Error(codes.Aborted, "kvd: this member is not the sequencer")
	}
	told := b.m.placement.ScheduleNow(operations{b.m}.name)
	return &kvdpb.RebalanceResponse{Decisions: append(told, b.pass(ctx)...)}, nil
}

// Rebalance implements api.Operations.
func (o operations) Rebalance(ctx context.Context) ([]string, error) {
	for {
		resp, err := o.rebalance(ctx, o.m.placement.SequencerMember())
		if err == nil || status.Code(err) != codes.Aborted {
			return resp.GetDecisions(), err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(lookAgain):
		}
	}
}

func (o operations) rebalance(ctx context.Context, sequencer uint64) (*kvdpb.RebalanceResponse, error) {
	if sequencer == o.m.id.member {
		return o.m.balancer.Pass(ctx, &kvdpb.RebalanceRequest{})
	}
	if sequencer == 0 {
		return nil, status.Error(codes.Aborted, "kvd: no sequencer is known")
	}
	conn, err := o.m.mesh.Conn(sequencer)
	if err != nil {
		return nil, status.Error(codes.Aborted, err.Error())
	}
	return kvdpb.NewLoadsClient(conn).Pass(ctx, &kvdpb.RebalanceRequest{})
}
