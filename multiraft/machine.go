package multiraft

import (
	"errors"
	"fmt"
	"io"
	"time"

	sm "github.com/lni/dragonboat/v4/statemachine"
	"go.uber.org/zap"
)

// Entry is one committed command. Cmd must not be modified; it may be kept. Apply sets Result and Data, which the proposer gets in its Outcome.
type Entry struct {
	Index  uint64
	Cmd    []byte
	Result uint64
	Data   []byte
}

// StateMachine is one replica's state. Open comes first and Close last, each once; Close is called without Open when the replica is stopped before
// it began. Apply, Sync, PrepareSnapshot, RecoverFromSnapshot and Close exclude each other; SaveSnapshot runs beside Apply. None of them may call the
// Host. An error from any of them but those named below ends the process: failures that are not the replica's own belong into Result.
type StateMachine interface {
	// Open returns the index that the state contains. It is 0 on the first start of any replica, whatever data the state machine already holds, and
	// never falls below what the last Sync made durable. It may return ErrStopped when stop is closed.
	Open(stop <-chan struct{}) (applied uint64, err error)
	// Apply applies entries in index order. The slice is reused. A call that blocks delays every shard that shares the worker.
	Apply(entries []Entry) error
	// Sync makes everything applied durable.
	Sync() error
	// PrepareSnapshot captures the state of this moment, cheaply; SaveSnapshot is always called with what it returns.
	PrepareSnapshot() (any, error)
	// SaveSnapshot writes the captured state and releases it. It may return ErrStopped when stop is closed; an error of w ends the stream only.
	SaveSnapshot(captured any, w io.Writer, stop <-chan struct{}) error
	// RecoverFromSnapshot replaces the state. It may return ErrStopped when stop is closed, and then the old state or none must be found by the
	// next Open, never a mixture.
	RecoverFromSnapshot(r io.Reader, stop <-chan struct{}) error
	Close() error
}

// machine makes a StateMachine Dragonboat's.
type machine struct {
	sm      StateMachine
	r       *replica
	entries []Entry
}

var _ sm.IOnDiskStateMachine = (*machine)(nil)

// fail reports a state machine's error before Dragonboat ends the process because of it.
func (m *machine) fail(doing string, err error) error {
	err = fmt.Errorf("multiraft: shard %d replica %d: %s: %w", m.r.shard, m.r.id, doing, err)
	m.r.host.log.Error("state machine failed, the process cannot go on", zap.Error(err))
	if f := m.r.host.cfg.OnFatal; f != nil {
		f(err)
	}
	return err
}

func (m *machine) Open(stop <-chan struct{}) (uint64, error) {
	applied, err := m.sm.Open(stop)
	if errors.Is(err, ErrStopped) {
		return 0, fmt.Errorf("%w: %w", sm.ErrOpenStopped, err)
	}
	if err != nil {
		return 0, m.fail("open", err)
	}
	if f, ok := m.sm.(Flusher); ok {
		m.r.flush = f.Flush
	}
	return applied, nil
}

func (m *machine) Update(in []sm.Entry) ([]sm.Entry, error) {
	all := m.entries[:0]
	for i := range in {
		all = append(all, Entry{Index: in[i].Index, Cmd: in[i].Cmd})
	}
	began := time.Now()
	if err := m.sm.Apply(all); err != nil {
		return nil, m.fail("apply", err)
	}
	m.r.host.counters.appliedAtOnce(len(all), time.Since(began))
	for i := range in {
		in[i].Result = sm.Result{Value: all[i].Result, Data: all[i].Data}
	}
	clear(all)
	m.entries = all
	m.r.host.shortener.look()
	return in, nil
}

var errLookup = errors.New("multiraft: state machines are not read through the log")

// Lookup is not used: readers go to the state itself.
func (m *machine) Lookup(any) (any, error) { return nil, errLookup }

func (m *machine) Sync() error {
	if err := m.sm.Sync(); err != nil {
		return m.fail("sync", err)
	}
	return nil
}

func (m *machine) PrepareSnapshot() (any, error) {
	captured, err := m.sm.PrepareSnapshot()
	if err != nil {
		return nil, m.fail("prepare a snapshot", err)
	}
	return captured, nil
}

func (m *machine) SaveSnapshot(captured any, w io.Writer, stop <-chan struct{}) error {
	sink := &sinkWriter{w: w}
	err := m.sm.SaveSnapshot(captured, sink, stop)
	switch {
	case err == nil:
		return nil
	case sink.err != nil:
		// The stream failed, and the state machine's error is about that, however it may have been wrapped.
		return fmt.Errorf("%w: %w", sm.ErrSnapshotStreaming, sink.err)
	case errors.Is(err, ErrStopped):
		return fmt.Errorf("%w: %w", sm.ErrSnapshotStopped, err)
	}
	return m.fail("save a snapshot", err)
}

func (m *machine) RecoverFromSnapshot(r io.Reader, stop <-chan struct{}) error {
	c := &m.r.host.counters
	c.restoring.Add(1)
	defer c.restoring.Add(-1)
	err := m.sm.RecoverFromSnapshot(r, stop)
	if errors.Is(err, ErrStopped) {
		return fmt.Errorf("%w: %w", sm.ErrSnapshotStopped, err)
	}
	if err != nil {
		return m.fail("recover from a snapshot", err)
	}
	c.restored.Add(1)
	return nil
}

func (m *machine) Close() error {
	defer m.r.finished()
	if err := m.sm.Close(); err != nil {
		return m.fail("close", err)
	}
	return nil
}

// sinkWriter remembers the error of the stream that a snapshot is written to.
type sinkWriter struct {
	w   io.Writer
	err error
}

func (s *sinkWriter) Write(b []byte) (int, error) {
	n, err := s.w.Write(b)
	if err != nil {
		s.err = err
	}
	return n, err
}
