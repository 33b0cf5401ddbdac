package shard

import (
	"runtime"
	"sync"
)

// Workers runs tasks that may take long (large ranges, evaluation that reads the
// disk) on a bounded number of goroutines, so that whoever hands them over, such
// as the reader of a member's stream, is never held up. Goroutines end when
// there is nothing to do.
type Workers struct {
	limit int

	mu struct {
		sync.Mutex
		running int
		// tasks wait in the order in which they came. Their number is bounded by
		// what the replicas admit (Limits).
		tasks []func()
	}
}

// workersPerCore is the default of NewWorkers: tasks may wait for the disk.
const workersPerCore = 8

// NewWorkers returns workers of at most limit goroutines; zero means a number
// that suits the machine.
func NewWorkers(limit int) *Workers {
	if limit <= 0 {
		limit = workersPerCore * runtime.GOMAXPROCS(0)
	}
	return &Workers{limit: limit}
}

// Go runs the task on some goroutine, soon.
func (w *Workers) Go(task func()) {
	w.mu.Lock()
	if w.mu.running >= w.limit {
		w.mu.tasks = append(w.mu.tasks, task)
		w.mu.Unlock()
		return
	}
	w.mu.running++
	w.mu.Unlock()
	go w.work(task)
}

func (w *Workers) work(task func()) {
	for task != nil {
		task()
		task = w.next()
	}
}

func (w *Workers) next() func() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.mu.tasks) == 0 {
		w.mu.running--
		w.mu.tasks = nil
		return nil
	}
	task := w.mu.tasks[0]
	w.mu.tasks[0] = nil
	w.mu.tasks = w.mu.tasks[1:]
	return task
}
