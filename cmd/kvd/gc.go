package main

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

const (
	// gcPercent trades memory for CPU: most of kvd's memory lies outside of Go's heap, so that the heap is small and
	// may well grow fivefold between two collections.
	gcPercent = 400
	// leastGCPercent is Go's own setting.
	leastGCPercent = 100
	// heapGrowth is how many bytes the heap may grow by between two collections, as long as leastGCPercent allows it. A
	// thousand large ranges at once keep some hundred megabytes alive for a moment: with gcPercent alone the heap would
	// grow to five times that, and stay there, because the next collection comes only once it is full again.
	heapGrowth = 256 << 20
)

// gcTuner lowers GOGC while much of the heap is alive, so that collections lie about as many bytes apart as they do
// while little is. It looks after every collection: an object without owner is finalized after each.
type gcTuner struct {
	growth  uint64
	percent int
	sample  []metrics.Sample
}

// sentinel is what is finalized. It has a pointer, so that it is not allocated together with other tiny objects.
type sentinel struct{ t *gcTuner }

// tuneGC sets the garbage collector, now and after every collection.
func tuneGC(growth uint64) {
	t := &gcTuner{growth: growth, sample: []metrics.Sample{{Name: "/gc/heap/live:bytes"}}}
	t.adjust()
	t.arm()
}

func (t *gcTuner) arm() {
	runtime.SetFinalizer(&sentinel{t}, func(s *sentinel) {
		s.t.adjust()
		s.t.arm()
	})
}

// adjust follows what the last collection has found alive. Setting GOGC stops the world for a moment, so small
// differences are let be.
func (t *gcTuner) adjust() {
	metrics.Read(t.sample)
	percent := percentFor(t.sample[0].Value.Uint64(), t.growth)
	if d := percent - t.percent; d*d*100 < t.percent*t.percent {
		return
	}
	t.percent = percent
	debug.SetGCPercent(percent)
}

// percentFor is the GOGC with which a heap of so many bytes alive grows by about growth.
func percentFor(live, growth uint64) int {
	if live == 0 {
		return gcPercent
	}
	return int(min(max(growth*100/live, leastGCPercent), gcPercent))
}
