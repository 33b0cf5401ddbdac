package mvcc

import (
	"bytes"
	"sort"
	"sync"

	"github.com/kvd-io/kvd/mvcc/keyspace"
)

const (
	// bucketKeys is how many live keys a bucket is given when it is made, and
	// bucketMax how many it may grow to before it is cut again.
	bucketKeys = 512
	bucketMax  = 2 * bucketKeys
	// changeLogMax and changeLogBytes bound the log of changes.
	changeLogMax   = 4096
	changeLogBytes = 256 << 10
)

// liveChange is a key that came to life (1) or died (-1) at a revision.
type liveChange struct {
	rev   int64
	key   []byte
	delta int64
}

// bucket counts the live keys from its start to the start of the next one.
type bucket struct {
	start []byte // never changed
	n     int64
	known bool
	// id names this cut of this range: it is new whenever the bounds or what is
	// known about them change in another way than by counting.
	id uint64
}

// counters know how many keys of a range are live, so that counting them reads
// only the edges of the range. They are kept by apply and live in memory only;
// after a start nothing is known, and whoever counts a range for the first time
// leaves behind what it learned.
//
// Invariants:
//  1. The buckets cover the whole key space without gap or overlap.
//  2. The number of a known bucket is that of the state after every change that
//     apply has passed in, which may be one batch ahead of what can be read.
//  3. log holds every change of a revision above the floor, in order. So the
//     number at an older revision L >= floor is the present one less the
//     changes above L, and a number found by reading a snapshot of L becomes a
//     present one by adding them.
//
// An earlier idea was to keep an immutable tree of buckets per published state.
// It needs no log, but costs every create an allocation of a path, and cannot
// count at a revision that is a little old, which every paginated list asks for.
type counters struct {
	// cutting is held by the one reader that cuts a very large bucket.
	cutting sync.Mutex

	mu struct {
		sync.Mutex
		buckets  []bucket
		log      []liveChange
		logBytes int
		floor    int64
		drops    uint64
		lastID   uint64
		// ragged is set when there may be a bucket that refine should cut.
		ragged bool
	}
}

// newCounters returns the counters of a store that begins with a state. A store
// without a revision is empty; of any other one nothing is known yet.
func newCounters(m meta) *counters {
	c := &counters{}
	empty := m.last == 0
	c.mu.buckets = []bucket{{start: keyspace.Min(), known: empty}}
	c.mu.ragged = !empty
	c.mu.floor = m.last
	c.mu.drops = m.drops
	return c
}

// apply counts changes, which come in the order of their revisions.
func (c *counters) apply(changes []liveChange) {
	if len(changes) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ch := range changes {
		b := &c.mu.buckets[c.findLocked(ch.key)]
		if b.known {
			b.n += ch.delta
			assert(b.n >= 0, "bucket with fewer than no keys")
			c.mu.ragged = c.mu.ragged || b.n > bucketMax
		}
		ch.key = bytes.Clone(ch.key)
		c.mu.log = append(c.mu.log, ch)
		c.mu.logBytes += len(ch.key)
	}
	if len(c.mu.log) > changeLogMax || c.mu.logBytes > changeLogBytes {
		c.truncateLocked()
	}
}

// truncateLocked forgets the older part of the log.
func (c *counters) truncateLocked() {
	keep := len(c.mu.log) / 2
	if c.mu.logBytes > 2*changeLogBytes || len(c.mu.log) > 2*changeLogMax {
		keep = 0 // one huge batch
	}
	cut := len(c.mu.log) - keep
	c.mu.floor = c.mu.log[cut-1].rev
	c.mu.log = append(make([]liveChange, 0, changeLogMax/2+keep), c.mu.log[cut:]...)
	c.mu.logBytes = 0
	for _, ch := range c.mu.log {
		c.mu.logBytes += len(ch.key)
	}
}

// findLocked returns the index of the bucket that key belongs to.
func (c *counters) findLocked(key []byte) int {
	i := sort.Search(len(c.mu.buckets), func(i int) bool {
		return bytes.Compare(c.mu.buckets[i].start, key) > 0
	})
	return max(i-1, 0)
}

