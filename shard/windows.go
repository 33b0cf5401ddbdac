package shard

import (
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kvd-io/kvd/mvcc"
)

// windows serves reads of single keys from snapshots that are kept open, since
// opening one costs more than the read itself.
//
// A window begins at some moment of a tenure; its snapshots are taken after that.
// A key that has not changed since the window began (heads knows) reads the same
// from any of them, whenever it was taken, as from a snapshot taken now. What is
// being applied at this very moment may be in a snapshot and not yet be marked
// as changed; then the snapshot's own revision says so, and as with any snapshot
// the answer is given at that revision if it is above the one asked for.
//
// A window ends when too many keys have changed, and after windowAge in any
// case, so that it does not keep much memory and disk from being given back.
type windows struct {
	t       *tenure
	current atomic.Pointer[window]
}

// window holds the open snapshots of one window, each used by one reader at a
// time.
type window struct {
	number uint64
	slots  []windowSlot
	aging  sync.Once
}

type windowSlot struct {
	sync.Mutex
	sn     *mvcc.Snapshot
	closed bool
	_      [40]byte // keeps the slots' locks on different cache lines
}

// windowAge bounds the life of a window in use.
const windowAge = time.Second

func newWindow(number uint64) *window {
	return &window{number: number, slots: make([]windowSlot, runtime.GOMAXPROCS(0))}
}

// borrow returns a snapshot on which a key is what it is now, nil if there is
// none at hand. The slot has to be given back by Unlock.
func (v *windows) borrow(s headState) *windowSlot {
	w := v.current.Load()
	if !s.unchanged || w == nil || v.t.over() {
		return nil
	}
	if w.number != s.window {
		v.follow(s.window)
		return nil
	}
	first := rand.IntN(len(w.slots))
	for i := range w.slots {
		slot := &w.slots[(first+i)%len(w.slots)]
		if !slot.TryLock() {
			continue
		}
		if slot.closed {
			slot.Unlock()
			return nil
		}
		if slot.sn == nil {
			slot.sn = v.t.r.store.Load().NewSnapshot()
			w.aging.Do(func() { time.AfterFunc(windowAge, func() { v.expire(w.number) }) })
		}
		if slot.sn.Err() != nil {
			slot.Unlock()
			return nil
		}
		return slot
	}
	return nil
}

// expire ends a window for its age.
func (v *windows) expire(number uint64) {
	v.t.heads.endWindow(number)
	v.follow(number + 1)
}

// follow replaces the window by a later one.
func (v *windows) follow(number uint64) {
	w := v.current.Load()
	if w == nil || w.number >= number {
		return
	}
	if v.current.CompareAndSwap(w, newWindow(number)) {
		w.close()
	}
}

// close ends the windows for good.
func (v *windows) close() {
	if w := v.current.Swap(nil); w != nil {
		w.close()
	}
}

func (w *window) close() {
	for i := range w.slots {
		s := &w.slots[i]
		s.Lock()
		s.closed = true
		if s.sn != nil {
			s.sn.Close()
			s.sn = nil
		}
		s.Unlock()
	}
}
