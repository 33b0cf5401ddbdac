package shard

import (
	"context"

	"github.com/kvd-io/kvd/shard/ownership"
)

// Grant is an answer of the sequencer.
type Grant struct {
	// First is the first of the allotted revisions; of Current it is the
	// current revision: no smaller one will ever be allotted again.
	First int64
	// Stamp is the sequencer's clock and versions at that moment.
	Stamp ownership.Stamp
}

// Sequencer hands out revisions and readings of its clock. Package placement
// implements it. Every answer comes from a message that left after the call
// began, so an answer lies between call and return.
type Sequencer interface {
	// Allocate allots n consecutive revisions, Grant.First the smallest of them.
	// An error means that whatever was allotted will never be used by anybody.
	// auth is the auth version under which the writers were checked (see
	// Request.Auth): ErrOldAuth says that it is not the present one, and nothing
	// was allotted.
	Allocate(ctx context.Context, n int, auth uint64) (Grant, error)
	// Current answers the largest revision that was allotted so far.
	Current(ctx context.Context) (Grant, error)
	// TryCurrent is Current where it needs no message, which is when the
	// sequencer is this very process and serves. It never blocks.
	TryCurrent() (Grant, bool)
	// Probe answers a reading, or *ownership.ErrNotServing from a sequencer that
	// has claimed and does not serve yet. It serves the wait-out of new owners.
	Probe(ctx context.Context) (ownership.Stamp, error)
}
