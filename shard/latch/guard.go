package latch

// Status is what an attempt to acquire or to wait came to.
type Status uint8

const (
	// Granted: there was nothing to wait for. The waiter is not called.
	Granted Status = iota
	// Queued: the waiter will be called.
	Queued
	// Closed: the manager is closed; nothing was acquired. The waiter is not called.
	Closed
)

// Waiter is called back when a queued guard's turn has come (ok), or when the
// manager was closed before that (not ok). The call comes from the goroutine
// that released the last blocker or closed the manager, with no lock held, and
// must not block.
type Waiter interface {
	Latched(g *Guard, ok bool)
}

type state uint8

const (
	idle state = iota
	waiting
	held
	ghost // cancelled while waiting
)

// Guard is one request's set of latches. The zero value is ready for use, and
// again after Release. A guard must not be copied or moved while in use.
type Guard struct {
	waiter   Waiter
	state    state
	blockers int
	// blocked lists the guards that wait for this one, possibly several times.
	blocked []*Guard
	points  []pointRef
	ranges  []*ranged
	// The list of all waiting guards.
	prev, next *Guard

	onePoint [1]pointRef
}

// pointRef is a latch on one key.
type pointRef struct {
	point *point
	write bool
}

// point is a key that some guard has a latch on.
type point struct {
	key string
	// refs counts the latches on the key, held or waiting.
	refs int
	// holder is the guard that holds the key for writing.
	holder *Guard
	// last is the writer that came last, held or waiting; readers are the
	// unreleased readers that came after it.
	last    *Guard
	readers []*Guard
}

// ranged is a latch on a span of more than one key.
type ranged struct {
	start, end string
	seq        uint64
	write      bool
	guard      *Guard
}
