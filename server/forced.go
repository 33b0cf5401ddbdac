package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/kvd-io/kvd/multiraft"
	"github.com/kvd-io/kvd/placement"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard"
	"github.com/kvd-io/kvd/shard/manager"
)

// forceNewCluster makes a cluster of this member alone, if that was asked for:
//
//  1. What the placement group's log leads to is computed, without changing
//     anything: members, shards, replicas.
//  2. Every shard must have a replica here that holds data. If one has none, or
//     if another member answers, it is an error, and nothing was changed.
//  3. The raft logs of all these replicas get their last entries in one synced
//     write: the removal of all other replicas and, in the placement group, the
//     command that makes this the only member. A crash comes before or after.
//
// What then happens is the ordinary start after a crash: the logs are replayed,
// the entries that count as committed now included, owners claim and wait out
// their predecessors, transactions are settled by their anchors' records.
func (m *Member) forceNewCluster(ctx context.Context) error {
	if !m.cfg.ForceNewCluster {
		return nil
	}
	err := m.forceAlone(ctx)
	if err != nil {
		return fmt.Errorf("--force-new-cluster: %w; nothing was changed", err)
	}
	return nil
}

func (m *Member) forceAlone(ctx context.Context) (err error) {
	wal, err := walDir(m.cfg)
	if err != nil {
		return err
	}
	logs, err := multiraft.OpenLogs(multiraft.Config{
		Dir: m.dir.Join(raftDir), WALDir: wal, MemberID: m.id.member, DeploymentID: m.id.cluster, OnFatal: m.fail, Logger: m.log.Named("raft"),
	})
	if err != nil {
		return fmt.Errorf("open raft log: %w", err)
	}
	if logs == nil {
		m.log.Info("there is no cluster yet that --force-new-cluster could make a new one of")
		return nil
	}
	defer func() { err = errors.Join(err, logs.Close()) }()
	f := &forcing{m: m, logs: logs}
	if err := f.foresee(); err != nil {
		return err
	}
	if f.aloneAlready() {
		m.log.Info("--force-new-cluster: this member is the only one already")
		return nil
	}
	if err := f.refuseRunning(ctx); err != nil {
		return err
	}
	if err := f.surveyShards(); err != nil {
		return err
	}
	return f.force()
}

// forcing is a new cluster of one member in the making.
type forcing struct {
	m    *Member
	logs *multiraft.Logs
	// placement is the log of this member's replica of the placement group.
	placement *multiraft.Log
	replica   uint64
	foreseen  *placement.Foreseen
	state     *kvdpb.PlacementState
	survivors []multiraft.Survivor
	// revision and compacted are the largest that the shards tell of.
	revision, compacted int64
}

// foresee computes the placement state at the end of the log.
func (f *forcing) foresee() error {
	for id := uint64(1); id <= maxPlacementReplica && f.replica == 0; id++ {
		if f.m.id.replica != 0 && id != f.m.id.replica {
			continue
		}
		log, err := f.logs.Log(placement.Shard, id)
		if err != nil {
			return err
		}
		if log.Last > 0 {
			f.replica, f.placement = id, log
		}
	}
	dir := f.m.dir.Join(placementDir)
	there, err := isThere(dir)
	if err != nil {
		return err
	}
	if f.replica == 0 || !there {
		return errors.New("this member has no data of the cluster: restore a snapshot")
	}
	store, err := f.m.engine.Open(dir)
	if err != nil {
		return err
	}
	defer func() { f.m.logError("close the store of the placement group", store.Close()) }()
	f.foreseen, err = placement.Foresee(placement.NewStorage(store), func(after uint64, fn func([]byte) error) error {
		return f.logs.Commands(placement.Shard, f.replica, after, fn)
	})
	if err != nil {
		return err
	}
	f.state = f.foreseen.State()
	me := slices.ContainsFunc(f.state.Members, func(m *kvdpb.Member) bool { return m.Id == f.m.id.member })
	switch {
	case !f.state.Initialized:
		return errors.New("this member has not learned of the cluster's beginning: restore a snapshot")
	case !me || !f.placement.Member:
		return errRemoved
	}
	return nil
}

// aloneAlready tells whether there is nobody else. As everything is written at
// once, this member's groups tell it alike.
func (f *forcing) aloneAlready() bool {
	return len(f.state.Members) == 1 && len(f.state.Departing) == 0 && !f.placement.Others
}

// refuseRunning refuses while another member answers: what is forced would be one
// of two clusters with one past.
func (f *forcing) refuseRunning(ctx context.Context) error {
	var urls []string
	for _, list := range [][]*kvdpb.Member{f.state.Members, f.state.Departing} {
		for _, other := range list {
			if other.Id != f.m.id.member {
				urls = append(urls, other.PeerUrls...)
			}
		}
	}
	if len(urls) == 0 {
		return nil
	}
	clientTLS, err := f.m.cfg.PeerClientTLS()
	if err != nil {
		return err
	}
	answer, err := askAny(ctx, urls, clientTLS, birthAskTimeout, true)
	if err == nil && answer.ClusterId == f.m.id.cluster {
		return fmt.Errorf("another member of the cluster is running at one of %s: stop it for good first, or start this one as one of its members", strings.Join(urls, ", "))
	}
	return nil
}

