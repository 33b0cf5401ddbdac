package mvcc

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"
)

const (
	// keeperInterval is how often the stores are looked at while there is
	// nothing to do.
	keeperInterval = 250 * time.Millisecond
	// keeperRest is how long the keeper rests after a step, in times of what
	// the step took, so that background work takes a sixth of one core at most.
	keeperRest = 5
	// keeperMaxRest bounds a rest that a slow disk would make very long.
	keeperMaxRest = 500 * time.Millisecond
)

// keeper does the background work of an engine, one step of one store at a
// time: it collects history, cuts the live-key counters, and flushes early when
// the memtables of all stores exceed their budget.
type keeper struct {
	engine *Engine
	poke   chan struct{}
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

func newKeeper(e *Engine) *keeper {
	k := &keeper{engine: e, poke: make(chan struct{}, 1)}
	k.ctx, k.cancel = context.WithCancel(context.Background())
	return k
}

func (k *keeper) start() {
	k.wg.Add(1)
	go k.run()
}

// stop ends the background work and waits for the step that is under way.
func (k *keeper) stop() {
	k.cancel()
	k.wg.Wait()
}

func (k *keeper) run() {
	defer k.wg.Done()
	for k.rest(keeperInterval) {
		for busy := true; busy; {
			busy = false
			for _, s := range k.engine.stores() {
				if !s.needsWork() {
					continue
				}
				began := time.Now()
				more := k.step(s)
				busy = busy || more
				if !k.rest(min(keeperRest*time.Since(began), keeperMaxRest)) {
					return
				}
			}
		}
	}
}

// rest waits, serving the memtable budget, and tells whether to go on.
func (k *keeper) rest(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	for {
		select {
		case <-k.ctx.Done():
			return false
		case <-k.poke:
			k.engine.flushLargest()
		case <-t.C:
			return true
		}
	}
}

// step does one step for a store and tells whether there is more to do.
func (k *keeper) step(s *Store) bool {
	done, err := s.Collect(k.ctx, CollectLimits{})
	more := !done
	if err == nil {
		var refine bool
		refine, err = s.refineCounters(k.ctx)
		more = more || refine
	}
	switch {
	case err == nil:
		return more
	case errors.Is(err, ErrClosed) || errors.Is(err, context.Canceled):
	case errors.Is(err, ErrCorrupt):
		s.fail(err)
	default:
		k.engine.log.Warn("background step failed", zap.String("dir", s.dir), zap.Error(err))
	}
	return false
}

// needsWork tells whether a step could find something to do. It is cheap.
func (s *Store) needsWork() bool {
	g := s.current.Load()
	if g == nil || s.failure() != nil {
		return false
	}
	return g.collected.Load() < g.published.Load().compact || len(g.sweeps.list()) > 0 || g.counters.needWork()
}

// addUnflushed accounts for n bytes that came into memtables, or left them.
func (e *Engine) addUnflushed(n int64) {
	if e.unflushed.Add(n) > e.opts.MemtableBudget && n > 0 {
		select {
		case e.keeper.poke <- struct{}{}:
		default:
		}
	}
}

// flushLargest begins to flush the stores with the most bytes in memtables,
// until the rest is well within the budget.
func (e *Engine) flushLargest() {
	left := e.unflushed.Load()
	flushed := make(map[*Store]bool)
	for left > e.opts.MemtableBudget/4*3 {
		var largest *Store
		var most int64
		for _, s := range e.stores() {
			if g := s.current.Load(); g != nil && !flushed[s] {
				if n := g.unflushed.Load(); n > most {
					largest, most = s, n
				}
			}
		}
		if largest == nil {
			return
		}
		flushed[largest] = true
		left -= most
		largest.beginFlush()
	}
}

// beginFlush starts a flush without waiting for it.
func (s *Store) beginFlush() {
	g, err := s.acquire()
	if err != nil || s.failure() != nil {
		if err == nil {
			g.release()
		}
		return
	}
	defer g.release()
	writes := g.writes.Load()
	done, err := g.db.AsyncFlush()
	if err != nil {
		s.fail(diskError("flush", err))
		return
	}
	s.engine.keeper.wg.Add(1)
	go func() {
		defer s.engine.keeper.wg.Done()
		select {
		case <-done:
			g.raiseFlushed(writes)
		case <-s.failing:
		case <-s.closing:
		}
	}()
}
