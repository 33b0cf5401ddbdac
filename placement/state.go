package placement

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/placement/authstate"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard/ownership"
)

// FirstShard is the lowest id that a shard can have; 1 is the placement group.
const FirstShard = 2

// firstRevision is the current revision of a cluster that was never written to,
// as in etcd.
const firstRevision = 1

// State is the replicated state of the placement group. Its commands are applied
// in log order by one goroutine; what it decides follows from its state and the
// command alone.
//
// Members and descriptors that the state holds are never changed in place, so
// views may share them.
type State struct {
	clusterID   uint64
	initialized bool
	// version counts the effective changes of members and descriptors.
	version   uint64
	members   map[uint64]*kvdpb.Member
	shards    map[uint64]*kvdpb.Descriptor
	dead      map[uint64]struct{}
	nextShard uint64
	// windowEnd is the first revision that no sequencer may hand out yet.
	windowEnd       int64
	compactRevision int64
	own             ownership.State
	// released is what the last Release left for its successor.
	released *kvdpb.PlacementRelease
	// auth is never nil.
	auth *authstate.State
	// alarms that stand, sorted by compareAlarms; replaced, never changed.
	alarms    []*kvdpb.Alarm
	downgrade *kvdpb.Downgrade
	elastic   elastic
	order     order

	dirty dirty
}

// dirty names the records that changed since they were last taken.
type dirty struct {
	meta    bool
	auth    dirtyAuth
	members map[uint64]struct{}
	shards  map[uint64]struct{}
	dead    map[uint64]struct{}
}

// NewState returns the state of a group without any entry.
func NewState() *State {
	return &State{
		auth:    authstate.New(),
		members: map[uint64]*kvdpb.Member{},
		shards:  map[uint64]*kvdpb.Descriptor{},
		dead:    map[uint64]struct{}{},
		elastic: newElastic(),
		order:   order{set: map[uint64]struct{}{}},
		dirty: dirty{
			members: map[uint64]struct{}{},
			shards:  map[uint64]struct{}{},
			dead:    map[uint64]struct{}{},
			auth:    newDirtyAuth(),
		},
	}
}

// Apply applies one command. A command that does not apply leaves the state
// untouched and says why in the result; it is never an error.
func (s *State) Apply(cmd *kvdpb.PlacementCommand) *kvdpb.PlacementResult {
	res := s.apply(cmd)
	res.Version = s.version
	res.CompactRevision = s.compactRevision
	return res
}

func (s *State) apply(cmd *kvdpb.PlacementCommand) *kvdpb.PlacementResult {
	switch c := cmd.GetCommand().(type) {
	case *kvdpb.PlacementCommand_Init:
		return s.init(c.Init)
	case *kvdpb.PlacementCommand_Claim:
		return s.claim(c.Claim)
	case *kvdpb.PlacementCommand_Serving:
		return s.serving(c.Serving)
	case *kvdpb.PlacementCommand_Release:
		return s.release(c.Release)
	case *kvdpb.PlacementCommand_ExtendWindow:
		return s.extendWindow(c.ExtendWindow)
	case *kvdpb.PlacementCommand_ForceNewCluster:
		return s.forceNewCluster(c.ForceNewCluster)
	}
	// Everything else is proposed by a serving owner on behalf of whoever asked:
	// so that no owner that has been deposed can bring a change into force that
	// its successor's answers do not carry.
	if r := s.own.CheckServing(cmd.GetEpoch()); r != ownership.None {
		return reject(kvdpb.PlacementResult_DEPOSED, "proposed in epoch %d: %v", cmd.GetEpoch(), r)
	}
	switch c := cmd.GetCommand().(type) {
	case *kvdpb.PlacementCommand_Compact:
		return s.compact(c.Compact)
	case *kvdpb.PlacementCommand_UpdateMember:
		return s.updateMember(c.UpdateMember)
	case *kvdpb.PlacementCommand_BeginSplit:
		return s.beginSplit(c.BeginSplit)
	case *kvdpb.PlacementCommand_ConfirmSeed:
		return s.confirmSeed(c.ConfirmSeed)
	case *kvdpb.PlacementCommand_AbortSplit:
		return s.abortSplit(c.AbortSplit)
	case *kvdpb.PlacementCommand_Auth:
		return s.changeAuth(c.Auth)
	case *kvdpb.PlacementCommand_RaiseAlarm:
		return s.raiseAlarm(c.RaiseAlarm)
	case *kvdpb.PlacementCommand_ClearAlarm:
		return s.clearAlarm(c.ClearAlarm)
	case *kvdpb.PlacementCommand_Downgrade:
		return s.setDowngrade(c.Downgrade)
	}
	if res, ok := s.applyElastic(cmd); ok {
		return res
	}
	return reject(kvdpb.PlacementResult_INVALID, "unknown command")
}

