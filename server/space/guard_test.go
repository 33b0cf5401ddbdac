package space

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

	"github.com/kvd-io/kvd/proto/kvdpb"
)

// world is what a guard sees: a store whose garbage goes with a flush, a disk, and the cluster's alarms.
type world struct {
	sync.Mutex
	size, garbage int64
	flushes       int
	free          int64
	alarms        []*kvdpb.Alarm
	fails         error
}

func (w *world) StandingAlarms() []*kvdpb.Alarm {
	w.Lock()
	defer w.Unlock()
	return slices.Clone(w.alarms)
}

func (w *world) RaiseAlarm(_ context.Context, a *kvdpb.Alarm) error {
	w.Lock()
	defer w.Unlock()
	if w.fails == nil {
		w.alarms = append(w.alarms, a)
	}
	return w.fails
}

func (w *world) ClearAlarm(_ context.Context, a *kvdpb.Alarm, _ bool) error {
	w.Lock()
	defer w.Unlock()
	if w.fails == nil {
		w.alarms = slices.DeleteFunc(w.alarms, func(b *kvdpb.Alarm) bool { return a.Cause == b.Cause })
	}
	return w.fails
}

func (w *world) set(f func()) {
	w.Lock()
	defer w.Unlock()
	f()
}

func (w *world) causes() (causes []kvdpb.Alarm_Cause) {
	for _, a := range w.StandingAlarms() {
		causes = append(causes, a.Cause)
	}
	return causes
}

func (w *world) guard(quota, reserve int64) *Guard {
	return New(Config{
		Member: 7, Quota: quota, Reserve: reserve,
		Disks: func() ([]Disk, error) {
			w.Lock()
			defer w.Unlock()
			return []Disk{{Total: 1000, Free: w.free}, {Total: 1 << 40, Free: 1 << 39}}, nil
		},
		Size: func() int64 {
			w.Lock()
			defer w.Unlock()
			return w.size + w.garbage
		},
		Reclaim: func() {
			w.Lock()
			defer w.Unlock()
			w.garbage = 0
			w.flushes++
		},
		Alarms: w,
	})
}

// write is a put: it is admitted and then takes its space.
func write(w *world, g *Guard, bytes int64) error {
	err := g.Grow(context.Background(), int(bytes))
	if err == nil {
		w.set(func() { w.size += bytes })
	}
	return err
}

func TestQuotaTripsAndIsDisarmed(t *testing.T) {
	w := &world{free: 500}
	g := w.guard(53248, 0)
	puts := 0
	for write(w, g, 4100) == nil {
		puts++
	}
	require.Equal(t, 12, puts, "a dozen values of 4 KiB fit into 13 pages")
	require.Equal(t, []kvdpb.Alarm_Cause{kvdpb.Alarm_QUOTA}, w.causes())
	require.Equal(t, uint64(7), w.alarms[0].Member)
	require.ErrorIs(t, write(w, g, 1), rpctypes.ErrGRPCNoSpace, "however small")
	require.NoError(t, g.Change(), "deletions go on")

	// Disarmed without compaction, the next write trips it again; with it, writes go on.
	w.set(func() { w.alarms = nil })
	g.Cleared()
	require.NoError(t, write(w, g, 64), "there is a little room left")
	require.ErrorIs(t, write(w, g, 4100), rpctypes.ErrGRPCNoSpace)
	w.set(func() { w.size, w.garbage, w.alarms = 4164, w.size, nil })
	g.Cleared()
	require.NoError(t, write(w, g, 4100))
	require.Equal(t, int64(53248), g.Quota())
}

func TestDisarmedAlarmIsSeenToBeGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{free: 500, size: 150}
		g := w.guard(100, 0)
		g.Start()
		defer g.Close()
		synctest.Wait()
		require.Len(t, w.causes(), 1)
		w.set(func() { w.alarms = nil })
		g.Cleared()
		time.Sleep(2 * interval)
		synctest.Wait()
		require.Empty(t, w.causes(), "nobody has written since")
		require.ErrorIs(t, write(w, g, 1), rpctypes.ErrGRPCNoSpace)
		require.Len(t, w.causes(), 1)
		w.set(func() { w.alarms = nil })
		g.Cleared()
		time.Sleep(settle + interval)
		synctest.Wait()
		require.Len(t, w.causes(), 1, "the store is still too large")
	})
}

