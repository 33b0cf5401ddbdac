package peer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

const (
	minBackoff = 20 * time.Millisecond
	maxBackoff = time.Second
	// writeChunk bounds one write call: each one that returns shows that the other side takes data.
	writeChunk = 256 << 10
)

// epoch makes monotonic readings small integers.
var epoch = time.Now()

func now() int64 { return int64(time.Since(epoch)) }

// outgoing is the sending end of one channel to one member: at most one connection, one goroutine that dials it and writes to it.
//
// Send appends to mu.pending and wakes the writer when it was idle. The writer takes the whole buffer in exchange for the empty one it
// wrote last, so two buffers do for all frames and a burst becomes one write.
type outgoing struct {
	m  *Mesh
	r  *remote
	ch Channel
	// wake tells the writer that there is something pending; kick ends a backoff.
	wake, kick chan struct{}
	// progress is when the other side last took or sent something, see now.
	progress atomic.Int64

	mu struct {
		sync.Mutex
		// room is signalled when pending was taken or the connection ended.
		room    *sync.Cond
		conn    net.Conn
		pending []byte
		frames  int
		idle    bool
		// up is closed when conn becomes non-nil, and replaced when it is lost.
		up      chan struct{}
		running bool
		used    bool
		since   time.Time
		err     error
	}
}

func newOutgoing(m *Mesh, r *remote, ch Channel) *outgoing {
	o := &outgoing{m: m, r: r, ch: ch, wake: make(chan struct{}, 1), kick: make(chan struct{}, 1)}
	o.mu.room = sync.NewCond(&o.mu.Mutex)
	o.mu.up = make(chan struct{})
	return o
}

func (o *outgoing) send(frame []byte) error {
	if len(frame) > MaxFrame {
		return ErrFrameTooLarge
	}
	o.mu.Lock()
	if o.mu.conn == nil {
		err := o.demandLocked()
		o.mu.Unlock()
		return err
	}
	if o.fullLocked(len(frame)) {
		o.mu.Unlock()
		o.r.failures.Add(1)
		return ErrBacklog
	}
	o.mu.pending = appendFrame(o.mu.pending, frameData, frame)
	o.mu.frames++
	wake := o.mu.idle
	o.mu.idle = false
	o.mu.Unlock()
	if wake {
		o.wakeWriter()
	}
	return nil
}

func (o *outgoing) sendWith(n int, fill func(b []byte) (int, error)) error {
	if n > MaxFrame {
		return ErrFrameTooLarge
	}
	o.mu.Lock()
	if o.mu.conn == nil {
		err := o.demandLocked()
		o.mu.Unlock()
		return err
	}
	conn := o.mu.conn
	for o.fullLocked(n) {
		o.mu.room.Wait()
		if o.mu.conn != conn {
			o.mu.Unlock()
			return ErrNotConnected
		}
	}
	at := len(o.mu.pending)
	o.mu.pending = slices.Grow(o.mu.pending, frameHeader+n)[:at+frameHeader+n]
	payload := o.mu.pending[at+frameHeader:]
	filled, err := fill(payload)
	if err == nil && (filled < 0 || filled > n) {
		err = fmt.Errorf("peer: %d bytes filled of %d", filled, n)
	}
	if err != nil {
		o.mu.pending = o.mu.pending[:at]
		o.mu.Unlock()
		return err
	}
	payload = payload[:filled]
	o.mu.pending = o.mu.pending[:at+frameHeader+filled]
	putFrameHeader(o.mu.pending[at:], frameData, payload)
	o.mu.frames++
	wake := o.mu.idle
	o.mu.idle = false
	o.mu.Unlock()
	if wake {
		o.wakeWriter()
	}
	return nil
}

func (o *outgoing) fullLocked(n int) bool {
	return len(o.mu.pending) > 0 && (len(o.mu.pending)+n > o.m.maxPending || o.mu.frames >= maxPendingFrames)
}

func (o *outgoing) wakeWriter() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// kickDial ends a backoff, for the other side has just shown that it is alive.
func (o *outgoing) kickDial() {
	select {
	case o.kick <- struct{}{}:
	default:
	}
}

