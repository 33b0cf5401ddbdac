package shard

import (
	"sync"

	"github.com/kvd-io/kvd/mvcc"
)

// heads remembers the newest version's metadata of keys that were written or
// looked up lately, so that a put usually reads nothing from the store. It is
// exact for the keys it holds: a key enters or changes only while a latch on it
// is held, by evaluation or by the tenure's own apply, and only the tenure's own
// writes apply during it. It is bounded, and forgets by the clock algorithm.
//
// It also knows which keys have changed since the present window began: a key
// that it holds without that mark, or does not hold at all, has not. See
// windows for the use of that. To keep it true, a window ends before one of its
// changed keys is forgotten.
type heads struct {
	limit int

	mu struct {
		sync.Mutex
		index map[string]int32
		slots []headSlot
		hand  int
		// window numbers the present window; changed counts its changed keys.
		window  uint64
		changed int
	}
}

type headSlot struct {
	key  string
	head mvcc.Head
	// window is the last window in which the key changed.
	window uint64
	used   bool
}

// headState is what is known of a key.
type headState struct {
	head mvcc.Head
	// known says that head is the key's newest version; it may say that the key
	// does not exist.
	known bool
	// unchanged says that the key has not changed since the given window began.
	unchanged bool
	window    uint64
}

func newHeads(limit int) *heads {
	h := &heads{limit: max(limit, 2)}
	h.mu.index = make(map[string]int32)
	h.mu.window = 1
	return h
}

// get returns what is known of a key.
func (h *heads) get(key []byte) headState {
	h.mu.Lock()
	defer h.mu.Unlock()
	i, ok := h.mu.index[string(key)]
	if !ok {
		return headState{unchanged: true, window: h.mu.window}
	}
	s := &h.mu.slots[i]
	s.used = true
	return headState{head: s.head, known: true, unchanged: s.window != h.mu.window, window: h.mu.window}
}

// put remembers the head of a key that was looked up.
func (h *heads) put(key []byte, head mvcc.Head) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.slotLocked(key).head = head
}

// slotLocked returns the slot of a key, taking one for it if it has none.
func (h *heads) slotLocked(key []byte) *headSlot {
	if i, ok := h.mu.index[string(key)]; ok {
		return &h.mu.slots[i]
	}
	i := len(h.mu.slots)
	if i < h.limit {
		h.mu.slots = append(h.mu.slots, headSlot{})
	} else {
		for i = h.mu.hand; h.mu.slots[i].used; i = (i + 1) % len(h.mu.slots) {
			h.mu.slots[i].used = false
		}
		h.mu.hand = (i + 1) % len(h.mu.slots)
		if h.mu.slots[i].window == h.mu.window {
			h.nextWindowLocked()
		}
		delete(h.mu.index, h.mu.slots[i].key)
	}
	s := &h.mu.slots[i]
	*s = headSlot{key: string(key)}
	h.mu.index[s.key] = int32(i)
	return s
}

// applied takes in the effects of a revision that applied, before its latches
// are released. A deletion changes what is known and adds nothing, so that a
// delete of a large range does not wash everything else out.
func (h *heads) applied(rev int64, effects []mvcc.Effect) {
	h.mu.Lock()
	defer h.mu.Unlock()
	unmarked := false
	for i := range effects {
		e := &effects[i]
		if e.Tombstone {
			at, ok := h.mu.index[string(e.Key)]
			if !ok {
				unmarked = true
				continue
			}
			h.mu.slots[at].head = mvcc.Head{}
			h.markLocked(&h.mu.slots[at])
			continue
		}
		s := h.slotLocked(e.Key)
		s.head = mvcc.Head{Create: e.Create, Mod: rev, Version: e.Version, Lease: e.Lease, Exists: true}
		if e.Create == 0 {
			s.head.Create = rev
		}
		h.markLocked(s)
	}
	if unmarked {
		h.nextWindowLocked()
	}
}

// markLocked notes that a key changed.
func (h *heads) markLocked(s *headSlot) {
	if s.window == h.mu.window {
		return
	}
	if h.mu.changed >= h.limit/2 {
		h.nextWindowLocked()
	}
	h.mu.changed++
	s.window = h.mu.window
}

// endWindow begins the next window, if the given one is still the present one.
func (h *heads) endWindow(window uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mu.window == window {
		h.nextWindowLocked()
	}
}

func (h *heads) nextWindowLocked() {
	h.mu.window++
	h.mu.changed = 0
}
