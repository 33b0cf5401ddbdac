package multiraft

import (
	"errors"
	"fmt"

	"github.com/lni/dragonboat/v4"
)

// Errors of a Host. Every error that Propose returns, as opposed to one in an Outcome, means that nothing was appended to any log.
var (
	// ErrNotLeader means that the local replica is not the raft leader.
	ErrNotLeader = errors.New("multiraft: the local replica is not the raft leader")
	// ErrNotFound means that the shard has no running replica here.
	ErrNotFound = errors.New("multiraft: no such replica is running here")
	// ErrNotReady means that the replica cannot serve the request now: it is starting, or there is no leader.
	ErrNotReady = errors.New("multiraft: the replica is not ready")
	// ErrBusy means that a queue is full, or that such a request is under way already.
	ErrBusy = errors.New("multiraft: too busy")
	// ErrTooLarge means that a command is larger than the log takes.
	ErrTooLarge = errors.New("multiraft: the command is too large")
	// ErrStopped means that the replica or the host was stopped. In an Outcome the command's fate is unknown. State machines return
	// it from Open, SaveSnapshot and RecoverFromSnapshot when their stop channel made them give up.
	ErrStopped = errors.New("multiraft: stopped")
	// ErrTimeout means that there was no answer in time; what was asked for may or may not happen.
	ErrTimeout = errors.New("multiraft: timed out")
	// ErrRejected means that a change of membership was refused because the membership had changed meanwhile, or a snapshot because
	// there is nothing new to put into it.
	ErrRejected = errors.New("multiraft: rejected")
	// ErrAborted means that the request was given up half-way; its fate is unknown.
	ErrAborted = errors.New("multiraft: aborted")
	// ErrExists means that the shard has a replica here already, which runs or is still being stopped.
	ErrExists = errors.New("multiraft: the shard has a replica here already")
	// ErrRemoved means that this replica id was removed from the group; it never comes back.
	ErrRemoved = errors.New("multiraft: the replica was removed")
)

// translate makes an error of Dragonboat's calls one of this package's.
func translate(err error) error {
	if err == nil {
		return nil
	}
	for _, t := range [...]struct{ from, to error }{
		{dragonboat.ErrSystemBusy, ErrBusy},
		{dragonboat.ErrShardNotReady, ErrNotReady},
		{dragonboat.ErrShardNotInitialized, ErrNotReady},
		{dragonboat.ErrShardNotFound, ErrNotFound},
		{dragonboat.ErrPayloadTooBig, ErrTooLarge},
		{dragonboat.ErrShardClosed, ErrStopped},
		{dragonboat.ErrClosed, ErrStopped},
		{dragonboat.ErrTimeout, ErrTimeout},
		{dragonboat.ErrRejected, ErrRejected},
		{dragonboat.ErrAborted, ErrAborted},
		{dragonboat.ErrShardAlreadyExist, ErrExists},
		{dragonboat.ErrReplicaRemoved, ErrRemoved},
	} {
		if errors.Is(err, t.from) {
			return t.to
		}
	}
	return fmt.Errorf("multiraft: %w", err)
}
