package watch

import "sync"

// task is a piece of work that is woken whenever something it looks at has
// changed, and that runs on one worker at a time. A wake while it runs makes it
// run once more, so that no change is missed and none is counted.
type task struct {
	run   func()
	sched *scheduler
	// state is guarded by sched.mu.
	state taskState
}

type taskState uint8

const (
	taskIdle taskState = iota
	taskQueued
	taskRunning
	taskAgain
)

// wake makes the task run soon. It never blocks.
func (t *task) wake() { t.sched.wake(t) }

// scheduler runs tasks on a few workers, first come first served. A task that
// has more to do wakes itself and so takes its turn behind the others.
type scheduler struct {
	mu struct {
		sync.Mutex
		cond   *sync.Cond
		queue  []*task
		head   int
		closed bool
	}
	wg sync.WaitGroup
}

// newScheduler starts the given number of workers. With none, nothing runs until
// drain is called, which is how tests make the order of things their own.
func newScheduler(workers int) *scheduler {
	s := &scheduler{}
	s.mu.cond = sync.NewCond(&s.mu)
	s.wg.Add(workers)
	for range workers {
		go s.work()
	}
	return s
}

func (s *scheduler) newTask(run func()) *task { return &task{run: run, sched: s} }

func (s *scheduler) wake(t *task) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch t.state {
	case taskIdle:
		if s.mu.closed {
			return
		}
		t.state = taskQueued
		s.mu.queue = append(s.mu.queue, t)
		s.mu.cond.Signal()
	case taskRunning:
		t.state = taskAgain
	}
}

func (s *scheduler) work() {
	defer s.wg.Done()
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		for s.mu.head == len(s.mu.queue) && !s.mu.closed {
			s.mu.cond.Wait()
		}
		if s.mu.closed {
			return
		}
		s.runNextLocked()
	}
}

// runNextLocked runs the task at the head of the queue, without the lock.
func (s *scheduler) runNextLocked() {
	t := s.mu.queue[s.mu.head]
	s.mu.queue[s.mu.head] = nil
	if s.mu.head++; s.mu.head == len(s.mu.queue) {
		s.mu.queue, s.mu.head = s.mu.queue[:0], 0
	}
	t.state = taskRunning
	s.mu.Unlock()
	t.run()
	s.mu.Lock()
	again := t.state == taskAgain
	t.state = taskIdle
	if again && !s.mu.closed {
		t.state = taskQueued
		s.mu.queue = append(s.mu.queue, t)
		s.mu.cond.Signal()
	}
}

// drain runs what is queued, and what that wakes, on the caller's goroutine, at
// most limit tasks. It reports whether there was anything.
func (s *scheduler) drain(limit int) (ran bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n := 0; s.mu.head < len(s.mu.queue) && !s.mu.closed; n++ {
		if n == limit {
			panic("watch: tasks wake each other without end")
		}
		s.runNextLocked()
		ran = true
	}
	return ran
}

// close ends the workers once the tasks that run now have returned.
func (s *scheduler) close() {
	s.mu.Lock()
	s.mu.closed = true
	s.mu.queue, s.mu.head = nil, 0
	s.mu.cond.Broadcast()
	s.mu.Unlock()
	s.wg.Wait()
}
