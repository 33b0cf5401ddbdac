package api

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"
)

const (
	// slowPerSecond bounds the log of slow requests: an overloaded member has better
	// things to do than to write about it.
	slowPerSecond = 10
	// contentBytes bounds what the log shows of one request.
	contentBytes = 512
)

// slowLog mentions requests that took long, as etcd's
// --warning-unary-request-duration says, and all of them at the debug level.
type slowLog struct {
	log *zap.Logger
	// after is the duration that is not mentioned yet; 0 turns the warnings off.
	after time.Duration
	// second is the Unix second that count belongs to.
	second, count, omitted atomic.Int64
}

// slowCall is a unary request that has ended.
type slowCall struct {
	method *methodStats
	began  time.Time
	took   time.Duration
	// req is nil, and the sizes zero, for what is not of the KV service.
	req                         proto.Message
	requestBytes, responseBytes int
	err                         error
}

func (l *slowLog) done(ctx context.Context, c slowCall) {
	level := zap.DebugLevel
	if l.after > 0 && c.took > l.after {
		level = zap.WarnLevel
	}
	if !l.log.Core().Enabled(level) || (level == zap.WarnLevel && !l.admit(c.began.Add(c.took).Unix())) {
		return
	}
	remote := "No remote client info."
	if p, ok := peer.FromContext(ctx); ok {
		remote = p.Addr.String()
	}
	fields := []zap.Field{
		zap.Time("start time", c.began), zap.Duration("time spent", c.took), zap.String("remote", remote),
		zap.String("response type", c.method.full()),
		zap.Int("request size", c.requestBytes), zap.Int("response size", c.responseBytes), zap.String("request content", content(c.req)),
	}
	if c.err != nil {
		fields = append(fields, zap.Error(c.err))
	}
	if level == zap.WarnLevel {
		fields = append(fields, zap.Int64("omitted", l.omitted.Swap(0)))
	}
	l.log.Log(level, "request stats", fields...)
}

// content shows a request without its values, which may be secret.
func content(req proto.Message) string {
	var text string
	switch r := req.(type) {
	case *pb.PutRequest:
		text = pb.NewLoggablePutRequest(r).String()
	case *pb.TxnRequest:
		text = pb.NewLoggableTxnRequest(r).String()
	case fmt.Stringer:
		text = r.String()
	}
	if len(text) > contentBytes {
		text = text[:contentBytes] + "…"
	}
	return text
}

func (l *slowLog) admit(second int64) bool {
	if old := l.second.Load(); old != second && l.second.CompareAndSwap(old, second) {
		l.count.Store(0)
	}
	if l.count.Add(1) > slowPerSecond {
		l.omitted.Add(1)
		return false
	}
	return true
}
