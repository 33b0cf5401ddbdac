package placement

import "time"

// pause is a timer whose waits grow from one bound to another.
type pause struct {
	timer       *time.Timer
	next        time.Duration
	first, last time.Duration
}

func newPause(first, last time.Duration) *pause {
	return &pause{next: first, first: first, last: last}
}

// after returns a channel that gets a value after the next wait.
func (p *pause) after() <-chan time.Time {
	d := p.next
	p.next = min(2*p.next, p.last)
	return p.in(d)
}

// in returns a channel that gets a value after d; never if d is zero.
func (p *pause) in(d time.Duration) <-chan time.Time {
	if d <= 0 {
		return nil
	}
	if p.timer == nil {
		p.timer = time.NewTimer(d)
	} else {
		p.timer.Reset(d)
	}
	return p.timer.C
}

// reset begins anew with the first wait.
func (p *pause) reset() { p.next = p.first }

func (p *pause) stop() {
	if p.timer != nil {
		p.timer.Stop()
	}
}
