package api

import (
	"context"
	"math"

	"github.com/kvd-io/kvd/api/check"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// Guard decides at the door which requests alarms and lack of space rule out. It
// is asked for every request that changes something, so it must not block unless
// something is wrong.
type Guard interface {
	// Change admits a request that changes data or history; with the alarm CORRUPT
	// it fails with etcd's ErrCorrupt.
	Change() error
	// Grow admits a request that stores about so many bytes; without space for
	// them it fails with etcd's ErrNoSpace.
	Grow(ctx context.Context, bytes int) error
	// Cleared is called when a client has disarmed an alarm, before it is told.
	Cleared()
	// Quota is the size in bytes that the store may have.
	Quota() int64
}

// openDoor is the guard of a server without one.
type openDoor struct{}

func (openDoor) Change() error                   { return nil }
func (openDoor) Grow(context.Context, int) error { return nil }
func (openDoor) Cleared()                        {}
func (openDoor) Quota() int64                    { return math.MaxInt64 }

// admit asks the guard about a request of the KV service. As in etcd, reads go on
// whatever alarm stands, and deletions need no space.
func (s *kvServer) admit(ctx context.Context, m proto.Message, size int) error {
	switch m := m.(type) {
	case *pb.PutRequest:
		return s.admitGrowth(ctx, size)
	case *pb.DeleteRangeRequest:
		return s.guard.Change()
	case *pb.TxnRequest:
		switch {
		case check.Puts(m):
			return s.admitGrowth(ctx, size)
		case !check.ReadOnly(m):
			return s.guard.Change()
		}
	}
	return nil
}

func (s *kvServer) admitGrowth(ctx context.Context, size int) error {
	if err := s.guard.Change(); err != nil {
		return err
	}
	return s.guard.Grow(ctx, size)
}
