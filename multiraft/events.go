package multiraft

import (
	"sync"

	"github.com/lni/dragonboat/v4/raftio"
)

// dispatcher takes events from Dragonboat, whose one event goroutine must never wait, and hands them on from its own goroutine. Leader events are
// kept one per shard, so the queue is bounded by the number of replicas; replica events are few.
type dispatcher struct {
	// update is called at once, before the event is queued.
	update    func(LeaderEvent) bool
	onLeader  func(LeaderEvent)
	onReplica func(ReplicaEvent)
	wake      chan struct{}
	stop      chan struct{}
	done      chan struct{}

	mu struct {
		sync.Mutex
		leaders map[uint64]LeaderEvent
		order   []uint64
		events  []ReplicaEvent
	}
}

var _ raftio.IRaftEventListener = (*dispatcher)(nil)

func newDispatcher(update func(LeaderEvent) bool, onLeader func(LeaderEvent), onReplica func(ReplicaEvent)) *dispatcher {
	d := &dispatcher{update: update, onLeader: onLeader, onReplica: onReplica, wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{})}
	d.mu.leaders = make(map[uint64]LeaderEvent)
	go d.run()
	return d
}

// LeaderUpdated implements raftio.IRaftEventListener.
func (d *dispatcher) LeaderUpdated(info raftio.LeaderInfo) {
	e := LeaderEvent{Shard: info.ShardID, Replica: info.ReplicaID, Term: info.Term, Leader: info.LeaderID}
	if d.update(e) && d.onLeader != nil {
		d.pushLeader(e)
	}
}

func (d *dispatcher) pushLeader(e LeaderEvent) {
	d.mu.Lock()
	if _, queued := d.mu.leaders[e.Shard]; !queued {
		d.mu.order = append(d.mu.order, e.Shard)
	}
	d.mu.leaders[e.Shard] = e
	d.mu.Unlock()
	d.signal()
}

func (d *dispatcher) pushReplica(e ReplicaEvent) {
	if d.onReplica == nil {
		return
	}
	d.mu.Lock()
	// The membership is read by whoever is told: once is enough.
	repeated := e.Kind == ReplicaMembership && len(d.mu.events) > 0 && d.mu.events[len(d.mu.events)-1] == e
	if !repeated {
		d.mu.events = append(d.mu.events, e)
	}
	d.mu.Unlock()
	d.signal()
}

func (d *dispatcher) signal() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

func (d *dispatcher) run() {
	defer close(d.done)
	for {
		select {
		case <-d.wake:
		case <-d.stop:
			return
		}
		for d.deliver() {
		}
	}
}

// deliver hands on what is queued and tells whether there was anything.
func (d *dispatcher) deliver() bool {
	d.mu.Lock()
	order, events := d.mu.order, d.mu.events
	leaders := make([]LeaderEvent, 0, len(order))
	for _, shard := range order {
		leaders = append(leaders, d.mu.leaders[shard])
		delete(d.mu.leaders, shard)
	}
	d.mu.order, d.mu.events = nil, nil
	d.mu.Unlock()
	for _, e := range events {
		d.onReplica(e)
	}
	for _, e := range leaders {
		d.onLeader(e)
	}
	return len(leaders)+len(events) > 0
}

func (d *dispatcher) close() {
	close(d.stop)
	<-d.done
}

// noteLeader keeps the leader that Propose looks at. It is false for an event of a replica that is gone.
func (h *Host) noteLeader(e LeaderEvent) bool {
	r := h.replica(e.Shard)
	if r == nil || r.id != e.Replica {
		return false
	}
	r.leader.Store(&e)
	r.leading.Store(e.Leader == e.Replica)
	r.changed.signal()
	return true
}

// systemListener receives Dragonboat's other events, on the same goroutine as leader events.
type systemListener struct{ h *Host }

var _ raftio.ISystemEventListener = (*systemListener)(nil)

func (l *systemListener) replica(kind ReplicaEventKind, shard, replica uint64) {
	if l.h.runs(shard, replica) {
		l.h.events.pushReplica(ReplicaEvent{Kind: kind, Shard: shard, Replica: replica})
	}
}

func (l *systemListener) NodeReady(i raftio.NodeInfo) {
	if r := l.h.replica(i.ShardID); r != nil && r.id == i.ReplicaID {
		r.ready.Store(true)
	}
	l.replica(ReplicaReady, i.ShardID, i.ReplicaID)
}

func (l *systemListener) NodeDeleted(i raftio.NodeInfo) {
	l.replica(ReplicaRemoved, i.ShardID, i.ReplicaID)
}

func (l *systemListener) MembershipChanged(i raftio.NodeInfo) {
	l.replica(ReplicaMembership, i.ShardID, i.ReplicaID)
}

func (l *systemListener) SnapshotRecovered(i raftio.SnapshotInfo) {
	// Dragonboat tells index 0 for a start without any snapshot.
	if r := l.h.replica(i.ShardID); i.Index > 0 && r != nil && r.id == i.ReplicaID && r.ready.Load() {
		l.replica(ReplicaRestored, i.ShardID, i.ReplicaID)
	}
}

func (l *systemListener) NodeHostShuttingDown()                       {}
func (l *systemListener) NodeUnloaded(raftio.NodeInfo)                {}
func (l *systemListener) ConnectionEstablished(raftio.ConnectionInfo) {}
func (l *systemListener) ConnectionFailed(raftio.ConnectionInfo)      {}
func (l *systemListener) SendSnapshotStarted(raftio.SnapshotInfo)     {}
func (l *systemListener) SendSnapshotCompleted(raftio.SnapshotInfo)   {}
func (l *systemListener) SendSnapshotAborted(raftio.SnapshotInfo)     {}
func (l *systemListener) SnapshotReceived(raftio.SnapshotInfo)        {}
func (l *systemListener) SnapshotCreated(raftio.SnapshotInfo)         {}
func (l *systemListener) SnapshotCompacted(raftio.SnapshotInfo)       {}
func (l *systemListener) LogCompacted(raftio.EntryInfo)               {}
func (l *systemListener) LogDBCompacted(raftio.EntryInfo)             {}
