package ownership

import (
	"errors"
	"fmt"
	"time"
)

// LeaseDuration is D of the design: how long a read lease holds on the
// sequencer's clock, and how long a new owner waits out. It bounds the gap that
// the loss of an owner leaves (below etcd's election timeout of 1 s) and must be
// several times the interval of renewal so that a busy owner never lapses.
const LeaseDuration = 400 * time.Millisecond

// Stamp is what every answer of the sequencer carries.
type Stamp struct {
	// SeqEpoch is the sequencer's epoch in the placement group.
	SeqEpoch uint64
	// Reading is the sequencer's clock, taken while it was inside its own lease.
	Reading time.Duration
	// MapVersion is the version of the placement state (descriptors, members).
	MapVersion uint64
	// AuthVersion is the version of users, roles and permissions.
	AuthVersion uint64
	// CompactRevision is the revision below which history is gone.
	CompactRevision int64
}

// ErrNotServing is the answer of a sequencer that has claimed but does not serve
// yet. Its epoch is proof for waiting owners.
type ErrNotServing struct{ SeqEpoch uint64 }

func (e *ErrNotServing) Error() string {
	return fmt.Sprintf("sequencer of epoch %d does not serve yet", e.SeqEpoch)
}

// ErrNoSequencer says that no sequencer is known or reachable; a client may try
// again.
var ErrNoSequencer = errors.New("no sequencer is known: the placement group has no owner in reach")

// Lease covers linearizable reads of one ownership. The zero value covers nothing.
type Lease struct {
	// Epoch is the ownership that the lease belongs to.
	Epoch uint64
	// SeqEpoch and Begin are the last sequencer reading that was seen before the
	// ReadIndex began.
	SeqEpoch uint64
	Begin    time.Duration
}

// Covers tells whether a look at the state of the given ownership epoch was
// inside the lease. s must have been asked for after the look was taken, and
// epoch must have been read after s arrived.
func (l Lease) Covers(s Stamp, epoch uint64) bool {
	return l.Epoch != 0 && l.Epoch == epoch && l.SeqEpoch == s.SeqEpoch && s.Reading < l.Begin+LeaseDuration
}

// Aged tells whether the lease is old enough at s to be renewed in the background.
func (l Lease) Aged(s Stamp) bool {
	return l.SeqEpoch != s.SeqEpoch || s.Reading >= l.Begin+LeaseDuration/3
}

// Newer tells whether l extends beyond other. Leases of a higher ownership or
// sequencer epoch are newer whatever their readings.
func (l Lease) Newer(other Lease) bool {
	if l.Epoch != other.Epoch {
		return l.Epoch > other.Epoch
	}
	if l.SeqEpoch != other.SeqEpoch {
		return l.SeqEpoch > other.SeqEpoch
	}
	return l.Begin > other.Begin
}

// WaitOut decides when a new owner may log Serving. It is fed only with answers
// to messages that were sent after the owner's claim had applied.
type WaitOut struct {
	needed  bool
	base    Stamp
	hasBase bool
	// provenEpoch is a sequencer epoch whose first reading is known to come
	// after the claim applied, because it said "not yet serving".
	provenEpoch uint64
	ready       bool
}

// NewWaitOut begins the wait of a claim that has just applied.
func NewWaitOut(mustWait bool) *WaitOut {
	return &WaitOut{needed: mustWait, ready: !mustWait}
}

// Ready tells whether the owner may log Serving.
func (w *WaitOut) Ready() bool { return w.ready }

// Answer takes in a reading and returns Ready. Late readings of lower sequencer
// epochs are ignored: they are no change of the sequencer.
func (w *WaitOut) Answer(s Stamp) bool {
	switch {
	case w.ready:
	case s.SeqEpoch < w.provenEpoch || (w.hasBase && s.SeqEpoch < w.base.SeqEpoch):
	case s.SeqEpoch == w.provenEpoch:
		w.ready = true
	case !w.hasBase:
		// An epoch above provenEpoch became sequencer after provenEpoch said
		// "not yet serving", hence after the claim applied.
		if w.provenEpoch != 0 {
			w.ready = true
			break
		}
		w.base, w.hasBase = s, true
	case s.SeqEpoch > w.base.SeqEpoch:
		w.ready = true
	case s.Reading >= w.base.Reading+LeaseDuration:
		w.ready = true
	}
	return w.ready
}

// NotYetServing takes in the answer of a sequencer that does not serve yet.
func (w *WaitOut) NotYetServing(seqEpoch uint64) {
	if seqEpoch > w.provenEpoch {
		w.provenEpoch = seqEpoch
	}
}
