package space

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

const (
	// interval is how often the sizes are looked at.
	interval = time.Second
	// settle is how long after an alarm was cleared this member does not raise one for its quota: its own replicas may
	// still have to collect what was compacted.
	settle = 5 * time.Second
	// raiseTimeout bounds a try to raise or to clear an alarm.
	raiseTimeout = 5 * time.Second
	// maxReserve and reserveShare are the default reserve: the smaller of a size and a share of the disk.
	maxReserve   = 1 << 30
	reserveShare = 20
)

// Alarms are the alarms of the cluster as this member sees them.
type Alarms interface {
	// StandingAlarms is cheap and does not block.
	StandingAlarms() []*kvdpb.Alarm
	RaiseAlarm(ctx context.Context, a *kvdpb.Alarm) error
	ClearAlarm(ctx context.Context, a *kvdpb.Alarm, anyCause bool) error
}

// Disk is the room on one disk, in bytes.
type Disk struct{ Total, Free int64 }

// Config is what a Guard is made of.
type Config struct {
	// Member is this member's id.
	Member uint64
	// Quota is the size in bytes that the rows may take; 0 or less is none.
	Quota int64
	// Reserve is the room in bytes that each disk must keep. 0 is a gigabyte or a twentieth of the disk, what is less;
	// negative is none.
	Reserve int64
	// Disks looks at the disks that the member writes to.
	Disks func() ([]Disk, error)
	// Size is what the rows of this member's replicas take, in bytes.
	Size func() int64
	// Reclaim writes out memtables, so that Size no longer counts what was compacted in them.
	Reclaim func()
	Alarms  Alarms
	Logger  *zap.Logger
}

// Guard watches the space of one member. It is safe for concurrent use.
type Guard struct {
	cfg Config
	log *zap.Logger
	// full: a disk has less room than the reserve.
	full atomic.Bool
	// room is what the store may still grow until somebody must look; it counts down.
	room atomic.Int64
	// capacity is what Quota answers where there is none.
	capacity atomic.Int64

	mu struct {
		sync.Mutex
		// stood says that an alarm for lack of space stood at the last look; cleared is when one was seen to be gone, and
		// disarmed when a client of this member had one taken back.
		stood             bool
		cleared, disarmed time.Time
	}
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// New makes a guard that admits everything until Start.
func New(cfg Config) *Guard {
	g := &Guard{cfg: cfg, log: cfg.Logger}
	if g.log == nil {
		g.log = zap.NewNop()
	}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	g.room.Store(max(cfg.Quota, 0))
	return g
}

// Start begins to watch.
func (g *Guard) Start() {
	g.wg.Add(1)
	go func() {
		defer g.wg.Done()
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			g.look()
			select {
			case <-tick.C:
			case <-g.ctx.Done():
				return
			}
		}
	}()
}

// Close ends watching.
func (g *Guard) Close() {
	g.cancel()
	g.wg.Wait()
}

// Grow admits a write that stores about so many bytes, or fails with etcd's ErrNoSpace.
func (g *Guard) Grow(ctx context.Context, bytes int) error {
	if g.full.Load() || g.standing(kvdpb.Alarm_NO_SPACE) {
		return rpctypes.ErrGRPCNoSpace
	}
	if g.cfg.Quota <= 0 || g.room.Add(int64(-bytes)) >= 0 {
		return nil
	}
	return g.judge(ctx, int64(bytes))
}

// Change admits a request that changes data or history, or fails with etcd's ErrCorrupt.
func (g *Guard) Change() error {
	if g.standing(kvdpb.Alarm_CORRUPT) {
		return rpctypes.ErrGRPCCorrupt
	}
	return nil
}

func (g *Guard) standing(t kvdpb.Alarm_Type) bool {
	for _, a := range g.cfg.Alarms.StandingAlarms() {
		if a.Type == t {
			return true
		}
	}
	return false
}

// Quota is the size in bytes that the store may have: the configured one, or what the disk has room for.
func (g *Guard) Quota() int64 {
	if g.cfg.Quota > 0 {
		return g.cfg.Quota
	}
	return g.capacity.Load()
}