// demandLocked makes sure that somebody dials, and returns why there is no connection.
func (o *outgoing) demandLocked() error {
	o.mu.used = true
	if !o.mu.running {
		if o.m.ctx.Err() != nil {
			return ErrClosed
		}
		o.mu.running = true
		o.mu.Unlock()
		started := o.m.begin()
		o.mu.Lock()
		if !started {
			o.mu.running = false
			return ErrClosed
		}
		go o.run()
	}
	return ErrNotConnected
}

func (o *outgoing) wait(ctx context.Context) error {
	for {
		o.mu.Lock()
		if o.mu.conn != nil {
			o.mu.Unlock()
			return nil
		}
		if err := o.demandLocked(); errors.Is(err, ErrClosed) {
			o.mu.Unlock()
			return err
		}
		up := o.mu.up
		o.mu.Unlock()
		select {
		case <-up:
		case <-ctx.Done():
			return fmt.Errorf("peer: connecting to member %016x: %w", o.r.id, o.waitError(ctx))
		case <-o.m.ctx.Done():
			return ErrClosed
		}
	}
}

func (o *outgoing) waitError(ctx context.Context) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.mu.err != nil {
		return o.mu.err
	}
	return ctx.Err()
}

func (o *outgoing) state() (connected, used bool, since time.Time, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.mu.conn != nil, o.mu.used, o.mu.since, o.mu.err
}

func (o *outgoing) breakConn(cause error) {
	o.mu.Lock()
	conn := o.mu.conn
	if conn != nil {
		o.mu.err = cause
	}
	o.mu.Unlock()
	if conn != nil {
		_ = conn.Close()
	}
}

// run dials, serves and dials again until the mesh is closed or the member has no address any more.
func (o *outgoing) run() {
	defer o.m.wg.Done()
	backoff := minBackoff
	for o.m.ctx.Err() == nil {
		began := time.Now()
		conn, err := o.m.dialMesh(o.m.ctx, o.r.id, o.ch)
		if err == nil {
			o.m.clearRefusal(o.r.id)
			err = o.serve(conn)
			if time.Since(began) > maxBackoff {
				backoff = minBackoff
			}
		}
		if o.m.ctx.Err() != nil {
			break
		}
		o.fail(err)
		if !o.pause(backoff) {
			break
		}
		backoff = min(2*backoff, maxBackoff)
		if errors.Is(err, errNoAddress) && o.rest() {
			return
		}
	}
	o.mu.Lock()
	o.mu.running = false
	o.mu.Unlock()
}

// rest ends the goroutine while the member has no address; the next Send starts it again.
func (o *outgoing) rest() bool {
	if len(o.m.cfg.Addresses(o.r.id)) > 0 {
		return false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.mu.running = false
	return true
}

// pause waits for a jittered backoff; false when the mesh is closed.
func (o *outgoing) pause(backoff time.Duration) bool {
	t := time.NewTimer(backoff/2 + rand.N(backoff/2+1))
	defer t.Stop()
	select {
	case <-t.C:
	case <-o.kick:
	case <-o.m.ctx.Done():
		return false
	}
	return true
}

func (o *outgoing) fail(err error) {
	o.mu.Lock()
	o.r.failures.Add(1)
	changed := o.mu.err == nil || o.mu.err.Error() != err.Error()
	o.mu.err = err
	o.mu.Unlock()
	var refused *RefusedError
	if errors.As(err, &refused) {
		if refused.Removed() && o.m.cfg.OnRemoved != nil {
			o.m.cfg.OnRemoved(refused.Member)
		}
		if o.ch == ChannelRaft || refused.status != statusNotReady {
			o.m.logRefusal(o.r.id, "outgoing", refused.Reason)
		}
		return
	}
	level := zap.DebugLevel
	if changed {
		level = zap.InfoLevel
	}
	o.m.log.Log(level, "no connection to peer", zap.String("member", fmt.Sprintf("%016x", o.r.id)),
		zap.Stringer("channel", o.ch), zap.Error(err))
}