func TestQuotaWhoseAlarmCannotBeRaised(t *testing.T) {
	w := &world{free: 500, fails: errors.New("no sequencer")}
	g := w.guard(100, 0)
	require.ErrorIs(t, write(w, g, 101), rpctypes.ErrGRPCNoSpace, "it is too large whoever knows of it")
	require.NoError(t, write(w, g, 99))
	w.set(func() { w.fails = nil })
	require.ErrorIs(t, write(w, g, 2), rpctypes.ErrGRPCNoSpace)
	require.Len(t, w.causes(), 1)
}

func TestQuotaSeenFromAnotherMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{free: 500}
		g := w.guard(100, 0)
		g.Start()
		defer g.Close()
		// What other gateways write is found by looking.
		w.set(func() { w.size = 150 })
		time.Sleep(2 * interval)
		synctest.Wait()
		require.Equal(t, []kvdpb.Alarm_Cause{kvdpb.Alarm_QUOTA}, w.causes())

		// Compacted and disarmed elsewhere: this member has time to collect before it judges.
		w.set(func() { w.alarms = nil })
		time.Sleep(2 * interval)
		synctest.Wait()
		require.Empty(t, w.causes())
		require.NoError(t, g.Grow(t.Context(), 1))
		w.set(func() { w.size, w.garbage = 50, 100 })
		time.Sleep(2 * settle)
		synctest.Wait()
		require.Empty(t, w.causes())
		require.NotZero(t, w.flushes)

		// Disarmed without having compacted, it comes back.
		w.set(func() { w.size = 150 })
		time.Sleep(2 * interval)
		synctest.Wait()
		w.set(func() { w.alarms = nil })
		time.Sleep(2 * settle)
		synctest.Wait()
		require.Equal(t, []kvdpb.Alarm_Cause{kvdpb.Alarm_QUOTA}, w.causes())
	})
}

func TestDiskAlarmClearsItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{free: 200}
		g := w.guard(0, 100)
		g.Start()
		defer g.Close()
		synctest.Wait()
		require.NoError(t, g.Grow(t.Context(), 1<<20), "no quota")
		w.set(func() { w.free, w.fails = 99, errors.New("no sequencer") })
		time.Sleep(2 * interval)
		synctest.Wait()
		require.ErrorIs(t, g.Grow(t.Context(), 1), rpctypes.ErrGRPCNoSpace, "refused before the cluster knows")
		w.set(func() { w.fails = nil })
		time.Sleep(2 * interval)
		synctest.Wait()
		require.Equal(t, []kvdpb.Alarm_Cause{kvdpb.Alarm_DISK}, w.causes())
		w.set(func() { w.free = 110 })
		time.Sleep(2 * interval)
		synctest.Wait()
		require.Len(t, w.causes(), 1, "it does not flap")
		w.set(func() { w.free = 126 })
		time.Sleep(2 * interval)
		synctest.Wait()
		require.Empty(t, w.causes())
		require.NoError(t, g.Grow(t.Context(), 1))
		require.Equal(t, int64(26), g.Quota(), "what the disk has room for")
	})
}

func TestDiskAlarmOfARunBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{free: 500, alarms: []*kvdpb.Alarm{
			{Member: 7, Type: kvdpb.Alarm_NO_SPACE, Cause: kvdpb.Alarm_DISK},
			{Member: 8, Type: kvdpb.Alarm_CORRUPT, Cause: kvdpb.Alarm_CHECK},
		}}
		g := w.guard(0, 0)
		g.Start()
		defer g.Close()
		synctest.Wait()
		require.Equal(t, []kvdpb.Alarm_Cause{kvdpb.Alarm_CHECK}, w.causes(), "the disk has room now")
		require.ErrorIs(t, g.Change(), rpctypes.ErrGRPCCorrupt)
	})
}

func TestReserve(t *testing.T) {
	require.EqualValues(t, 50, New(Config{}).reserve(Disk{Total: 1000}))
	require.EqualValues(t, maxReserve, New(Config{}).reserve(Disk{Total: 1 << 40}))
	require.EqualValues(t, 7, New(Config{Reserve: 7}).reserve(Disk{Total: 1000}))
	require.EqualValues(t, 0, New(Config{Reserve: -1}).reserve(Disk{Total: 1000}))
	disks, err := Room(t.TempDir())
	require.NoError(t, err)
	require.Len(t, disks, 1)
	require.Greater(t, disks[0].Total, disks[0].Free)
	_, err = Room("/does/not/exist")
	require.Error(t, err)
}
