package placement

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"go.uber.org/zap"
)

// scheduleEvery is how often the scheduler looks for what no news announces:
// members that are lost or come back.
const scheduleEvery = 500 * time.Millisecond

// lostAfter is how long a member is gone until what it is being given is given to
// others.
const lostAfter = time.Minute

// absences remembers since when members are not connected.
type absences map[uint64]time.Time

// look takes note of who is there now.
func (a absences) look(members []*kvdpb.Member, alive func(uint64) bool, now time.Time) {
	for _, m := range members {
		if _, noted := a[m.Id]; alive(m.Id) {
			delete(a, m.Id)
		} else if !noted {
			a[m.Id] = now
		}
	}
}

// lost tells whether a member has been gone for long.
func (a absences) lost(member uint64, now time.Time) bool { return a.away(member, now, lostAfter) }

// away tells whether a member has been gone for at least so long.
func (a absences) away(member uint64, now time.Time, long time.Duration) bool {
	since, gone := a[member]
	return gone && now.Sub(since) >= long
}

// attendance is what a member remembers of the others' absences.
type attendance struct {
	sync.Mutex
	absences absences
}

// runScheduler begins what Schedule decides, while this member is the sequencer.
func (n *Node) runScheduler() {
	if n.cfg.Alive == nil {
		return
	}
	tick := time.NewTicker(scheduleEvery)
	defer tick.Stop()
	for {
		changed := n.next()
		giveUps, changes := n.schedule(time.Now())
		n.carryOut(giveUps)
		n.carryOut(changes)
		select {
		case <-n.ctx.Done():
			return
		case <-changed:
		case <-tick.C:
		}
	}
}

// schedule takes note of who is there, and decides what to do; nothing if this
// member is not the sequencer.
func (n *Node) schedule(now time.Time) (giveUps, changes []*kvdpb.PlacementCommand) {
	n.attendance.Lock()
	defer n.attendance.Unlock()
	gone := n.attendance.absences
	gone.look(n.Members(), n.cfg.Alive, now)
	if !n.Serving() {
		return nil, nil
	}
	v := n.View()
	after := RepairAfter(v.Settings)
	return GiveUps(v, func(m uint64) bool { return gone.lost(m, now) }),
		Schedule(v, n.cfg.Alive, func(m uint64) bool { return gone.away(m, now, after) })
}

// ScheduleNow decides and begins as the scheduler does, and tells what in words;
// name says how a member is called. It does nothing unless this member is the
// sequencer.
func (n *Node) ScheduleNow(name func(member uint64) string) []string {
	if n.cfg.Alive == nil {
		return nil
	}
	_, changes := n.schedule(time.Now())
	var told []string
	for _, cmd := range n.carryOut(changes) {
		switch c := cmd.GetCommand().(type) {
		case *kvdpb.PlacementCommand_AddReplica:
			told = append(told, fmt.Sprintf("give %s a replica of shard %d", name(c.AddReplica.Member), c.AddReplica.Shard))
		case *kvdpb.PlacementCommand_RemoveReplica:
			told = append(told, fmt.Sprintf("take replica %d of shard %d away", c.RemoveReplica.Replica, c.RemoveReplica.Shard))
		}
	}
	return told
}

// carryOut begins changes, and returns those that were begun.
func (n *Node) carryOut(commands []*kvdpb.PlacementCommand) (begun []*kvdpb.PlacementCommand) {
	for _, cmd := range commands {
		ctx, cancel := context.WithTimeout(n.ctx, 2*n.cfg.Election)
		_, err := n.Update(ctx, cmd)
		cancel()
		if err != nil {
			// Decided on a view that has passed; the next one decides again.
			n.log.Debug("placement: a change of replicas was not begun", zap.Error(err))
			return begun
		}
		begun = append(begun, cmd)
		n.log.Info("placement: begins a change of replicas", zap.Stringer("command", cmd))
	}
	return begun
}
