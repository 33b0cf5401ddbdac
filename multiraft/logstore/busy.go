package logstore

import "sync"

// busyNotifier tells from its own goroutine whether the store is held up: the store learns it under locks, on goroutines that may themselves hold what the listener wants.
type busyNotifier struct {
	f    func(bool)
	wake chan struct{}
	stop chan struct{}
	done chan struct{}

	mu struct {
		sync.Mutex
		busy bool
	}
}

func newBusyNotifier(f func(bool)) *busyNotifier {
	n := &busyNotifier{f: f, wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{})}
	go n.run()
	return n
}

func (n *busyNotifier) set(busy bool) {
	n.mu.Lock()
	n.mu.busy = busy
	n.mu.Unlock()
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

func (n *busyNotifier) run() {
	defer close(n.done)
	told := false
	for {
		select {
		case <-n.wake:
		case <-n.stop:
			return
		}
		n.mu.Lock()
		busy := n.mu.busy
		n.mu.Unlock()
		if busy != told && n.f != nil {
			n.f(busy)
		}
		told = busy
	}
}

func (n *busyNotifier) close() {
	close(n.stop)
	<-n.done
}
