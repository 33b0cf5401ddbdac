package mvcc

import "sync"

// bulkReads bounds what long reads of everything, for which a store is pinned, take
// of the block cache. Pebble has no way to read past it, and it takes a block in
// whether there is use for it or not: without a bound one pass over a large store
// makes a member that was idle grow by the whole cache. So while there are pins the
// cache does not grow by more than bulkCacheGrowth; what it holds stays, and a cache
// that is full is not touched.
type bulkReads struct {
	mu      sync.Mutex
	pins    int
	release func()
}

// bulkCacheGrowth is in bytes: enough for what is read often meanwhile.
const bulkCacheGrowth = 32 << 20

// begin counts a pin.
func (b *bulkReads) begin(e *Engine) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pins++; b.pins > 1 {
		return
	}
	// Memtables are charged to the cache.
	room := e.cache.MaxSize() - e.cache.Size() - bulkCacheGrowth
	for _, s := range e.stores() {
		if g := s.current.Load(); g != nil && g.acquire() {
			m := g.db.Metrics()
			room -= int64(m.MemTable.Size + m.MemTable.ZombieSize)
			g.release()
		}
	}
	if room > 0 {
		b.release = e.cache.Reserve(int(room))
	}
}

// end takes a pin back.
func (b *bulkReads) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pins--; b.pins == 0 && b.release != nil {
		b.release()
		b.release = nil
	}
}
