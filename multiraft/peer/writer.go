package peer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"go.uber.org/zap"
)

// serve writes to an established connection until it is lost, and returns why.
func (o *outgoing) serve(conn net.Conn) error {
	defer o.m.untrack(conn)
	o.progress.Store(now())
	o.mu.Lock()
	o.mu.conn = conn
	o.mu.pending = o.mu.pending[:0]
	o.mu.frames = 0
	o.mu.idle = true
	o.mu.since = time.Now()
	o.mu.err = nil
	close(o.mu.up)
	o.mu.Unlock()
	o.m.log.Debug("connected to peer", zap.String("member", fmt.Sprintf("%016x", o.r.id)), zap.Stringer("channel", o.ch))

	lost := make(chan error, 1)
	o.m.wg.Add(1)
	go func() {
		defer o.m.wg.Done()
		err := o.readPongs(conn)
		_ = conn.Close()
		lost <- err
	}()
	err := o.write(conn, lost)
	_ = conn.Close()

	o.mu.Lock()
	if o.mu.err != nil {
		err = o.mu.err
	}
	o.mu.conn = nil
	o.mu.pending = nil
	o.mu.frames = 0
	o.mu.since = time.Now()
	o.mu.err = err
	o.mu.up = make(chan struct{})
	o.mu.room.Broadcast()
	o.mu.Unlock()
	if o.m.ctx.Err() == nil {
		o.m.log.Info("connection to peer lost", zap.String("member", fmt.Sprintf("%016x", o.r.id)),
			zap.Stringer("channel", o.ch), zap.Error(err))
	}
	o.m.notifyDown(o.r.id, o.ch)
	return err
}

// write is the writer's loop.
func (o *outgoing) write(conn net.Conn, lost <-chan error) error {
	ping := time.NewTicker(o.m.cfg.Heartbeat)
	defer ping.Stop()
	var buf []byte
	buf = appendPing(buf, framePing, now())
	if err := o.flush(conn, buf); err != nil {
		return err
	}
	for {
		pinging := false
		select {
		case <-o.wake:
		case <-ping.C:
			pinging = true
		case err := <-lost:
			return err
		case <-o.m.ctx.Done():
			return ErrClosed
		}
		for {
			o.mu.Lock()
			buf, o.mu.pending = o.mu.pending, buf[:0]
			waiting := o.mu.frames
			o.mu.frames = 0
			o.mu.idle = waiting == 0
			if waiting > 0 {
				o.mu.room.Broadcast()
			}
			o.mu.Unlock()
			if pinging {
				buf = appendPing(buf, framePing, now())
				pinging = false
			}
			if len(buf) == 0 {
				break
			}
			if err := o.flush(conn, buf); err != nil {
				return err
			}
			if cap(buf) > keepBuffer {
				buf = nil
			}
		}
	}
}

func (o *outgoing) flush(conn net.Conn, b []byte) error {
	for len(b) > 0 {
		n := min(len(b), writeChunk)
		if _, err := conn.Write(b[:n]); err != nil {
			return fmt.Errorf("writing: %w", err)
		}
		o.r.sent.Add(uint64(n))
		o.progress.Store(now())
		b = b[n:]
	}
	return nil
}

// readPongs is the watchdog: it returns when the connection ends, or when for DeadAfter nothing was taken or answered.
func (o *outgoing) readPongs(conn net.Conn) error {
	fr := newFrameReader(conn, pingPayload)
	for {
		limit := o.m.cfg.DeadAfter - time.Duration(now()-o.progress.Load())
		if limit <= 0 {
			return fmt.Errorf("no answer for %v", o.m.cfg.DeadAfter)
		}
		if err := conn.SetReadDeadline(time.Now().Add(limit)); err != nil {
			return err
		}
		kind, payload, err := fr.next()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		if err != nil {
			return fmt.Errorf("reading: %w", err)
		}
		if kind != framePong {
			return fmt.Errorf("%w: kind %d on the sending side", errFrame, kind)
		}
		at := now()
		o.progress.Store(at)
		if rtt := at - int64(binary.BigEndian.Uint64(payload)); rtt >= 0 {
			o.r.rtts.Observe(time.Duration(rtt))
			if old := o.r.rtt.Load(); old > 0 {
				rtt = old + (rtt-old)/8
			}
			o.r.rtt.Store(max(rtt, 1))
		}
	}
}
