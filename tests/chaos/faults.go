package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/kvd-io/kvd/tests/cluster"
)

// fault is one way to break a cluster. strike breaks it and gives what heals it; a fault that heals by itself gives nil.
type fault struct {
	name   string
	hold   [2]time.Duration // how long it lasts, from and to
	strike func(ctx context.Context, r *round, rng *rand.Rand) (heal func(context.Context) error, err error)
	// disk tells that it needs a disk of the member's own.
	disk bool
}

const second = time.Second

// moveFault needs a member that has no replica of every shard, so a round that has it in its plan has four members.
const moveFault = "move"

// faults are all that there are. Holds are around the election timeout of a second: shorter ones test what survives, longer ones what takes over.
var faults = []fault{
	{"kill-owner", [2]time.Duration{0, 2 * second}, killing(owner), false},
	{"kill-sequencer", [2]time.Duration{0, 2 * second}, killing(sequencer), false},
	{"kill-anchor", [2]time.Duration{0, 2 * second}, killing(anchor), false},
	{"kill-any", [2]time.Duration{0, 3 * second}, killing(anybody), false},
	{"kill-all", [2]time.Duration{0, second / 2}, killAll, false},
	{"restart-owner", [2]time.Duration{0, second}, restarting(owner), false},
	{"restart-sequencer", [2]time.Duration{0, second}, restarting(sequencer), false},
	{"pause-owner", [2]time.Duration{1300 * time.Millisecond, 3 * second}, pausing(owner), false},
	{"pause-sequencer", [2]time.Duration{1300 * time.Millisecond, 3 * second}, pausing(sequencer), false},
	{"pause-anchor", [2]time.Duration{1300 * time.Millisecond, 3 * second}, pausing(anchor), false},
	{"pause-short", [2]time.Duration{100 * time.Millisecond, 900 * time.Millisecond}, pausing(anybody), false},
	{"isolate-owner", [2]time.Duration{second, 4 * second}, isolating(owner), false},
	{"isolate-sequencer", [2]time.Duration{second, 4 * second}, isolating(sequencer), false},
	{"isolate-anchor", [2]time.Duration{second, 4 * second}, isolating(anchor), false},
	{"cut-pair", [2]time.Duration{second, 4 * second}, cutPair, false},
	{"one-way", [2]time.Duration{second, 4 * second}, oneWay, false},
	{"deaf", [2]time.Duration{second, 4 * second}, deafOrMute(true), false},
	{"mute", [2]time.Duration{second, 4 * second}, deafOrMute(false), false},
	{"delay", [2]time.Duration{second, 3 * second}, delay, false},
	{"loss", [2]time.Duration{second, 3 * second}, loss, false},
	{"reset", [2]time.Duration{0, second / 2}, reset, false},
	{"split", [2]time.Duration{0, second}, split, false},
	{"transfer", [2]time.Duration{0, second}, transfer, false},
	{moveFault, [2]time.Duration{0, 2 * second}, move, false},
	{"compact", [2]time.Duration{0, second / 2}, compact, false},
	{"lag", [2]time.Duration{2500 * time.Millisecond, 5 * second}, lag, false},
	{"stutter", [2]time.Duration{second, 3 * second}, stutter, false},
	{"merge", [2]time.Duration{0, second}, merge, false},
	{"disk-full", [2]time.Duration{second, 3 * second}, diskFull, true},
	{"disk-frozen", [2]time.Duration{second / 2, 3 * second}, diskFrozen, true},
}

// role finds a member.
type role func(context.Context, *round, *rand.Rand) (*cluster.Member, error)

func anybody(_ context.Context, r *round, rng *rand.Rand) (*cluster.Member, error) {
	return r.cluster.Members[rng.IntN(len(r.cluster.Members))], nil
}

// owner is the member that owns the shard of some key, so that who owns more is hit more often.
func owner(ctx context.Context, r *round, rng *rand.Rand) (*cluster.Member, error) {
	return r.ownerOf(ctx, keyName(rng.IntN(keys)))
}

// anchor owns the last shard that clients write to, which is the anchor of most transactions over several.
func anchor(ctx context.Context, r *round, _ *rand.Rand) (*cluster.Member, error) {
	return r.ownerOf(ctx, keyName(keys-1))
}

func sequencer(ctx context.Context, r *round, _ *rand.Rand) (*cluster.Member, error) {
	return r.sequencer(ctx)
}

type strike = func(context.Context, *round, *rand.Rand) (func(context.Context) error, error)

func killing(who role) strike {
	return func(ctx context.Context, r *round, rng *rand.Rand) (func(context.Context) error, error) {
		m, err := who(ctx, r, rng)
		if err != nil {
			return nil, err
		}
		if err := r.kill(m); err != nil {
			return nil, err
		}
		return func(context.Context) error { return r.start(m) }, nil
	}
}

