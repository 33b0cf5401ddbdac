package multiraft

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	sm "github.com/lni/dragonboat/v4/statemachine"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
)

// failing is a state machine all of whose methods return an error.
type failing struct{ err error }

func (f *failing) Open(<-chan struct{}) (uint64, error) { return 0, f.err }
func (f *failing) Apply([]Entry) error                  { return f.err }
func (f *failing) Sync() error                          { return f.err }
func (f *failing) PrepareSnapshot() (any, error)        { return nil, f.err }
func (f *failing) SaveSnapshot(_ any, w io.Writer, _ <-chan struct{}) error {
	if _, err := w.Write([]byte("x")); err != nil {
		// As careless code does it.
		return fmt.Errorf("while writing: %v", err)
	}
	return f.err
}
func (f *failing) RecoverFromSnapshot(io.Reader, <-chan struct{}) error { return f.err }
func (f *failing) Close() error                                         { return f.err }

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("connection reset") }

func adapted(f *failing) (*machine, *[]error) {
	var fatal []error
	cfg := Config{OnFatal: func(err error) { fatal = append(fatal, err) }}
	h := &Host{cfg: cfg, log: zap.NewNop()}
	h.transport = newTransport(&cfg, &h.counters, h.runs)
	h.shortener = newShortener(h)
	return &machine{sm: f, r: &replica{host: h, shard: 4, id: 2, closed: make(chan struct{})}}, &fatal
}

func TestFailuresOfAStateMachineAreTold(t *testing.T) {
	disk := errors.New("disk on fire")
	m, fatal := adapted(&failing{disk})
	_, openErr := m.Open(nil)
	_, updateErr := m.Update([]sm.Entry{{Index: 1}})
	_, prepareErr := m.PrepareSnapshot()
	all := []error{openErr, updateErr, prepareErr, m.Sync(), m.SaveSnapshot(nil, io.Discard, nil), m.RecoverFromSnapshot(strings.NewReader(""), nil), m.Close()}
	for _, err := range all {
		require.ErrorIs(t, err, disk)
		require.ErrorContains(t, err, "shard 4 replica 2")
	}
	require.Equal(t, all, *fatal)
	select {
	case <-m.r.closed:
	default:
		t.Fatal("the replica has not ended")
	}
}

func TestStoppingAndBrokenStreamsAreNotFatal(t *testing.T) {
	m, fatal := adapted(&failing{fmt.Errorf("given up: %w", ErrStopped)})
	_, err := m.Open(nil)
	require.ErrorIs(t, err, sm.ErrOpenStopped)
	require.ErrorIs(t, m.SaveSnapshot(nil, io.Discard, nil), sm.ErrSnapshotStopped)
	require.ErrorIs(t, m.RecoverFromSnapshot(strings.NewReader(""), nil), sm.ErrSnapshotStopped)
	require.ErrorIs(t, m.SaveSnapshot(nil, brokenWriter{}, nil), sm.ErrSnapshotStreaming)
	_, err = m.Lookup(nil)
	require.Error(t, err)
	require.Empty(t, *fatal)
}