func reject(r kvdpb.PlacementResult_Rejection, format string, args ...any) *kvdpb.PlacementResult {
	return &kvdpb.PlacementResult{Rejection: r, Reason: fmt.Sprintf(format, args...)}
}

func applied() *kvdpb.PlacementResult { return &kvdpb.PlacementResult{} }

// init takes in the first entry. Every member may propose it; the first wins.
func (s *State) init(c *kvdpb.PlacementInit) *kvdpb.PlacementResult {
	if s.initialized {
		if c.GetClusterId() != s.clusterID {
			return reject(kvdpb.PlacementResult_INVALID, "cluster ID mismatch: this is %016x, not %016x", s.clusterID, c.GetClusterId())
		}
		return applied()
	}
	if err := checkInit(c); err != nil {
		return reject(kvdpb.PlacementResult_INVALID, "%v", err)
	}
	s.initialized = true
	s.clusterID = c.ClusterId
	s.nextShard = FirstShard
	for _, m := range c.Members {
		s.setMember(m)
	}
	s.seatVoters()
	for _, d := range c.Shards {
		s.setShard(d)
		s.nextShard = max(s.nextShard, d.Shard+1)
	}
	s.windowEnd = max(c.Revision, firstRevision) + 1
	s.compactRevision = c.CompactRevision
	if c.Auth != nil {
		// checkInit has found it sound.
		if auth, err := authstate.FromProto(c.Auth); err == nil {
			s.auth = auth
			s.dirty.auth.markAll(auth)
		}
	}
	s.changed()
	s.dirty.meta = true
	return applied()
}

// checkInit refuses a first entry that would leave a broken state.
func checkInit(c *kvdpb.PlacementInit) error {
	if c.GetClusterId() == 0 {
		return fmt.Errorf("no cluster id")
	}
	if c.Revision < 0 || c.Revision > math.MaxInt64/2 || c.CompactRevision < 0 || c.CompactRevision > max(c.Revision, firstRevision) {
		return fmt.Errorf("begins at revision %d, compacted at %d", c.Revision, c.CompactRevision)
	}
	if _, err := authstate.FromProto(c.Auth); err != nil {
		return err
	}
	members := map[uint64]struct{}{}
	replicas := map[uint64]struct{}{}
	for _, m := range c.Members {
		if m.GetId() == 0 || m.GetReplica() == 0 {
			return fmt.Errorf("member %q has no id or no replica id", m.GetName())
		}
		members[m.Id] = struct{}{}
		replicas[m.Replica] = struct{}{}
	}
	if n := len(c.Members); n == 0 || len(members) != n || len(replicas) != n {
		return fmt.Errorf("%d members with %d ids and %d replica ids", n, len(members), len(replicas))
	}
	shards := map[uint64]*kvdpb.Descriptor{}
	for _, d := range c.Shards {
		if d.GetShard() < FirstShard || shards[d.Shard] != nil || d.Phase != kvdpb.Descriptor_LIVE || len(d.Replicas) == 0 {
			return fmt.Errorf("bad or repeated descriptor of shard %d", d.GetShard())
		}
		if d.Shard == ^uint64(0) {
			return fmt.Errorf("no shard id is left above %d", d.Shard)
		}
		for _, r := range d.Replicas {
			if _, ok := members[r.GetMember()]; !ok {
				return fmt.Errorf("shard %d has a replica on the unknown member %016x", d.Shard, r.GetMember())
			}
		}
		shards[d.Shard] = d
	}
	return checkTiling(sortedLive(shards))
}