func killAll(_ context.Context, r *round, _ *rand.Rand) (func(context.Context) error, error) {
	for _, m := range r.cluster.Members {
		if err := r.kill(m); err != nil {
			return nil, err
		}
	}
	return func(context.Context) error {
		var errs []error
		for _, m := range r.cluster.Members {
			errs = append(errs, r.start(m))
		}
		return errors.Join(errs...)
	}, nil
}

// restarting is a graceful hand-over: the member drains, hands over what it owns, ends, and comes back.
func restarting(who role) strike {
	return func(ctx context.Context, r *round, rng *rand.Rand) (func(context.Context) error, error) {
		m, err := who(ctx, r, rng)
		if err != nil {
			return nil, err
		}
		if err := r.stop(ctx, m); err != nil {
			return nil, err
		}
		return func(context.Context) error { return r.start(m) }, nil
	}
}

func pausing(who role) strike {
	return func(ctx context.Context, r *round, rng *rand.Rand) (func(context.Context) error, error) {
		m, err := who(ctx, r, rng)
		if err != nil {
			return nil, err
		}
		if !m.Running() {
			return nil, nil
		}
		return func(context.Context) error { return m.Resume() }, m.Pause()
	}
}

func isolating(who role) strike {
	return func(ctx context.Context, r *round, rng *rand.Rand) (func(context.Context) error, error) {
		m, err := who(ctx, r, rng)
		if err != nil {
			return nil, err
		}
		r.cluster.Network.Isolate(m.Index)
		return r.mend(rng), nil
	}
}

// pair is two different members.
func pair(r *round, rng *rand.Rand) (a, b int) {
	p := rng.Perm(len(r.cluster.Members))
	return p[0], p[1]
}

func cutPair(_ context.Context, r *round, rng *rand.Rand) (func(context.Context) error, error) {
	a, b := pair(r, rng)
	r.cluster.Network.Cut(a, b)
	r.cluster.Network.Cut(b, a)
	return r.mend(rng), nil
}

func oneWay(_ context.Context, r *round, rng *rand.Rand) (func(context.Context) error, error) {
	r.cluster.Network.Cut(pair(r, rng))
	return r.mend(rng), nil
}

// deafOrMute lets a member hear nothing, or say nothing.
func deafOrMute(deaf bool) strike {
	return func(_ context.Context, r *round, rng *rand.Rand) (func(context.Context) error, error) {
		m := rng.IntN(len(r.cluster.Members))
		for other := range r.cluster.Members {
			switch {
			case other == m:
			case deaf:
				r.cluster.Network.Cut(other, m)
			default:
				r.cluster.Network.Cut(m, other)
			}
		}
		return r.mend(rng), nil
	}
}

func delay(_ context.Context, r *round, rng *rand.Rand) (func(context.Context) error, error) {
	m, d := rng.IntN(len(r.cluster.Members)), time.Duration(5+rng.IntN(150))*time.Millisecond
	for other := range r.cluster.Members {
		if other != m {
			r.cluster.Network.Delay(m, other, d, d)
			r.cluster.Network.Delay(other, m, d, d)
		}
	}
	return r.mend(rng), nil
}

func loss(_ context.Context, r *round, rng *rand.Rand) (func(context.Context) error, error) {
	share := 0.02 + 0.3*rng.Float64()
	for a := range r.cluster.Members {
		for b := range r.cluster.Members {
			if a != b {
				r.cluster.Network.Lose(a, b, share)
			}
		}
	}
	return r.mend(rng), nil
}

func reset(_ context.Context, r *round, _ *rand.Rand) (func(context.Context) error, error) {
	r.cluster.Network.Reset()
	return nil, nil
}

// mend heals the network, half of the time with the loss of what was held back.
func (r *round) mend(rng *rand.Rand) func(context.Context) error {
	breaks := rng.IntN(2) == 0
	return func(context.Context) error {
		if breaks {
			r.cluster.Network.Reset()
		}
		r.cluster.Network.Heal()
		return nil
	}
}

// unattended carries out what an administrator asks for, beside the faults that follow: it may end in an error, which is only told.
func (r *round) unattended(ctx context.Context, what string, do func(context.Context) error) {
	r.background.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		if err := do(ctx); err != nil {
			r.cfg.Log("%s: %v", what, err)
		}
	})
}

// split cuts a shard in two while clients use it. It may take as long as a fault that overlaps it lasts, so nobody waits for it here.
func split(ctx context.Context, r *round, rng *rand.Rand) (func(context.Context) error, error) {
	at := keyName(1 + rng.IntN(keys-1))
	if !r.takeSplit() {
		return nil, nil
	}
	r.unattended(ctx, "split at "+at, func(ctx context.Context) error { return r.split(ctx, at) })
	return nil, nil
}

