package watch

import (
	"container/heap"
	"sync/atomic"

	"github.com/kvd-io/kvd/mvcc/keyspace"
)

// watcher is one watch of a stream.
//
// It is in exactly one place: in a group (live, or a cohort that reads history),
// stalled on its stream until what waits there is sent, or in the hands of the
// task that moves it from one place to the next. next is its position in all of
// them: everything below it was handed to the stream, and nothing else was.
type watcher struct {
	stream *Stream
	id     int64
	span   keyspace.Span
	// start is the revision that the client asked for; 0 for "now".
	start int64
	// mask is what it wants to see.
	mask     uint8
	fragment bool
	progress bool

	// group is where it is, nil in transit and while stalled. canceled is set
	// before it is taken out, so that who moves it meanwhile drops it.
	group    atomic.Pointer[group]
	canceled atomic.Bool

	// next belongs to whoever holds the watcher. While it is active in a group it
	// is not kept up: the group's position stands for it.
	next int64
	// slot is its place in its index, future its place in the heap of a group.
	// Both belong to the group's lock.
	slot   int
	future int

	// What follows is guarded by stream.mu.

	// last is the largest revision handed to the stream, or told as progress.
	last int64
	// tail is the sequence number of the last queued item with events.
	tail uint64
	// quiet says that there were no events since the last tick of progress.
	quiet bool
	// told is the revision up to which it is to be told its progress; 0 for none.
	told int64
	// compacted says that it was canceled by a compaction. Its id stays taken
	// until the client cancels it, as in etcd.
	compacted bool
}

// futures is a heap of the watchers of a group that wait for it to reach their
// position, the nearest on top.
type futures []*watcher

func (f futures) Len() int           { return len(f) }
func (f futures) Less(i, j int) bool { return f[i].next < f[j].next }
func (f futures) Swap(i, j int) {
	f[i], f[j] = f[j], f[i]
	f[i].future, f[j].future = i, j
}

// Push implements heap.Interface.
func (f *futures) Push(x any) {
	w := x.(*watcher)
	w.future = len(*f)
	*f = append(*f, w)
}

// Pop implements heap.Interface.
func (f *futures) Pop() any {
	old := *f
	w := old[len(old)-1]
	old[len(old)-1] = nil
	*f = old[:len(old)-1]
	return w
}

func (f *futures) add(w *watcher) { heap.Push(f, w) }

func (f *futures) pop() *watcher { return heap.Pop(f).(*watcher) }

// remove takes a watcher out; false if it is not there.
func (f *futures) remove(w *watcher) bool {
	if w.future >= len(*f) || (*f)[w.future] != w {
		return false
	}
	heap.Remove(f, w.future)
	return true
}