// checkTiling is the invariant of the range map: the live descriptors tile the
// whole key space.
func checkTiling(live []*kvdpb.Descriptor) error {
	next := keyspace.Min()
	for _, d := range live {
		if !bytes.Equal(d.Start, next) {
			return fmt.Errorf("shard %d begins at %s, and %s is next", d.Shard, keyspace.Format(d.Start), keyspace.Format(next))
		}
		if bytes.Compare(d.Start, d.End) >= 0 {
			return fmt.Errorf("shard %d is empty at %s", d.Shard, keyspace.Format(d.Start))
		}
		next = d.End
	}
	if !bytes.Equal(next, keyspace.Max()) {
		return fmt.Errorf("the shards end at %s", keyspace.Format(next))
	}
	return nil
}

// sortedLive returns the live descriptors in key order.
func sortedLive(shards map[uint64]*kvdpb.Descriptor) []*kvdpb.Descriptor {
	live := make([]*kvdpb.Descriptor, 0, len(shards))
	for _, d := range shards {
		if d.Phase == kvdpb.Descriptor_LIVE {
			live = append(live, d)
		}
	}
	slices.SortFunc(live, before)
	return live
}

func (s *State) setMember(m *kvdpb.Member) {
	s.members[m.Id] = m
	s.dirty.members[m.Id] = struct{}{}
}

func (s *State) setShard(d *kvdpb.Descriptor) {
	s.shards[d.Shard] = d
	s.dirty.shards[d.Shard] = struct{}{}
	s.order.set[d.Shard] = struct{}{}
}

// Shard returns the descriptor of a shard; nil if there is none. It is never changed
// in place, and the caller must not change it.
func (s *State) Shard(id uint64) *kvdpb.Descriptor { return s.shards[id] }

// changed counts one effective change of members or descriptors.
func (s *State) changed() {
	s.version++
	s.dirty.meta = true
}

// Proto returns the whole state as a message, in an order that depends on
// nothing but the state. It shares members and descriptors with the state.
func (s *State) Proto() *kvdpb.PlacementState {
	p := s.meta()
	for _, id := range slices.Sorted(maps.Keys(s.members)) {
		p.Members = append(p.Members, s.members[id])
	}
	for _, id := range slices.Sorted(maps.Keys(s.shards)) {
		p.Shards = append(p.Shards, s.shards[id])
	}
	p.Dead = slices.Sorted(maps.Keys(s.dead))
	p.Auth = s.auth.Proto()
	return p
}

// meta returns the part of the state that is one record.
func (s *State) meta() *kvdpb.PlacementState {
	p := &kvdpb.PlacementState{
		ClusterId:       s.clusterID,
		Version:         s.version,
		NextShard:       s.nextShard,
		WindowEnd:       s.windowEnd,
		CompactRevision: s.compactRevision,
		Ownership:       s.own.Proto(),
		Released:        s.released,
		Initialized:     s.initialized,
		Alarms:          s.alarms,
		Downgrade:       s.downgrade,
	}
	s.elasticMeta(p)
	return p
}