// merge gives a shard the keys of its right neighbour, and sometimes thinks better of it. Nobody waits for that either. The last shard has no such
// neighbour, so the key is among the first ones.
func merge(ctx context.Context, r *round, rng *rand.Rand) (func(context.Context) error, error) {
	key, cancels := keyName(rng.IntN(keys/2)), rng.IntN(4) == 0
	after := time.Duration(rng.IntN(60)) * time.Millisecond
	r.background.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		if err := r.merge(ctx, key, cancels, after); err != nil {
			r.cfg.Log("merge of the shard of %s: %v", key, err)
		}
	})
	return nil, nil
}

// transfer asks for another owner of a shard, as an administrator does, and nobody waits for that either.
func transfer(ctx context.Context, r *round, rng *rand.Rand) (func(context.Context) error, error) {
	key, member := keyName(rng.IntN(keys)), r.cluster.Members[rng.IntN(len(r.cluster.Members))]
	r.unattended(ctx, "transfer of the shard of "+key+" to "+member.Name, func(ctx context.Context) error { return r.transfer(ctx, key, member) })
	return nil, nil
}

// move takes a replica to the member that has none of its shard. It outlives the member that it was asked of, so again nobody waits.
func move(ctx context.Context, r *round, rng *rand.Rand) (func(context.Context) error, error) {
	key, pick := keyName(rng.IntN(keys)), rng.Uint64()
	r.unattended(ctx, "move of a replica of the shard of "+key, func(ctx context.Context) error { return r.move(ctx, key, pick) })
	return nil, nil
}

// compact drops history up to where all collecting watches have come, or a little earlier.
func compact(ctx context.Context, r *round, rng *rand.Rand) (func(context.Context) error, error) {
	rev := r.watchers.position() - rng.Int64N(100)
	if rev < 2 {
		return nil, nil
	}
	c := r.clients[rng.IntN(len(r.clients))]
	r.background.Go(func() { r.compact(ctx, c, rev, rng.IntN(2) == 0) })
	return nil, nil
}

// lag keeps a member away until the logs of its shards have been cut, so that it needs a snapshot, while shards split and history is compacted.
func lag(ctx context.Context, r *round, rng *rand.Rand) (func(context.Context) error, error) {
	m := r.cluster.Members[rng.IntN(len(r.cluster.Members))]
	if err := r.kill(m); err != nil {
		return nil, err
	}
	burst(ctx, r, rng)
	if rng.IntN(2) == 0 {
		if _, err := split(ctx, r, rng); err != nil {
			return nil, err
		}
	}
	return func(context.Context) error { return r.start(m) }, nil
}

// burst writes more entries than a log keeps, to a few keys, past the pace of the clients.
func burst(ctx context.Context, r *round, rng *rand.Rand) {
	for range 4 {
		c := r.traffic.client(300+r.nextClient(), r.clients[0].member, r.plain[0], rand.New(rand.NewPCG(rng.Uint64(), 0)))
		r.background.Go(func() {
			for range snapshotEntries {
				if _, err := c.do(ctx, c.burstRequest()); err != nil {
					return
				}
			}
		})
	}
}

// stutter stops a member again and again for moments, as a machine that is short of processors or has a slow disk does.
func stutter(ctx context.Context, r *round, rng *rand.Rand) (func(context.Context) error, error) {
	m := r.cluster.Members[rng.IntN(len(r.cluster.Members))]
	still := time.Duration(10+rng.IntN(150)) * time.Millisecond
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			for _, step := range []func() error{m.Pause, m.Resume} {
				if !m.Running() || step() != nil {
					return
				}
				select {
				case <-time.After(still):
				case <-stop:
					return
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return func(context.Context) error {
		close(stop)
		<-done
		if !m.Running() {
			return nil
		}
		return m.Resume()
	}, nil
}

func diskFull(_ context.Context, r *round, _ *rand.Rand) (func(context.Context) error, error) {
	if r.disk == nil {
		return nil, nil
	}
	r.mayEnd(r.cluster.Members[0])
	if err := r.disk.fill(); err != nil {
		return nil, err
	}
	return func(context.Context) error {
		if err := r.disk.empty(); err != nil {
			return err
		}
		return r.start(r.cluster.Members[0])
	}, nil
}

func diskFrozen(_ context.Context, r *round, _ *rand.Rand) (func(context.Context) error, error) {
	if r.disk == nil {
		return nil, nil
	}
	if err := r.disk.freeze(); err != nil {
		return nil, fmt.Errorf("freezing a disk: %w", err)
	}
	return func(context.Context) error { return r.disk.thaw() }, nil
}
