package compactor

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// store is a cluster whose revision rises by one a second.
type store struct {
	sync.Mutex
	began     time.Time
	owner     bool
	fails     error
	compacted []int64
	at        []time.Duration
}

func newStore() *store { return &store{began: time.Now(), owner: true} }

func (s *store) revision() int64 { return 1 + int64(time.Since(s.began)/time.Second) }

func (s *store) config(period time.Duration, revisions int64) Config {
	return Config{
		Period: period, Revisions: revisions,
		Current: func(context.Context) (int64, error) { return s.revision(), nil },
		Owner: func() bool {
			s.Lock()
			defer s.Unlock()
			return s.owner
		},
		Compact: func(_ context.Context, revision int64) error {
			s.Lock()
			defer s.Unlock()
			if s.fails == nil {
				s.compacted = append(s.compacted, revision)
				s.at = append(s.at, time.Since(s.began))
			}
			return s.fails
		},
	}
}

// done returns the revisions that were compacted.
func (s *store) done() []int64 {
	s.Lock()
	defer s.Unlock()
	return slices.Clone(s.compacted)
}

// times returns when they were.
func (s *store) times() []time.Duration {
	s.Lock()
	defer s.Unlock()
	return slices.Clone(s.at)
}

func (s *store) set(f func()) {
	s.Lock()
	defer s.Unlock()
	f()
}

func TestPeriodic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		c := New(s.config(10*time.Minute, 0))
		c.Start()
		defer c.Close()
		time.Sleep(10*time.Minute - time.Second)
		synctest.Wait()
		require.Empty(t, s.done(), "nothing is old enough")
		time.Sleep(25 * time.Minute)
		synctest.Wait()
		require.Equal(t, []time.Duration{10 * time.Minute, 20 * time.Minute, 30 * time.Minute}, s.times())
		require.Equal(t, []int64{1, 601, 1201}, s.done(), "what was current ten minutes before")
	})
}

func TestPeriodicLongerThanAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		c := New(s.config(3*time.Hour, 0))
		c.Start()
		defer c.Close()
		time.Sleep(5*time.Hour + time.Minute)
		synctest.Wait()
		require.Equal(t, []time.Duration{3 * time.Hour, 4 * time.Hour, 5 * time.Hour}, s.times())
		require.Equal(t, []int64{1, 3601, 7201}, s.done())
	})
}

func TestPeriodicMovesWithTheOwnership(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		s.owner = false
		c := New(s.config(10*time.Minute, 0))
		c.Start()
		defer c.Close()
		time.Sleep(25*time.Minute + time.Second)
		synctest.Wait()
		require.Empty(t, s.done())
		s.set(func() { s.owner = true })
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Equal(t, []int64{961}, s.done(), "it has noted the revisions all the time")
	})
}

func TestPeriodicTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		s.fails = errors.New("no sequencer")
		c := New(s.config(10*time.Minute, 0))
		c.Start()
		defer c.Close()
		time.Sleep(12*time.Minute + time.Second)
		s.set(func() { s.fails = nil })
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Equal(t, []time.Duration{13 * time.Minute}, s.times())
		require.Equal(t, []int64{181}, s.done())
	})
}

func TestByRevisions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStore()
		c := New(s.config(0, 500))
		c.Start()
		defer c.Close()
		time.Sleep(11 * time.Minute)
		synctest.Wait()
		require.Equal(t, []int64{101}, s.done(), "nothing at 5 minutes, where 301 is current")
		s.set(func() { s.fails = rpctypes.ErrGRPCCompacted })
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		require.Len(t, s.done(), 1)
	})
}

func TestOff(t *testing.T) {
	c := New(Config{})
	c.Start()
	c.Close()
}
