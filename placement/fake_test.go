package placement

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kvd-io/kvd/multiraft"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
)

// memStorage is a Storage in memory. What was not synced is lost by crash.
type memStorage struct {
	mu struct {
		sync.Mutex
		now, synced memRecords
	}
}

type memRecords struct {
	applied uint64
	records map[string][]byte
}

func newMemStorage() *memStorage {
	s := &memStorage{}
	s.mu.now.records = map[string][]byte{}
	s.mu.synced.records = map[string][]byte{}
	return s
}

func (s *memStorage) open() (Storage, error) { return s, nil }

func (s *memStorage) AppliedIndex() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.now.applied
}

func (s *memStorage) Scan(fn func(name, value []byte) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(s.mu.now.records)) {
		if err := fn([]byte(name), s.mu.now.records[name]); err != nil {
			return err
		}
	}
	return nil
}

func (s *memStorage) Write(applied uint64, changes []Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range changes {
		if c.Value == nil {
			delete(s.mu.now.records, string(c.Name))
		} else {
			s.mu.now.records[string(c.Name)] = slices.Clone(c.Value)
		}
	}
	s.mu.now.applied = applied
	return nil
}

func (s *memStorage) Sync() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.synced = memRecords{s.mu.now.applied, maps.Clone(s.mu.now.records)}
	return nil
}

func (s *memStorage) Close() error { return nil }

func (s *memStorage) crash() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.now = memRecords{s.mu.synced.applied, maps.Clone(s.mu.synced.records)}
}

// testInit is the first entry of a cluster of n members with ids 1 to n and one
// shard, number 2.
func testInit(t testing.TB, members int, splitKeys ...string) *kvdpb.PlacementInit {
	t.Helper()
	in := &kvdpb.PlacementInit{ClusterId: 77}
	for i := range members {
		in.Members = append(in.Members, &kvdpb.Member{Id: uint64(i) + 1, Replica: uint64(i) + 1, Name: fmt.Sprint("m", i+1),
			PeerUrls: []string{fmt.Sprint("http://m", i+1, ":2380")}})
	}
	var keys [][]byte
	for _, k := range splitKeys {
		keys = append(keys, []byte(k))
	}
	var err error
	in.Shards, err = firstShards(in.Members, keys)
	require.NoError(t, err)
	return in
}

// fakeLog is the log of one group in memory: entries apply on each replica when
// the test, or the replica's goroutine, lets them.
type fakeLog struct {
	mu struct {
		sync.Mutex
		term    uint64
		leader  uint64
		entries [][]byte
		// cut members neither lead, commit nor read.
		cut map[uint64]bool
		// delay is how long each proposal and read takes.
		delay time.Duration
		nodes map[uint64]*fakeReplica
		// followers were added as non-voting replicas, in so many tries.
		followers map[uint64]uint64
		follows   int
	}
}

func newFakeLog() *fakeLog {
	l := &fakeLog{}
	l.mu.followers = map[uint64]uint64{}
	l.mu.cut = map[uint64]bool{}
	l.mu.nodes = map[uint64]*fakeReplica{}
	return l
}

// fakeReplica is one replica of a fakeLog: the Raft of one node.
type fakeReplica struct {
	log     *fakeLog
	id      uint64
	machine *Machine
	node    *Node
	// applyMu makes Apply one at a time.
	applyMu sync.Mutex
	applied int
	gone    bool
	results map[int]*kvdpb.PlacementResult
	// swallow makes the next proposals vanish, with no word to their proposer until
	// it gives up.
	swallow int
	// lose makes the next proposals apply without their proposer being told.
	lose int
}

// attach adds a node's replica and applies what the log holds above its state.
func (l *fakeLog) attach(t testing.TB, id uint64, make func(Raft) *Node) *Node {
	t.Helper()
	r := &fakeReplica{log: l, id: id, results: map[int]*kvdpb.PlacementResult{}}
	r.node = make(r)
	r.machine = r.node.Machine()
	at, err := r.machine.Open(nil)
	require.NoError(t, err)
	r.applied = int(at)
	l.mu.Lock()
	l.mu.nodes[id] = r
	l.mu.Unlock()
	r.node.Start()
	l.spread()
	return r.node
}

// lead makes a replica the leader of a new term.
func (l *fakeLog) lead(id uint64) {
	l.mu.Lock()
	l.mu.term++
	l.mu.leader = id
	l.mu.Unlock()
	for _, r := range l.replicas() {
		r.node.OnLeader()
	}
}

func (l *fakeLog) cut(id uint64, cut bool) {
	l.mu.Lock()
	l.mu.cut[id] = cut
	l.mu.Unlock()
	l.spread()
}

