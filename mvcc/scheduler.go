package mvcc

import (
	"slices"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// compactionSlots shares a fixed number of compaction slots among the databases
// of a member. Pebble's own scheduler knows one database only and runs a
// goroutine with a ticker for each.
//
// A database takes a free slot itself (TrySchedule). Where there is none it is
// marked as waiting, and the one granting goroutine gives the next free slot to
// the waiting database with the most urgent compaction.
//
// Locks: TrySchedule is called under pebble's locks, so mu is never held while
// a database is called, except for GetAllowedWithoutPermission, which takes no
// lock.
type compactionSlots struct {
	limit int
	poke  chan struct{}
	quit  chan struct{}
	done  chan struct{}

	mu struct {
		sync.Mutex
		running int
		dbs     []*dbSlots
	}
}

// regrantInterval bounds how long a waiting database waits when what it may run
// grew without anybody saying so.
const regrantInterval = 200 * time.Millisecond

func newCompactionSlots(limit int) *compactionSlots {
	c := &compactionSlots{
		limit: limit,
		poke:  make(chan struct{}, 1),
		quit:  make(chan struct{}),
		done:  make(chan struct{}),
	}
	go c.grantLoop()
	return c
}

// close ends the granting goroutine. All databases have been closed before.
func (c *compactionSlots) close() {
	close(c.quit)
	<-c.done
}

// forDB returns the scheduler of one database that is to be opened.
func (c *compactionSlots) forDB() *dbSlots {
	d := &dbSlots{slots: c}
	d.idle.L = &c.mu
	return d
}

func (c *compactionSlots) wake() {
	select {
	case c.poke <- struct{}{}:
	default:
	}
}

func (c *compactionSlots) grantLoop() {
	defer close(c.done)
	t := time.NewTicker(regrantInterval)
	defer t.Stop()
	for {
		select {
		case <-c.quit:
			return
		case <-c.poke:
		case <-t.C:
		}
		for c.grantOne() {
		}
	}
}

// grantOne gives one free slot to the most urgent of the waiting databases and
// tells whether it is worth trying again.
func (c *compactionSlots) grantOne() bool {
	var best *dbSlots
	var urgency pebble.WaitingCompaction
	for _, d := range c.candidates() {
		waiting, w := d.db.GetWaitingCompaction()
		if waiting {
			d.setWaiting()
		}
		if !waiting || (best != nil && !moreUrgent(w, urgency)) {
			d.leave()
			continue
		}
		if best != nil {
			best.leave()
		}
		best, urgency = d, w
	}
	if best == nil {
		return false
	}
	defer best.leave()
	if !best.acquire() {
		return false
	}
	if !best.db.Schedule(best) {
		best.Done()
	}
	return true
}

func moreUrgent(a, b pebble.WaitingCompaction) bool {
	if a.Optional != b.Optional {
		return !a.Optional
	}
	if a.Priority != b.Priority {
		return a.Priority > b.Priority
	}
	return a.Score > b.Score
}

// candidates returns the waiting databases that may run one more, each entered
// so that it cannot go away, or none where no slot is free. Their marks are
// taken off first: one that is refused a slot from now on marks itself again,
// so no wait is lost to a race with the answer.
func (c *compactionSlots) candidates() []*dbSlots {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.running >= c.limit {
		return nil
	}
	var all []*dbSlots
	for _, d := range c.mu.dbs {
		if d.waiting && d.running < d.db.GetAllowedWithoutPermission() {
			d.waiting = false
			d.calls++
			all = append(all, d)
		}
	}
	return all
}

// dbSlots is the view that one database has of the slots. Its fields are
// guarded by slots.mu.
type dbSlots struct {
	slots   *compactionSlots
	db      pebble.DBForCompaction
	running int
	// waiting is set when the database was refused a slot.
	waiting bool
	// calls counts the calls into the database that are under way.
	calls  int
	idle   sync.Cond
	closed bool
}

var (
	_ pebble.CompactionScheduler   = (*dbSlots)(nil)
	_ pebble.CompactionGrantHandle = (*dbSlots)(nil)
)

// Register implements pebble.CompactionScheduler.
func (d *dbSlots) Register(_ int, db pebble.DBForCompaction) {
	d.slots.mu.Lock()
	defer d.slots.mu.Unlock()
	d.db = db
	d.slots.mu.dbs = append(d.slots.mu.dbs, d)
}

// Unregister implements pebble.CompactionScheduler: after it the database is
// not called any more.
func (d *dbSlots) Unregister() {
	d.slots.mu.Lock()
	defer d.slots.mu.Unlock()
	d.closed = true
	if i := slices.Index(d.slots.mu.dbs, d); i >= 0 {
		d.slots.mu.dbs = slices.Delete(d.slots.mu.dbs, i, i+1)
	}
	for d.calls > 0 {
		d.idle.Wait()
	}
}

// TrySchedule implements pebble.CompactionScheduler.
func (d *dbSlots) TrySchedule() (bool, pebble.CompactionGrantHandle) {
	if d.acquire() {
		return true, d
	}
	d.setWaiting()
	return false, nil
}

// UpdateGetAllowedWithoutPermission implements pebble.CompactionScheduler.
func (d *dbSlots) UpdateGetAllowedWithoutPermission() { d.slots.wake() }

// Started implements pebble.CompactionGrantHandle.
func (d *dbSlots) Started() {}

// MeasureCPU implements pebble.CompactionGrantHandle.
func (d *dbSlots) MeasureCPU(pebble.CompactionGoroutineKind) {}

// CumulativeStats implements pebble.CompactionGrantHandle.
func (d *dbSlots) CumulativeStats(pebble.CompactionGrantHandleStats) {}

// Done implements pebble.CompactionGrantHandle: a compaction ended.
func (d *dbSlots) Done() {
	d.slots.mu.Lock()
	d.running--
	d.slots.mu.running--
	d.slots.mu.Unlock()
	d.slots.wake()
}

func (d *dbSlots) acquire() bool {
	d.slots.mu.Lock()
	defer d.slots.mu.Unlock()
	if d.closed || d.slots.mu.running >= d.slots.limit || d.running >= d.db.GetAllowedWithoutPermission() {
		return false
	}
	d.running++
	d.slots.mu.running++
	return true
}

func (d *dbSlots) setWaiting() {
	d.slots.mu.Lock()
	defer d.slots.mu.Unlock()
	d.waiting = true
}

func (d *dbSlots) leave() {
	d.slots.mu.Lock()
	defer d.slots.mu.Unlock()
	if d.calls--; d.calls == 0 {
		d.idle.Broadcast()
	}
}
