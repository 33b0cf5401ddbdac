package router

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/kvd-io/kvd/internal/tracing"
	"github.com/kvd-io/kvd/multiraft/peer"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/router/wire"
	"github.com/kvd-io/kvd/shard"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

const (
	// maxReply is the largest answer to a range on the request channel: a larger
	// one would delay everybody behind it, and is read in bulk instead.
	maxReply = 1 << 20
	// inlineReply is the largest answer that is encoded on the goroutine that
	// finished the request.
	inlineReply = 64 << 10
	// lateReply is how long a reply waits for a connection to the gateway.
	lateReply = 5 * time.Second
)

// served is a request of another gateway that is in work here.
type served struct {
	r    *Router
	l    *link
	id   uint64
	kind opKind
	ctx  remoteContext
	req  shard.Request
}

// request takes a request frame on the reader's goroutine.
func (l *link) request(r *Router, frame []byte) error {
	f, err := decodeRequestFrame(frame)
	if err != nil {
		return err
	}
	s := &served{r: r, l: l, id: f.id, kind: f.op}
	s.req.Confirm, s.req.ReadRev, s.req.ReadStamp, s.req.Auth = f.confirm, f.readRev, f.stamp, f.auth
	// The message keeps the bytes, and the frame is not ours to keep.
	if err := s.decode(bytes.Clone(f.body)); err != nil {
		s.answer(nil, status.Errorf(codes.Internal, "kvd: request of another member: %v", err))
		return err
	}
	if f.timeout > 0 {
		s.ctx.deadline = time.Now().Add(f.timeout)
	}
	rep, ok := r.cfg.Replicas.Replica(f.shard)
	if !ok {
		s.answer(nil, errNoReplica)
		return nil
	}
	l.mu.Lock()
	full := len(l.mu.served) >= maxServed
	if !full {
		l.mu.served[f.id] = s
	}
	l.mu.Unlock()
	if full {
		s.answer(nil, rpctypes.ErrGRPCRequestTooManyRequests)
		return nil
	}
	s.req.Ctx = &s.ctx
	if len(f.parent) > 0 {
		s.req.Ctx = tracing.WithParent(&s.ctx, f.parent)
	}
	s.req.Done = s.done
	rep.Do(&s.req)
	return nil
}

func (s *served) decode(body []byte) error {
	switch s.kind {
	case opRange:
		s.req.Range = &pb.RangeRequest{}
		return wire.Unmarshal(body, s.req.Range)
	case opPut:
		s.req.Put = &pb.PutRequest{}
		return wire.Unmarshal(body, s.req.Put)
	case opDelete:
		s.req.Delete = &pb.DeleteRangeRequest{}
		return wire.Unmarshal(body, s.req.Delete)
	case opPart:
		s.req.Part = &kvdpb.PartRequest{}
		return proto.Unmarshal(body, s.req.Part)
	}
	s.req.Txn = &pb.TxnRequest{}
	return wire.Unmarshal(body, s.req.Txn)
}

// done is called by the replica.
func (s *served) done(rep *shard.Reply, err error) {
	s.l.mu.Lock()
	delete(s.l.mu.served, s.id)
	s.l.mu.Unlock()
	s.ctx.cancel()
	s.answer(rep, err)
}

func (s *served) answer(rep *shard.Reply, err error) {
	if err != nil {
		s.send(func(b []byte) []byte { return appendReplyError(b, s.id, err) })
		return
	}
	size, ok := wire.SizeBody(response(rep))
	if !ok {
		size = proto.Size(response(rep))
	}
	switch {
	case size > maxReply && s.kind == opRange:
		s.answer(nil, errTooLarge)
		return
	case size > peer.MaxFrame-1<<10:
		s.answer(nil, status.Errorf(codes.ResourceExhausted,
			"kvd: the request was carried out at revision %d, but its response of %d bytes is too large", rep.Revision, size))
		return
	}
	encode := func(b []byte) []byte { return appendReplyBody(appendReplyHead(b, s.id, rep), rep) }
	if size <= inlineReply {
		s.send(encode)
		return
	}
	s.r.background(func(context.Context) { s.send(encode) })
}

func (s *served) send(encode func(b []byte) []byte) {
	b := frames.Get().(*[]byte)
	*b = encode((*b)[:0])
	s.l.sendReply(s.r, *b)
	putFrame(b)
}

// sendReply sends a reply, later if the gateway cannot be reached at once: the
// two directions have connections of their own, and this one may not be up
// yet. What cannot be sent is dropped; the gateway's deadline ends the request.
func (l *link) sendReply(r *Router, frame []byte) {
	err := l.mesh.Send(l.member, peer.ChannelRequest, frame)
	if !errors.Is(err, peer.ErrNotConnected) && !errors.Is(err, peer.ErrBacklog) {
		return
	}
	select {
	case l.replies <- struct{}{}:
	default:
		return
	}
	frame = bytes.Clone(frame)
	r.background(func(ctx context.Context) {
		defer func() { <-l.replies }()
		ctx, cancel := context.WithTimeout(ctx, lateReply)
		defer cancel()
		for l.mesh.WaitConnected(ctx, l.member, peer.ChannelRequest) == nil {
			err := l.mesh.Send(l.member, peer.ChannelRequest, frame)
			if !errors.Is(err, peer.ErrNotConnected) && !errors.Is(err, peer.ErrBacklog) {
				return
			}
			pause := time.NewTimer(10 * time.Millisecond)
			select {
			case <-pause.C:
			case <-ctx.Done():
			}
			pause.Stop()
		}
	})
}

// canceled takes a cancel frame.
func (l *link) canceled(frame []byte) error {
	id, err := decodeCancelFrame(frame)
	if err != nil {
		return err
	}
	l.mu.Lock()
	s := l.mu.served[id]
	l.mu.Unlock()
	if s != nil {
		s.ctx.cancel()
	}
	return nil
}

// remoteContext is the context of a served request. Most requests end without
// anybody having asked for Done, so it makes its channel and timer on demand.
type remoteContext struct {
	deadline time.Time

	mu    sync.Mutex
	done  chan struct{}
	timer *time.Timer
	err   error
}

func (c *remoteContext) Deadline() (time.Time, bool) { return c.deadline, !c.deadline.IsZero() }

func (c *remoteContext) Value(any) any { return nil }

func (c *remoteContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done == nil {
		c.done = make(chan struct{})
		if c.err != nil {
			close(c.done)
		} else if !c.deadline.IsZero() {
			c.timer = time.AfterFunc(time.Until(c.deadline), func() { c.end(context.DeadlineExceeded) })
		}
	}
	return c.done
}

func (c *remoteContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil && !c.deadline.IsZero() && !time.Now().Before(c.deadline) {
		c.endLocked(context.DeadlineExceeded)
	}
	return c.err
}

func (c *remoteContext) cancel() { c.end(context.Canceled) }

func (c *remoteContext) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endLocked(err)
}

func (c *remoteContext) endLocked(err error) {
	if c.err != nil {
		return
	}
	c.err = err
	if c.done != nil {
		close(c.done)
	}
	if c.timer != nil {
		c.timer.Stop()
	}
}