// spaceEnd is the end of the last bucket.
var spaceEnd = keyspace.Max()

// spanLocked returns the bounds of bucket i.
func (c *counters) spanLocked(i int) keyspace.Span {
	s := keyspace.Span{Start: c.mu.buckets[i].start, End: spaceEnd}
	if i+1 < len(c.mu.buckets) {
		s.End = c.mu.buckets[i+1].start
	}
	return s
}

// newerLocked returns the changes above rev.
func (c *counters) newerLocked(rev int64) []liveChange {
	i := sort.Search(len(c.mu.log), func(i int) bool { return c.mu.log[i].rev > rev })
	return c.mu.log[i:]
}

// piece is a part of a range that must be read to be counted.
type piece struct {
	// span is the part; whole is the bucket it lies in.
	span, whole keyspace.Span
	id          uint64
	// known tells that the bucket's number n was known.
	known bool
	n     int64
}

// tally adds up the buckets that lie inside span as of revision rev of a state
// that has seen drops, and returns the parts that remain to be read. ok is
// false where the counters cannot tell that state.
func (c *counters) tally(span keyspace.Span, rev int64, drops uint64) (n int64, rest []piece, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if rev < c.mu.floor || drops != c.mu.drops {
		return 0, nil, false
	}
	var counted []keyspace.Span
	first := c.findLocked(span.Start)
	for i := first; i < len(c.mu.buckets); i++ {
		b := &c.mu.buckets[i]
		if bytes.Compare(b.start, span.End) >= 0 {
			break
		}
		whole := c.spanLocked(i)
		if inside := (i > first || bytes.Equal(b.start, span.Start)) && bytes.Compare(whole.End, span.End) <= 0; !b.known || !inside {
			rest = append(rest, piece{span: whole.Intersect(span), whole: whole, id: b.id, known: b.known, n: b.n})
			continue
		}
		n += b.n
		if k := len(counted) - 1; k >= 0 && bytes.Equal(counted[k].End, whole.Start) {
			counted[k].End = whole.End
		} else {
			counted = append(counted, whole)
		}
	}
	for _, ch := range c.newerLocked(rev) {
		i := sort.Search(len(counted), func(i int) bool { return bytes.Compare(ch.key, counted[i].End) < 0 })
		if i < len(counted) && counted[i].Contains(ch.key) {
			n -= ch.delta
		}
	}
	return n, rest, true
}

// cut is a bucket to be: the live keys from start on, as read at some revision.
type cut struct {
	start []byte
	n     int64
}

// install replaces a part of the bucket that p names by cuts, which partition
// span and were counted in a snapshot of rev that had seen drops. It does
// nothing where the bucket is not what it was, or where the log does not reach
// back to rev.
func (c *counters) install(p piece, span keyspace.Span, cuts []cut, rev int64, drops uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if rev < c.mu.floor || drops != c.mu.drops || len(cuts) == 0 {
		return
	}
	i := c.findLocked(span.Start)
	old, whole := c.mu.buckets[i], c.spanLocked(i)
	left, right := !bytes.Equal(whole.Start, span.Start), !bytes.Equal(whole.End, span.End)
	if old.id != p.id || !whole.ContainsSpan(span) || (old.known && left && right) {
		return
	}
	made := make([]bucket, 0, len(cuts)+2)
	if left {
		made = append(made, bucket{start: old.start})
	}
	first := len(made)
	for _, k := range cuts {
		made = append(made, bucket{start: bytes.Clone(k.start), n: k.n, known: true})
	}
	last := len(made)
	if right {
		made = append(made, bucket{start: bytes.Clone(span.End)})
	}
	for _, ch := range c.newerLocked(rev) {
		if !span.Contains(ch.key) {
			continue
		}
		j := sort.Search(last-first, func(j int) bool { return bytes.Compare(made[first+j].start, ch.key) > 0 })
		made[first+j-1].n += ch.delta
	}
	if old.known && (left || right) {
		remainder := old.n
		for _, b := range made[first:last] {
			remainder -= b.n
		}
		k := 0
		if right {
			k = last
		}
		made[k].n, made[k].known = remainder, true
	}
	c.replaceLocked(i, i+1, made)
}

