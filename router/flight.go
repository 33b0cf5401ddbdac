package router

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kvd-io/kvd/auth"
	"github.com/kvd-io/kvd/internal/tracing"
	"github.com/kvd-io/kvd/multiraft/peer"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// errSplit: the span of a read lies in several shards.
var errSplit = errors.New("the span lies in several shards")

// maxLessons is how many stale routes in a row are followed without a pause.
const maxLessons = 3

// ownerGrace is how much longer than a gateway the owner lets a request live.
const ownerGrace = 500 * time.Millisecond

// flight carries one request through its tries. Flights are pooled; one whose
// call may still be completed by a replica is not put back.
type flight struct {
	call  *call
	timer *time.Timer
	buf   []byte
	began time.Time
	// ticking: timer runs, for the whole request.
	ticking bool
	// waited is where the request waited last, if it did.
	waited place
}

func newFlight() *flight {
	f := &flight{call: newCall(), timer: time.NewTimer(time.Hour)}
	f.timer.Stop()
	return f
}

func (r *Router) takeFlight() *flight {
	f := r.flight.Get().(*flight)
	f.began = time.Now()
	return f
}

// putFlight ends a flight. f.call is nil if it was abandoned.
func (r *Router) putFlight(f *flight) {
	if f.ticking {
		f.timer.Stop()
		f.ticking = false
	}
	f.waited = place{}
	if f.call == nil {
		f.call = newCall()
	} else {
		f.call.res, f.call.partial, f.call.err, f.call.req = result{}, nil, nil, shard.Request{}
	}
	r.flight.Put(f)
}

// one carries a request to the one shard that holds its span, through stale
// routes and waits, until it is answered or its time is over. It fails with
// errSplit where no one shard holds the span.
func (r *Router) one(ctx context.Context, q *op) (result, error) {
	f := r.takeFlight()
	res, err := r.fly(ctx, f, q)
	r.putFlight(f)
	return res, err
}

func (r *Router) fly(ctx context.Context, f *flight, q *op) (result, error) {
	lessons := 0
	for attempt := 0; ; attempt++ {
		d := r.routes.lookup(q.span.Start)
		var res result
		var err error
		switch {
		case d == nil:
			err = errNoRoute
		case bytes.Compare(q.span.End, d.End) > 0:
			return result{}, errSplit
		default:
			res, err = r.try(ctx, f, q, d, attempt)
		}
		if err == nil {
			at := place{shard: d.Shard}
			r.news.served(at)
			if f.waited != at {
				r.news.served(f.waited)
			}
			return res, nil
		}
		switch judge(err) {
		case final:
			return result{}, err
		case unknown:
			if q.write {
				return result{}, err
			}
		case stale:
			if r.learnFrom(err) {
				if lessons++; lessons <= maxLessons {
					continue
				}
			}
		}
		if err := r.pause(ctx, f, d, attempt, err); err != nil {
			return result{}, err
		}
	}
}

// learnFrom takes over what an error says about routes, and tells whether it
// said anything new.
func (r *Router) learnFrom(err error) (news bool) {
	var wrongRange *shard.WrongRangeError
	var notOwner *shard.NotOwnerError
	if errors.As(err, &wrongRange) {
		return r.routes.learn(wrongRange.Descriptors)
	}
	if errors.As(err, &notOwner) {
		return r.routes.learnOwner(notOwner.Shard, notOwner.Owner, notOwner.Epoch)
	}
	return false
}

// pause waits until another try makes sense. cause is why the last one failed.
func (r *Router) pause(ctx context.Context, f *flight, d *kvdpb.Descriptor, attempt int, cause error) error {
	deadline := f.began.Add(r.cfg.RequestTimeout)
	wait, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	stop := context.AfterFunc(r.ctx, cancel)
	defer stop()
	f.waited = place{shard: d.GetShard(), moving: errors.Is(cause, shard.ErrSpanMoving)}
	err := r.news.wait(wait, f.waited, attempt)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case r.ctx.Err() != nil:
		return errClosed
	}
	return endOf(cause)
}

// try sends a request once.
func (r *Router) try(ctx context.Context, f *flight, q *op, d *kvdpb.Descriptor, attempt int) (result, error) {
	local, member, err := r.target(d, attempt)
	if err != nil {
		return result{}, err
	}
	if tracing.Sampled(ctx) {
		return r.tryTraced(ctx, f, q, d.Shard, local, member)
	}
	if local != nil {
		return r.tryLocal(ctx, f, q, local)
	}
	return r.tryRemote(ctx, f, q, d.Shard, member)
}

