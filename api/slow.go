package api

import (
	"context"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/peer"
)

// slowPerSecond bounds the log of slow requests: an overloaded member has better
// things to do than to write about it.
const slowPerSecond = 10

// slowLog mentions requests that took long, as etcd's
// --warning-unary-request-duration says.
type slowLog struct {
	log *zap.Logger
	// after is the duration that is not mentioned yet; 0 turns the log off.
	after time.Duration
	// second is the Unix second that count belongs to.
	second, count, omitted atomic.Int64
}

func (l *slowLog) done(ctx context.Context, stat callStat, began time.Time, requestBytes int, err error) {
	if l.after <= 0 {
		return
	}
	took := time.Since(began)
	if took <= l.after || !l.admit(began.Add(took).Unix()) {
		return
	}
	remote := "unknown"
	if p, ok := peer.FromContext(ctx); ok {
		remote = p.Addr.String()
	}
	l.log.Warn("request stats", zap.Time("start time", began), zap.Duration("time spent", took), zap.String("remote", remote),
		zap.String("response type", "/etcdserverpb.KV/"+statNames[stat]), zap.Int("request size", requestBytes),
		zap.Int64("omitted", l.omitted.Swap(0)), zap.Error(err))
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