// replaceLocked puts buckets in the place of those from i to j, and marks them
// as new.
func (c *counters) replaceLocked(i, j int, made []bucket) {
	for k := range made {
		c.mu.lastID++
		made[k].id = c.mu.lastID
		assert(!made[k].known || made[k].n >= 0, "bucket with fewer than no keys")
		c.mu.ragged = c.mu.ragged || !made[k].known || made[k].n > bucketMax
	}
	tail := append([]bucket(nil), c.mu.buckets[j:]...)
	c.mu.buckets = append(append(c.mu.buckets[:i], made...), tail...)
	c.mergeLocked()
}

// mergeLocked joins small neighbours when there are far more buckets than the
// keys need.
func (c *counters) mergeLocked() {
	var keys int64
	for i := range c.mu.buckets {
		keys += c.mu.buckets[i].n
	}
	if int64(len(c.mu.buckets)) < 64+4*keys/bucketKeys {
		return
	}
	merged := c.mu.buckets[:1]
	for _, b := range c.mu.buckets[1:] {
		last := &merged[len(merged)-1]
		if last.known == b.known && last.n+b.n <= bucketKeys {
			last.n += b.n
			c.mu.lastID++
			last.id = c.mu.lastID
			continue
		}
		merged = append(merged, b)
	}
	clear(c.mu.buckets[len(merged):])
	c.mu.buckets = merged
}

// drop notes that a span was emptied after revision rev, as the drops-th such
// event.
func (c *counters) drop(span keyspace.Span, rev int64, drops uint64) {
	c.replace(span, true, rev, drops)
}

// absorb notes that a span, which was empty, got keys with a state of revision rev.
// They are counted when somebody wants to know.
func (c *counters) absorb(span keyspace.Span, rev int64, drops uint64) {
	c.replace(span, false, rev, drops)
}

// replace gives a span a bucket of its own: empty, or not known.
func (c *counters) replace(span keyspace.Span, empty bool, rev int64, drops uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.drops = drops
	// What the log says of the keys that were there is true no more.
	c.mu.log, c.mu.logBytes, c.mu.floor = nil, 0, rev
	i := c.findLocked(span.Start)
	j := i
	var made []bucket
	for ; j < len(c.mu.buckets); j++ {
		b, whole := c.mu.buckets[j], c.spanLocked(j)
		if !whole.Overlaps(span) {
			break
		}
		// What lies outside of the span keeps its keys; how many they are is
		// known only if there were none.
		outside := bucket{known: b.known && b.n == 0}
		if bytes.Compare(whole.Start, span.Start) < 0 {
			outside.start = whole.Start
			made = append(made, outside)
		}
		if len(made) == 0 || j == i {
			made = append(made, bucket{start: bytes.Clone(span.Start), known: empty})
		}
		if bytes.Compare(span.End, whole.End) < 0 {
			outside.start = bytes.Clone(span.End)
			made = append(made, outside)
		}
	}
	if len(made) > 0 {
		c.replaceLocked(i, j, made)
	}
}

// total returns the number of live keys, and whether it is exact: as long as
// parts are not known it is a lower bound.
func (c *counters) total() (n int64, exact bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	exact = true
	for i := range c.mu.buckets {
		n += c.mu.buckets[i].n
		exact = exact && c.mu.buckets[i].known
	}
	return n, exact
}

// raggedPiece returns a bucket that should be cut, if there is one.
func (c *counters) raggedPiece() (p piece, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.mu.ragged {
		return p, false
	}
	for i := range c.mu.buckets {
		if b := &c.mu.buckets[i]; !b.known || b.n > bucketMax {
			whole := c.spanLocked(i)
			return piece{span: whole, whole: whole, id: b.id, known: b.known, n: b.n}, true
		}
	}
	c.mu.ragged = false
	return p, false
}

// needWork tells whether there may be a bucket that should be cut.
func (c *counters) needWork() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.ragged
}
