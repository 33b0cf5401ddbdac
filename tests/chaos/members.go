package chaos

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"github.com/kvd-io/kvd/tests/cluster"
)

// start runs a member that does not run, and watches over its end.
func (r *round) start(m *cluster.Member) error {
	if m.Running() {
		return nil
	}
	if err := m.Start(); err != nil {
		return err
	}
	p := m.Process()
	go func() {
		<-p.Exited()
		r.mu.Lock()
		defer r.mu.Unlock()
		if !r.mu.intended[p.Pid()] && !r.mu.mayEnd[m] {
			r.mu.ended = append(r.mu.ended, fmt.Errorf("member %s ended by itself (%w); end of its log:\n%s", m.Name, p.Err(), m.LogTail(6<<10)))
		}
	}()
	return nil
}

func (r *round) intend(m *cluster.Member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.intended[m.Pid()] = true
}

// mayEnd says that a member may give up from now on: its disk fails it.
func (r *round) mayEnd(m *cluster.Member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.mayEnd[m] = true
}

func (r *round) kill(m *cluster.Member) error {
	r.intend(m)
	if p := m.Process(); p != nil && r.disk != nil {
		// A process that waits for a frozen disk ends only when the disk thaws.
		_ = p.Signal(syscall.SIGKILL)
		_ = r.disk.thaw()
	}
	return m.Kill()
}

func (r *round) stop(ctx context.Context, m *cluster.Member) error {
	r.intend(m)
	if !m.Running() {
		return nil
	}
	// A fault that this one overlaps may have frozen the member or its disk.
	if r.disk != nil {
		_ = r.disk.thaw()
	}
	if err := m.Resume(); err != nil {
		return err
	}
	// A member without a majority may need all of its stop timeout.
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return m.Stop(ctx)
}