// target chooses who gets a request: a local replica if this member owns the
// shard, else a member.
func (r *Router) target(d *kvdpb.Descriptor, attempt int) (Replica, uint64, error) {
	rep, here := r.cfg.Replicas.Replica(d.Shard)
	var own ownerNews
	if here {
		own.member, own.epoch = rep.Owner()
	}
	if learned := r.routes.owner(d.Shard); learned.epoch > own.epoch {
		own = learned
	}
	switch {
	case own.member == r.cfg.Member && here:
		return rep, 0, nil
	case own.member == r.cfg.Member:
		// The owner that was learned is gone from here; somebody else must know.
	case own.member != 0 && (here || attempt%2 == 0):
		return nil, own.member, nil
	}
	// No owner is known, or it may be out of reach: ask the replicas in turn.
	n := len(d.Replicas)
	for i := range n {
		c := d.Replicas[(attempt+i)%n]
		if c.Member != r.cfg.Member && !c.NonVoting {
			return nil, c.Member, nil
		}
	}
	if own.member != 0 && own.member != r.cfg.Member {
		return nil, own.member, nil
	}
	if here {
		// The only replica: it says itself why it does not serve.
		return rep, 0, nil
	}
	return nil, 0, fmt.Errorf("%w of shard %d", errNoRoute, d.Shard)
}

func (r *Router) tryLocal(ctx context.Context, f *flight, q *op, rep Replica) (result, error) {
	c := f.call
	q.fill(&c.req)
	c.req.Auth = r.auth(ctx)
	c.req.Ctx, c.req.Done = ctx, c.onDone
	rep.Do(&c.req)
	select {
	case <-c.done:
		return c.res, c.err
	default:
	}
	if err := r.await(ctx, f); err != nil {
		// The replica still has the call.
		f.call = nil
		return result{}, err
	}
	return c.res, c.err
}

func (r *Router) tryRemote(ctx context.Context, f *flight, q *op, shardID, member uint64) (result, error) {
	c := f.call
	l := r.link(member)
	frame := requestFrame{op: q.kind, confirm: q.confirm, shard: shardID, readRev: q.readRev, stamp: q.stamp, auth: r.auth(ctx), body: q.body()}
	// The gateway is the one to end a request: only if it does not, the owner will.
	frame.timeout = max(r.remaining(ctx, f), 0) + ownerGrace
	if tracing.Sampled(ctx) {
		frame.parent = tracing.AppendParent(nil, ctx)
	}
	id, err := l.send(c, len(frame.body), func(b []byte, id uint64) []byte {
		frame.id = id
		return appendRequestFrame(b, &frame)
	})
	if errors.Is(err, peer.ErrFrameTooLarge) {
		return result{}, fmt.Errorf("request of %d bytes to member %016x: %w", len(frame.body), member, err)
	}
	if err != nil {
		return result{}, err
	}
	if err := r.await(ctx, f); err != nil {
		if l.cancel(id) {
			return result{}, err
		}
		// It was completed in the meantime.
		<-c.done
	}
	return c.res, ownContext(c.err)
}

// auth is the auth version under which a request was checked.
func (r *Router) auth(ctx context.Context) uint64 {
	if r.cfg.AuthOff == nil || r.cfg.AuthOff() {
		return 0
	}
	return auth.Version(ctx)
}

// checked answers shard.ErrOldAuth if a request was checked under another version
// of auth than an answer of the sequencer tells.
func (r *Router) checked(ctx context.Context, g shard.Grant) error {
	if v := r.auth(ctx); v != g.Stamp.AuthVersion && v != shard.AuthExempt {
		return shard.ErrOldAuth
	}
	return nil
}

// ownContext translates what the owner says of its request's context, which is
// not the client's.
func ownContext(err error) error {
	switch status.Code(err) {
	case codes.DeadlineExceeded:
		return errTimeout
	case codes.Canceled:
		// The owner has lost the connection.
		return errConnectionLost
	}
	return err
}

// remaining is what is left of a request's time.
func (r *Router) remaining(ctx context.Context, f *flight) time.Duration {
	left := time.Until(f.began.Add(r.cfg.RequestTimeout))
	if d, ok := ctx.Deadline(); ok {
		left = min(left, time.Until(d))
	}
	return left
}

// await waits for the flight's call. nil: it is completed.
func (r *Router) await(ctx context.Context, f *flight) error {
	if !f.ticking {
		f.ticking = true
		f.timer.Reset(r.cfg.RequestTimeout)
	}
	select {
	case <-f.call.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-f.timer.C:
		return errTimeout
	case <-r.ctx.Done():
		return errClosed
	}
}