// surveyShards looks whether every shard has a replica here, and how far they
// have come.
func (f *forcing) surveyShards() error {
	var missing []string
	var children []uint64
	known := map[uint64]bool{}
	for _, id := range f.state.Dead {
		known[id] = true
	}
	for _, d := range f.state.Shards {
		known[d.Shard] = true
		s, err := f.surveyShard(d)
		if err != nil {
			return fmt.Errorf("shard %d: %w", d.Shard, err)
		}
		if s == nil {
			missing = append(missing, fmt.Sprint(d.Shard))
			continue
		}
		// Whether the left neighbour's replica here has all of the copy, nobody can be
		// asked any more.
		if s.Surrendered || d.Merge.GetPhase() == kvdpb.Merge_SURRENDERED {
			return fmt.Errorf("shard %d was being merged, and had given its keys up to its neighbour or was about to get them: restore a snapshot", d.Shard)
		}
		f.revision = max(f.revision, s.Revision)
		f.compacted = max(f.compacted, s.Compacted)
		children = append(children, s.Children...)
	}
	if len(missing) > 0 {
		return fmt.Errorf("this member has no data of %d of the %d shards (%s): restore a snapshot", len(missing), len(f.state.Shards), strings.Join(missing, ", "))
	}
	for _, id := range children {
		if !known[id] {
			return fmt.Errorf("this member's replica of the placement group has not learned of shard %d, which was split off from one that it has: restore a snapshot", id)
		}
	}
	f.revision = max(f.revision, f.compacted)
	return nil
}

// surveyShard looks at this member's replica of a shard; nil if it holds no data.
func (f *forcing) surveyShard(d *kvdpb.Descriptor) (*shard.Survey, error) {
	mine, ok := memberOf(d, f.m.id.member)
	if !ok {
		return nil, nil
	}
	replica := mine.Replica
	dir := manager.StoreDir(f.m.dir.Join(manager.Dir), d.Shard, replica)
	there, err := isThere(dir)
	if err != nil {
		return nil, err
	}
	log, err := f.logs.Log(d.Shard, replica)
	if err != nil {
		return nil, err
	}
	began := slices.ContainsFunc(d.Initial, func(r *kvdpb.Replica) bool { return r.Replica == replica })
	switch {
	case !there && d.Phase == kvdpb.Descriptor_SEEDING:
		// Its data is the parent's still: the split goes on, or is given up.
		return &shard.Survey{}, nil
	case !there, log.Last > 0 && !log.Member:
		return nil, nil
	}
	s, err := f.surveyStore(d.Shard, replica, dir)
	if err != nil {
		return nil, err
	}
	// What a replica of a group that began with nothing has is in its log; one that
	// began with a seed, or joined, has it in its store.
	seeded := d.Parent != 0 || d.Restored
	if !s.Begun && (seeded || !log.Whole) {
		return nil, nil
	}
	if log.Last > 0 {
		f.survivors = append(f.survivors, multiraft.Survivor{Shard: d.Shard, Replica: replica})
		return s, nil
	}
	// A seed that was not started yet begins the group; a log that was lost may have
	// held more than there is.
	started, err := manager.WasStarted(f.m.dir.Join(manager.Dir), d.Shard, replica)
	if err != nil || started || !began {
		return nil, err
	}
	return s, nil
}

func (f *forcing) surveyStore(id, replica uint64, dir string) (s *shard.Survey, err error) {
	store, err := f.m.engine.Open(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	if s, err = shard.SurveyStore(store); err != nil {
		return nil, err
	}
	return s, f.logs.Commands(id, replica, store.AppliedIndex(), s.Add)
}

// force writes what makes this member the only one.
func (f *forcing) force() error {
	cmd, err := f.foreseen.ForceNewCluster(&kvdpb.ForceNewCluster{Member: f.m.id.member, Revision: f.revision, CompactRevision: f.compacted})
	if err != nil {
		return err
	}
	f.survivors = append(f.survivors, multiraft.Survivor{Shard: placement.Shard, Replica: f.replica, Command: cmd})
	if err := f.logs.Survive(f.survivors); err != nil {
		return err
	}
	var gone []string
	for _, other := range f.state.Members {
		if other.Id != f.m.id.member {
			gone = append(gone, fmt.Sprintf("%x", other.Id))
		}
	}
	f.m.log.Warn("forced a new cluster of this member alone: what only the others had is lost, and they must never be started again",
		zap.Strings("removed-members", gone), zap.Int("shards", len(f.state.Shards)), zap.Int64("revision", f.revision))
	return nil
}

func isThere(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