// Cleared must be called when a client has disarmed an alarm, before it is answered: what follows is judged by what the
// store takes then.
func (g *Guard) Cleared() {
	if g.cfg.Quota <= 0 {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.cfg.Reclaim()
	g.mu.stood = g.standing(kvdpb.Alarm_NO_SPACE)
	g.mu.cleared, g.mu.disarmed = time.Time{}, time.Now()
	g.room.Store(g.cfg.Quota - g.cfg.Size())
}

// judge looks at the size anew, and raises the alarm if the quota is exceeded.
func (g *Guard) judge(ctx context.Context, bytes int64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.standing(kvdpb.Alarm_NO_SPACE) {
		return rpctypes.ErrGRPCNoSpace
	}
	if g.overLocked(bytes) {
		g.mu.stood = g.raise(ctx, kvdpb.Alarm_QUOTA) || g.mu.stood
		return rpctypes.ErrGRPCNoSpace
	}
	return nil
}

// overLocked measures, and tells whether the quota has no room for so many bytes.
func (g *Guard) overLocked(bytes int64) bool {
	left := g.cfg.Quota - g.cfg.Size()
	g.room.Store(left - bytes)
	return left < bytes && time.Since(g.mu.cleared) >= settle
}

// look does what is due from time to time.
func (g *Guard) look() {
	g.lookAtDisks()
	if g.cfg.Quota <= 0 {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	stands := g.standing(kvdpb.Alarm_NO_SPACE)
	if g.mu.stood && !stands {
		g.mu.cleared = time.Now()
	}
	g.mu.stood = stands
	if stands || time.Since(g.mu.cleared) < settle {
		g.cfg.Reclaim()
	}
	// As in etcd the client sees the alarm gone. The next write that has no room brings it back at once.
	if g.overLocked(0) && !stands && time.Since(g.mu.disarmed) >= settle {
		g.mu.stood = g.raise(g.ctx, kvdpb.Alarm_QUOTA)
	}
}

func (g *Guard) lookAtDisks() {
	disks, err := g.cfg.Disks()
	if err != nil {
		g.log.Warn("could not look at the room on the disk", zap.Error(err))
		return
	}
	full, capacity := g.full.Load(), int64(-1)
	short := false
	for _, d := range disks {
		reserve := g.reserve(d)
		if full {
			reserve += reserve / 4
		}
		short = short || d.Free < reserve
		if room := max(d.Free-reserve, 0); capacity < 0 || room < capacity {
			capacity = room
		}
	}
	g.capacity.Store(max(capacity, 0) + g.cfg.Size())
	if short != full {
		g.full.Store(short)
		if short {
			g.log.Warn("the disk is nearly full: writes that need space are refused", zap.Any("disks", disks))
		} else {
			g.log.Info("the disk has room again", zap.Any("disks", disks))
		}
	}
	stands := false
	for _, a := range g.cfg.Alarms.StandingAlarms() {
		stands = stands || (a.Member == g.cfg.Member && a.Type == kvdpb.Alarm_NO_SPACE && a.Cause == kvdpb.Alarm_DISK)
	}
	switch {
	case short && !stands:
		g.raise(g.ctx, kvdpb.Alarm_DISK)
	case !short && stands:
		g.clear(kvdpb.Alarm_DISK)
	}
}

func (g *Guard) reserve(d Disk) int64 {
	switch {
	case g.cfg.Reserve > 0:
		return g.cfg.Reserve
	case g.cfg.Reserve < 0:
		return 0
	}
	return min(maxReserve, d.Total/reserveShare)
}

func (g *Guard) alarm(cause kvdpb.Alarm_Cause) *kvdpb.Alarm {
	return &kvdpb.Alarm{Member: g.cfg.Member, Type: kvdpb.Alarm_NO_SPACE, Cause: cause}
}

// raise raises an alarm. A failure is tried again at the next look, or by the next write.
func (g *Guard) raise(ctx context.Context, cause kvdpb.Alarm_Cause) (stands bool) {
	ctx, cancel := context.WithTimeout(ctx, raiseTimeout)
	defer cancel()
	if err := g.cfg.Alarms.RaiseAlarm(ctx, g.alarm(cause)); err != nil {
		g.report("could not raise the alarm NOSPACE", err)
		return false
	}
	g.log.Warn("raised the alarm NOSPACE", zap.Stringer("cause", cause), zap.Int64("quota-bytes", g.cfg.Quota), zap.Int64("size-bytes", g.cfg.Size()))
	return true
}

func (g *Guard) clear(cause kvdpb.Alarm_Cause) {
	ctx, cancel := context.WithTimeout(g.ctx, raiseTimeout)
	defer cancel()
	if err := g.cfg.Alarms.ClearAlarm(ctx, g.alarm(cause), false); err != nil {
		g.report("could not take back the alarm NOSPACE", err)
		return
	}
	g.log.Info("took back the alarm NOSPACE", zap.Stringer("cause", cause))
}

func (g *Guard) report(what string, err error) {
	if g.ctx.Err() == nil && !errors.Is(err, context.Canceled) {
		g.log.Warn(what, zap.Error(err))
	}
}
