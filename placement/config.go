package placement

import (
	"errors"
	"fmt"
	"time"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// ReadMode says how the sequencer makes sure that it still is the sequencer.
type ReadMode uint8

const (
	// ReadLease rests on the sequencer's clock: answers come from memory.
	ReadLease ReadMode = iota
	// ReadQuorum asks a majority once per batch of requests and rests on no
	// clock. It is for machines whose clocks stop while they are paused.
	ReadQuorum
)

// Config is what a node is made of.
type Config struct {
	// Member, Replica (in the placement group) and Incarnation name this process.
	// The incarnation is different in each run of the member.
	Member, Replica, Incarnation uint64
	// Raft is the local replica of the placement group.
	Raft Raft
	// Open opens the replica's records; called by the state machine.
	Open func() (Storage, error)
	// Init is the first entry, on the members that a new cluster begins with; nil
	// elsewhere.
	Init *kvdpb.PlacementInit
	// Send gives a frame to another member's HandleFrame. It must not block, and
	// copies the frame. Order is kept while a connection lasts.
	Send func(to uint64, frame []byte) error
	// Conn gives a connection to another member's Placement service.
	Conn func(to uint64) (grpc.ClientConnInterface, error)
	// Alive tells whether another member is connected. The scheduler is off without
	// it.
	Alive func(member uint64) bool
	// ReadMode is how the sequencer proves its ownership.
	ReadMode ReadMode
	// Election is raft's election timeout: 1 s if zero. It paces retries.
	Election time.Duration
	// Clock is the clock of leases, BootClock if nil.
	Clock  func() time.Duration
	Logger *zap.Logger
}

func (c *Config) fill() error {
	if c.Election == 0 {
		c.Election = time.Second
	}
	if c.Clock == nil {
		c.Clock = BootClock
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	var errs []error
	if c.Member == 0 || c.Replica == 0 || c.Incarnation == 0 {
		errs = append(errs, fmt.Errorf("member %x, replica %d and incarnation %x must not be zero", c.Member, c.Replica, c.Incarnation))
	}
	if c.Raft == nil || c.Open == nil || c.Send == nil || c.Conn == nil {
		errs = append(errs, errors.New("raft, storage, send and connections are needed"))
	}
	if c.ReadMode > ReadQuorum {
		errs = append(errs, fmt.Errorf("read mode %d is unknown", c.ReadMode))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("placement: configuration: %w", err)
	}
	return nil
}
