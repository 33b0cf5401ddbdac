package shard

import (
	"sync"

	"github.com/kvd-io/kvd/mvcc"
)

// heads remembers the newest version's metadata of keys that were written
// lately, so that a put usually reads nothing from the store. It is exact for
// the keys it holds: a key enters or changes only while a latch on it is held,
// by evaluation or by the tenure's own apply, and only the tenure's own writes
// apply during it. It is bounded, and forgets by the clock algorithm.
type heads struct {
	limit int

	mu struct {
		sync.Mutex
		index map[string]int32
		slots []headSlot
		hand  int
	}
}

type headSlot struct {
	key  string
	head mvcc.Head
	used bool
}

func newHeads(limit int) *heads {
	h := &heads{limit: limit}
	h.mu.index = make(map[string]int32)
	return h
}

// get returns the head of a key if it is known. A known head may say that the
// key does not exist.
func (h *heads) get(key []byte) (mvcc.Head, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	i, ok := h.mu.index[string(key)]
	if !ok {
		return mvcc.Head{}, false
	}
	s := &h.mu.slots[i]
	s.used = true
	return s.head, true
}

// put remembers the head of a key.
func (h *heads) put(key []byte, head mvcc.Head) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.putLocked(key, head)
}

func (h *heads) putLocked(key []byte, head mvcc.Head) {
	if i, ok := h.mu.index[string(key)]; ok {
		h.mu.slots[i].head = head
		return
	}
	slot := headSlot{key: string(key), head: head}
	if len(h.mu.slots) < h.limit {
		h.mu.index[slot.key] = int32(len(h.mu.slots))
		h.mu.slots = append(h.mu.slots, slot)
		return
	}
	for h.mu.slots[h.mu.hand].used {
		h.mu.slots[h.mu.hand].used = false
		h.mu.hand = (h.mu.hand + 1) % len(h.mu.slots)
	}
	i := h.mu.hand
	h.mu.hand = (i + 1) % len(h.mu.slots)
	delete(h.mu.index, h.mu.slots[i].key)
	h.mu.slots[i] = slot
	h.mu.index[slot.key] = int32(i)
}

// applied takes in the effects of a revision that applied. A deletion changes
// what is known and adds nothing, so that a delete of a large range does not
// wash everything else out.
func (h *heads) applied(rev int64, effects []mvcc.Effect) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range effects {
		e := &effects[i]
		if e.Tombstone {
			if at, ok := h.mu.index[string(e.Key)]; ok {
				h.mu.slots[at].head = mvcc.Head{}
			}
			continue
		}
		head := mvcc.Head{Create: e.Create, Mod: rev, Version: e.Version, Lease: e.Lease, Exists: true}
		if head.Create == 0 {
			head.Create = rev
		}
		h.putLocked(e.Key, head)
	}
}