// detach ends a replica: nothing is applied by it any more.
func (l *fakeLog) detach(id uint64) {
	l.mu.Lock()
	r := l.mu.nodes[id]
	l.mu.Unlock()
	r.applyMu.Lock()
	r.gone = true
	r.applyMu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.mu.nodes, id)
	if l.mu.leader == id {
		l.mu.leader = 0
	}
}

func (l *fakeLog) replicas() []*fakeReplica {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Values(l.mu.nodes))
}

// spread applies the log on every replica that is not cut off.
func (l *fakeLog) spread() {
	for _, r := range l.replicas() {
		r.catchUp()
	}
}

var errFake = errors.New("fake raft")

func (r *fakeReplica) catchUp() {
	r.applyMu.Lock()
	defer r.applyMu.Unlock()
	l := r.log
	l.mu.Lock()
	var todo [][]byte
	if !r.gone && !l.mu.cut[r.id] && r.applied < len(l.mu.entries) {
		todo = slices.Clone(l.mu.entries[r.applied:])
	}
	l.mu.Unlock()
	for _, cmd := range todo {
		r.applied++
		e := []Entry{{Index: uint64(r.applied), Cmd: cmd}}
		if err := r.machine.Apply(e); err != nil {
			panic(err)
		}
		res := &kvdpb.PlacementResult{}
		if err := proto.Unmarshal(e[0].Data, res); err != nil {
			panic(err)
		}
		r.results[r.applied] = res
	}
}

func (r *fakeReplica) wait(ctx context.Context) error {
	r.log.mu.Lock()
	d := r.log.mu.delay
	r.log.mu.Unlock()
	if d == 0 {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func (r *fakeReplica) Propose(ctx context.Context, cmd []byte) Proposed {
	l := r.log
	if err := r.wait(ctx); err != nil {
		return Proposed{Fate: NotAppended, Err: err}
	}
	l.mu.Lock()
	if l.mu.leader != r.id || l.mu.cut[r.id] {
		l.mu.Unlock()
		return Proposed{Fate: NotAppended, Err: fmt.Errorf("%w: not the leader", errFake)}
	}
	if r.swallow > 0 {
		r.swallow--
		l.mu.Unlock()
		<-ctx.Done()
		return Proposed{Err: ctx.Err()}
	}
	l.mu.entries = append(l.mu.entries, slices.Clone(cmd))
	index := len(l.mu.entries)
	lost := r.lose > 0
	if lost {
		r.lose--
	}
	l.mu.Unlock()
	l.spread()
	if lost {
		return Proposed{Err: fmt.Errorf("%w: outcome lost", errFake)}
	}
	r.applyMu.Lock()
	defer r.applyMu.Unlock()
	return Proposed{Fate: Applied, Result: r.results[index]}
}

func (r *fakeReplica) ReadIndex(ctx context.Context) error {
	if err := r.wait(ctx); err != nil {
		return err
	}
	r.log.mu.Lock()
	cut, leader := r.log.mu.cut[r.id] || r.log.mu.cut[r.log.mu.leader], r.log.mu.leader
	r.log.mu.Unlock()
	if cut || leader == 0 {
		return fmt.Errorf("%w: no quorum", errFake)
	}
	r.catchUp()
	return nil
}

func (r *fakeReplica) Leader() (uint64, uint64) {
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	return r.log.mu.leader, r.log.mu.term
}

func (r *fakeReplica) TransferLeader(to uint64) error {
	r.log.mu.Lock()
	known := r.log.mu.nodes[to] != nil && !r.log.mu.cut[to]
	r.log.mu.Unlock()
	if !known {
		return errFake
	}
	r.log.lead(to)
	return nil
}

func (r *fakeReplica) Campaign() error { return r.TransferLeader(r.id) }

// change makes the fake's first three changes of membership fail, and those of
// a follower.
func (r *fakeReplica) change(apply func()) error {
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	r.log.mu.follows++
	if r.log.mu.leader != r.id || r.log.mu.follows <= 3 {
		return errFake
	}
	apply()
	return nil
}

func (r *fakeReplica) Group(context.Context) (multiraft.Membership, error) {
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	g := multiraft.Membership{Voters: map[uint64]uint64{}, NonVoting: maps.Clone(r.log.mu.followers)}
	for id := range r.log.mu.nodes {
		if id <= maxVoters {
			g.Voters[id] = id
		}
	}
	return g, nil
}

func (r *fakeReplica) AddNonVoting(_ context.Context, replica, member, _ uint64) error {
	return r.change(func() { r.log.mu.followers[replica] = member })
}

func (r *fakeReplica) AddVoter(context.Context, uint64, uint64, uint64) error { return errFake }

func (r *fakeReplica) Remove(_ context.Context, replica, _ uint64) error {
	return r.change(func() { delete(r.log.mu.followers, replica) })
}

// lines joins the lines of a story's output.
func lines(s []string) string {
	if len(s) == 0 {
		return "ok\n"
	}
	return strings.Join(s, "\n") + "\n"
}
