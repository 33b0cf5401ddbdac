package sim

import (
	"slices"
	"time"

	"github.com/kvd-io/kvd/placement"
	"github.com/kvd-io/kvd/proto/kvdpb"
)

// change is a change of a shard's replicas that is under way.
type change struct {
	shard   *played
	replica uint64
	// to is who gets a copy; zero for a replica that leaves.
	to uint64
	// left is what is still to be copied, ready when the step can end at the earliest.
	left  float64
	ready time.Duration
}

// schedule has the scheduler look, and begins what it decides.
func (w *World) schedule() {
	if !w.alive(w.sequencer) {
		return
	}
	w.attend()
	v := w.look()
	if w.settledAt.version == v.Map.Version() && w.settledAt.attended == w.attended {
		// It is pure: it would decide the same, which is nothing.
		return
	}
	after := placement.RepairAfter(v.Settings)
	commands := placement.GiveUps(v, func(m uint64) bool { return w.away(m, lostAfter) })
	commands = append(commands, placement.Schedule(v, w.alive, func(m uint64) bool { return w.away(m, after) })...)
	for _, cmd := range commands {
		w.begin(cmd)
	}
	if len(commands) == 0 {
		w.settledAt.version, w.settledAt.attended = v.Map.Version(), w.attended
	}
}

// attend notes who has been away for long enough to matter since the last look.
func (w *World) attend() {
	after := placement.RepairAfter(w.view.Settings)
	for i, long := range []time.Duration{lostAfter, after} {
		for _, m := range w.members {
			at := int(m.id-1)*2 + i
			for at >= len(w.lastGone) {
				w.lastGone = append(w.lastGone, false)
			}
			if gone := w.away(m.id, long); gone != w.lastGone[at] {
				w.lastGone[at] = gone
				w.attended++
			}
		}
	}
}

// begin applies what the scheduler decided, and plays what the shard's owner does.
func (w *World) begin(cmd *kvdpb.PlacementCommand) {
	if w.apply(cmd).Rejection != kvdpb.PlacementResult_NONE {
		return
	}
	w.counts.LastDecision = w.now
	switch c := cmd.Command.(type) {
	case *kvdpb.PlacementCommand_AddReplica:
		s := w.shard(c.AddReplica.Shard)
		s.added++
		d := w.descriptor(s)
		moves := slices.ContainsFunc(d.Replicas, func(r *kvdpb.Replica) bool {
			return r.Replica == c.AddReplica.Replaces && w.alive(r.Member)
		})
		if moves {
			w.counts.Moves++
		} else {
			w.counts.Repairs++
		}
		w.counts.Copied += s.bytes
		w.changes = append(w.changes, &change{shard: s, to: c.AddReplica.Member, left: s.bytes, ready: w.now + stepTime,
			replica: d.Replicas[len(d.Replicas)-1].Replica})
	case *kvdpb.PlacementCommand_RemoveReplica:
		s := w.shard(c.RemoveReplica.Shard)
		w.counts.Removals++
		w.changes = slices.DeleteFunc(w.changes, func(c *change) bool { return c.shard == s })
		w.changes = append(w.changes, &change{shard: s, replica: c.RemoveReplica.Replica, ready: w.now + stepTime})
	}
}

// progress goes on with what is under way.
func (w *World) progress() {
	w.goOnOwners()
	w.goOnSplits()
	receives, sends := make([]int, len(w.members)), make([]int, len(w.members))
	for _, c := range w.changes {
		if w.copies(c) {
			receives[c.to-1]++
			sends[c.shard.owner-1]++
		}
	}
	w.changes = slices.DeleteFunc(w.changes, func(c *change) bool {
		if w.copies(c) {
			c.left -= w.cfg.Bandwidth / float64(max(receives[c.to-1], sends[c.shard.owner-1])) * tick.Seconds()
		}
		return w.goOn(c)
	})
}

// copies tells whether a copy flows.
func (w *World) copies(c *change) bool {
	return c.to != 0 && c.left > 0 && w.alive(c.to) && c.shard.owner != 0
}

// goOn takes the next step of a change, if its time has come; done tells that it was
// the last one.
func (w *World) goOn(c *change) (done bool) {
	s := c.shard
	if w.now < c.ready || c.left > 0 || s.owner == 0 || !w.alive(s.owner) {
		return false
	}
	if c.to != 0 {
		if !w.alive(c.to) {
			return false
		}
		w.apply(&kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_PromoteReplica{
			PromoteReplica: &kvdpb.PromoteReplica{Shard: s.id, Replica: c.replica}}})
		leaving := slices.IndexFunc(w.descriptor(s).Replicas, func(r *kvdpb.Replica) bool { return r.Leaving })
		if leaving >= 0 {
			c.to, c.replica, c.ready = 0, w.descriptor(s).Replicas[leaving].Replica, w.now+stepTime
		}
		w.settleOwner(s)
		return leaving < 0
	}
	w.apply(&kvdpb.PlacementCommand{Command: &kvdpb.PlacementCommand_DropReplica{
		DropReplica: &kvdpb.DropReplica{Shard: s.id, Replica: c.replica}}})
	w.settleOwner(s)
	return true
}