// StateFromProto makes a state of its message, which it takes over. It refuses a
// message that no sequence of commands can have led to.
func StateFromProto(p *kvdpb.PlacementState) (*State, error) {
	s := NewState()
	s.setMeta(p)
	var err error
	if s.auth, err = authstate.FromProto(p.GetAuth()); err != nil {
		return nil, fmt.Errorf("placement state: %w", err)
	}
	for _, m := range p.GetMembers() {
		s.members[m.GetId()] = m
	}
	for _, d := range p.GetShards() {
		s.shards[d.GetShard()] = d
	}
	for _, id := range p.GetDead() {
		s.dead[id] = struct{}{}
	}
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("placement state: %w", err)
	}
	return s, nil
}

func (s *State) setMeta(p *kvdpb.PlacementState) {
	s.clusterID = p.GetClusterId()
	s.version = p.GetVersion()
	s.nextShard = p.GetNextShard()
	s.windowEnd = p.GetWindowEnd()
	s.compactRevision = p.GetCompactRevision()
	s.own = ownership.FromProto(p.GetOwnership())
	s.released = p.GetReleased()
	s.initialized = p.GetInitialized()
	s.alarms = p.GetAlarms()
	s.downgrade = p.GetDowngrade()
	s.setElasticMeta(p)
}

// check looks at every invariant of the state.
func (s *State) check() error {
	if !s.initialized {
		if len(s.members)+len(s.shards)+len(s.dead) > 0 || s.version != 0 {
			return fmt.Errorf("members or shards before the first entry")
		}
		return nil
	}
	if s.clusterID == 0 || len(s.members) == 0 {
		return fmt.Errorf("no cluster id or no members")
	}
	if s.windowEnd <= firstRevision || s.compactRevision < 0 || s.compactRevision >= s.windowEnd {
		return fmt.Errorf("window end %d with compaction revision %d", s.windowEnd, s.compactRevision)
	}
	if len(s.alarms) > maxAlarms || !slices.IsSortedFunc(s.alarms, compareAlarms) {
		return fmt.Errorf("%d alarms, or out of order", len(s.alarms))
	}
	for _, a := range s.alarms {
		if !slices.IsSorted(a.Shards) {
			return fmt.Errorf("shards %v of an alarm are out of order", a.Shards)
		}
	}
	for id, d := range s.shards {
		if id != d.Shard || id < FirstShard || id >= s.nextShard {
			return fmt.Errorf("descriptor of shard %d kept as %d, next is %d", d.Shard, id, s.nextShard)
		}
		if _, ok := s.dead[id]; ok {
			return fmt.Errorf("shard %d is dead and alive", id)
		}
		if err := errors.Join(s.checkSeeding(d), s.checkMerge(d)); err != nil {
			return err
		}
	}
	if err := s.checkOrder(); err != nil {
		return err
	}
	return checkTiling(s.inOrder())
}

// checkCheap looks at the invariants that an entry can break and that cost
// nothing to look at: the tiling only where descriptors changed.
func (s *State) checkCheap() error {
	if !s.initialized {
		return nil
	}
	if s.windowEnd <= firstRevision || s.compactRevision >= s.windowEnd {
		return fmt.Errorf("window end %d with compaction revision %d", s.windowEnd, s.compactRevision)
	}
	for id := range s.dirty.shards {
		d := s.shards[id]
		if d == nil {
			continue
		}
		if err := errors.Join(s.checkSeeding(d), s.checkMerge(d)); err != nil {
			return err
		}
	}
	if len(s.dirty.shards) > 0 {
		return checkTiling(s.inOrder())
	}
	return nil
}

func (s *State) checkSeeding(d *kvdpb.Descriptor) error {
	if d.Phase == kvdpb.Descriptor_LIVE {
		return nil
	}
	p := s.shards[d.Parent]
	if p == nil || p.Phase != kvdpb.Descriptor_LIVE || d.Generation != p.Generation+1 ||
		!bytes.Equal(d.End, p.End) || bytes.Compare(p.Start, d.Start) >= 0 || bytes.Compare(d.Start, d.End) >= 0 {
		return fmt.Errorf("seeding shard %d does not fit its parent %d", d.Shard, d.Parent)
	}
	return nil
}
