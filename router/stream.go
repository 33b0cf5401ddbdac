package router

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"time"

	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/shard/eval"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// RangeStream answers a range in key order as a sequence of responses with
// about half a megabyte each, all of one revision. Only the last one has a
// header, more and count. The request must have no other order and no revision
// filters. One that names another target than the key without an order is sorted
// by it, as in etcd, and so cannot be told in parts.
func (r *Router) RangeStream(ctx context.Context, req *pb.RangeRequest, send func(*pb.RangeResponse) error) error {
	if req.CountOnly || len(req.RangeEnd) == 0 || req.SortTarget != pb.RangeRequest_KEY {
		m, err := r.Range(ctx, req)
		if err != nil {
			return err
		}
		return send(m)
	}
	return clientError(r.rangeStream(ctx, req, send))
}

func (r *Router) rangeStream(ctx context.Context, req *pb.RangeRequest, send func(*pb.RangeResponse) error) error {
	at, g, err := r.readAt(ctx, req.Revision)
	if err != nil {
		return err
	}
	p := readPoint{at: at, stamp: g.Stamp}
	span := userSpan(req.Key, req.RangeEnd)
	limit := req.Limit
	if limit <= 0 {
		limit = math.MaxInt64
	}
	var count int64
	// held is the chunk that is sent once it is known not to be the last.
	var held []*mvccpb.KeyValue
	end, err := r.scan(ctx, scanSpec{span: span, keysOnly: req.KeysOnly, limit: limit}, p, func(kvs []*mvccpb.KeyValue) error {
		count += int64(len(kvs))
		if held != nil {
			if err := send(&pb.RangeResponse{Kvs: held}); err != nil {
				return err
			}
		}
		held = kvs
		return nil
	})
	if err != nil {
		return err
	}
	last := &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: g.First}, Kvs: held, Count: count}
	if rest := (keyspace.Span{Start: end, End: span.End}); count >= limit && !rest.Empty() {
		n, err := r.count(ctx, rest, p)
		if err != nil {
			return err
		}
		last.Count += n
		last.More = n > 0
	}
	return send(last)
}

// scan reads a span over all its shards, one after the other, and passes on
// what it finds in key order (downwards if spec.desc). It returns where it
// stopped: behind the last key if the limit was met, else the end of the span.
// Whatever goes wrong on the way that another try can mend is tried again, from
// behind the last key that was passed on.
func (r *Router) scan(ctx context.Context, spec scanSpec, p readPoint, emit func([]*mvccpb.KeyValue) error) (end []byte, err error) {
	f := r.takeFlight()
	defer r.putFlight(f)
	attempt := 0
	for !spec.span.Empty() && spec.limit != 0 {
		src, part, err := r.open(ctx, spec, p)
		for err == nil {
			var kvs []*mvccpb.KeyValue
			if kvs, err = src.next(ctx); err != nil {
				break
			}
			spec.passed(kvs)
			// The time of the request is that of a chunk here.
			f.began, attempt = time.Now(), 0
			if err := emit(kvs); err != nil {
				src.close()
				return nil, err
			}
			f.began = time.Now()
		}
		if src != nil {
			src.close()
		}
		switch {
		case errors.Is(err, io.EOF):
			// The shard's part is done.
			if spec.limit == 0 {
				break
			}
			if spec.desc {
				spec.span.End = part.Start
			} else {
				spec.span.Start = part.End
			}
			continue
		case !mendable(err):
			return nil, err
		}
		if spec.limit == 0 {
			break
		}
		if err := r.pause(ctx, f, r.routes.lookup(spec.span.Start), attempt, err); err != nil {
			return nil, err
		}
		attempt++
	}
	if spec.desc {
		return spec.span.End, nil
	}
	return spec.span.Start, nil
}

// passed takes note of keys that were passed on.
func (s *scanSpec) passed(kvs []*mvccpb.KeyValue) {
	if len(kvs) == 0 {
		return
	}
	key := keyspace.User(kvs[len(kvs)-1].Key)
	if s.desc {
		s.span.End = key
	} else {
		s.span.Start = keyspace.Key(key).End
	}
	if s.limit > 0 {
		s.limit -= int64(len(kvs))
		if s.limit <= 0 {
			s.limit = 0
		}
	}
}

// mendable tells whether a scan may go on elsewhere or later.
func mendable(err error) bool {
	if errors.Is(err, ErrStaleView) || errors.Is(err, errSplit) || errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	if st, ok := status.FromError(err); ok {
		return st.Code() == codes.Unavailable || st.Code() == codes.Aborted
	}
	return judge(err) != final
}

// readBulk answers a range whose answer is too large for the request channel.
func (r *Router) readBulk(ctx context.Context, req *pb.RangeRequest, span keyspace.Span, p readPoint) (*pb.RangeResponse, error) {
	m, err := eval.Range(ctx, &scanReader{r: r, p: p}, req, p.at)
	if err != nil {
		return nil, err
	}
	return m, nil
}

// scanReader shows the whole key space at one revision to package eval, read in
// bulk.
type scanReader struct {
	r *Router
	p readPoint
}

func (s *scanReader) Range(ctx context.Context, span keyspace.Span, o mvcc.RangeOptions, fn func(*mvccpb.KeyValue) bool) error {
	limit := o.Limit
	if limit <= 0 {
		limit = math.MaxInt64
	}
	spec := scanSpec{span: span, limit: limit, keysOnly: o.KeysOnly, desc: o.Desc}
	_, err := s.r.scan(ctx, spec, s.p, func(kvs []*mvccpb.KeyValue) error {
		for _, kv := range kvs {
			kv.Key = keyspace.User(kv.Key)
			if !fn(kv) {
				return errEnough
			}
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

var errEnough = errors.New("enough")

func (s *scanReader) Count(ctx context.Context, span keyspace.Span, _ int64) (int64, error) {
	return s.r.count(ctx, span, s.p)
}

func (s *scanReader) Get(key []byte, _ int64) (kv *mvccpb.KeyValue, err error) {
	err = s.Range(context.Background(), keyspace.Key(key), mvcc.RangeOptions{}, func(found *mvccpb.KeyValue) bool {
		if bytes.Equal(found.Key, key) {
			kv = found
		}
		return false
	})
	return kv, err
}

func (s *scanReader) Head(key []byte) (mvcc.Head, error) {
	kv, err := s.Get(key, 0)
	if kv == nil || err != nil {
		return mvcc.Head{}, err
	}
	return mvcc.Head{Create: kv.CreateRevision, Mod: kv.ModRevision, Version: kv.Version, Lease: kv.Lease, Exists: true}, nil
}
