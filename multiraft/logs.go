package multiraft

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"

	"github.com/lni/dragonboat/v4/client"
	"github.com/lni/dragonboat/v4/raftio"
	"github.com/lni/dragonboat/v4/raftpb"

	"github.com/kvd-io/kvd/multiraft/logstore"
)

// Logs are a member's raft logs while no Host runs on them. They serve to make a member go on alone once the others are gone for good.
type Logs struct {
	store *logstore.Store
}

// OpenLogs opens the logs of a directory that a Host made with the same Dir, WALDir, MemberID and DeploymentID; nothing else of cfg counts, but for OnFatal and
// Logger. It returns nil if no Host has opened the directory yet.
func OpenLogs(cfg Config) (*Logs, error) {
	if _, err := os.Stat(filepath.Join(cfg.Dir, stampFile)); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if have, err := readStamp(cfg.Dir, cfg.stamp(), nil); err != nil || !have.Complete {
		return nil, err
	}
	opts := logstore.Options{Dir: filepath.Join(cfg.Dir, entriesElement), Fatal: cfg.OnFatal, Logger: cfg.Logger}
	if cfg.WALDir != "" {
		opts.WALDir = filepath.Join(cfg.WALDir, entriesElement)
	}
	store, err := logstore.Open(opts)
	if err != nil {
		return nil, err
	}
	return &Logs{store: store}, nil
}

// Close closes the logs.
func (l *Logs) Close() error { return l.store.Close() }

// Log is what a replica's log tells.
type Log struct {
	// Last is the index of the last entry; zero if nothing was ever received.
	Last uint64
	// Whole: it reaches back to the group's first entry.
	Whole bool
	// Member: the replica is part of its group, at the end of the log.
	Member bool
	// Others: other replicas are part of the group.
	Others bool

	group *group
}

// Log reads a replica's log. It is empty for a replica that was never started here.
func (l *Logs) Log(shard, replica uint64) (*Log, error) {
	snapshot, err := l.store.GetSnapshot(shard, replica)
	if err != nil {
		return nil, err
	}
	state, err := l.store.ReadRaftState(shard, replica, snapshot.Index)
	if errors.Is(err, raftio.ErrNoSavedLog) {
		return &Log{group: newGroup(raftpb.Membership{})}, nil
	}
	if err != nil {
		return nil, err
	}
	log := &Log{Last: snapshot.Index, Whole: snapshot.Index == 0 && state.EntryCount > 0, group: newGroup(snapshot.Membership)}
	if state.EntryCount > 0 {
		log.Last = max(log.Last, state.FirstIndex+state.EntryCount-1)
	}
	err = l.scan(shard, replica, snapshot.Index, func(e *raftpb.Entry) error {
		if e.Type != raftpb.ConfigChangeEntry {
			return nil
		}
		var cc raftpb.ConfigChange
		if err := cc.Unmarshal(e.Cmd); err != nil {
			return fmt.Errorf("decode the change of membership: %w", err)
		}
		log.group.apply(&cc, e.Index)
		return nil
	})
	if err != nil {
		return nil, err
	}
	_, votes := log.group.voters[replica]
	_, follows := log.group.nonVoting[replica]
	log.Member = votes || follows
	log.Others = len(log.group.voters)+len(log.group.nonVoting) > 1
	return log, nil
}

// Commands calls fn with every command of a replica's log behind the entry at index after, in order, committed or not. fn may keep the bytes.
func (l *Logs) Commands(shard, replica, after uint64, fn func(cmd []byte) error) error {
	return l.scan(shard, replica, after, func(e *raftpb.Entry) error {
		switch e.Type {
		case raftpb.EncodedEntry:
			if len(e.Cmd) == 0 || e.Cmd[0] != plainPayload {
				return errors.New("a command of unknown encoding")
			}
			return fn(e.Cmd[1:])
		case raftpb.ApplicationEntry:
			if len(e.Cmd) > 0 {
				return fn(e.Cmd)
			}
		}
		return nil
	})
}

// plainPayload is the byte that Dragonboat puts before a command that is not compressed.
const plainPayload = 0

// scanBytes is about how much of a log is in memory at once.
const scanBytes = 4 << 20

// scan calls fn with the entries behind the one at index after. It is an error if the next one is there no more.
func (l *Logs) scan(shard, replica, after uint64, fn func(*raftpb.Entry) error) error {
	if _, err := l.store.ReadRaftState(shard, replica, after); errors.Is(err, raftio.ErrNoSavedLog) {
		return nil
	} else if err != nil {
		return err
	}
	for next := after + 1; ; {
		entries, _, err := l.store.IterateEntries(nil, 0, shard, replica, next, math.MaxUint64, scanBytes)
		if err != nil {
			return err
		}
		if len(entries) == 0 {
			return nil
		}
		for i := range entries {
			if err := fn(&entries[i]); err != nil {
				return fmt.Errorf("entry %d of replica %d of shard %d: %w", entries[i].Index, replica, shard, err)
			}
		}
		next = entries[len(entries)-1].Index + 1
	}
}

// Survivor is a replica that is to be the only one of its group.
type Survivor struct {
	Shard, Replica uint64
	// Command, if any, is the last entry of its log: for its state machine.
	Command []byte
}

// survivorClient and survivorKey name the proposal of Survivor.Command, which nobody waits for. Dragonboat wants both not to be zero.
const survivorClient, survivorKey = 1, 1

// Survive makes replicas the only ones of their groups: their logs are kept as they are, all that is in them counts as committed, and is followed by the
// removal of all other replicas. It happens to all or, on an error or in a crash, to none.
//
// The other replicas must be gone for good. Where a majority of them still runs, a group is two groups from here on, with one past and two futures.
func (l *Logs) Survive(survivors []Survivor) error {
	all := make([]logstore.Extension, 0, len(survivors))
	for _, s := range survivors {
		log, err := l.Log(s.Shard, s.Replica)
		if err != nil {
			return err
		}
		if !log.Member {
			return fmt.Errorf("multiraft: replica %d is not part of shard %d", s.Replica, s.Shard)
		}
		x := logstore.Extension{Shard: s.Shard, Replica: s.Replica}
		for _, cc := range log.group.alone(s.Replica) {
			cmd, err := cc.Marshal()
			if err != nil {
				return fmt.Errorf("multiraft: encoding a change of membership: %w", err)
			}
			x.Entries = append(x.Entries, raftpb.Entry{Type: raftpb.ConfigChangeEntry, Cmd: cmd})
		}
		if len(s.Command) > 0 {
			x.Entries = append(x.Entries, raftpb.Entry{
				Type: raftpb.EncodedEntry, Key: survivorKey, ClientID: survivorClient, SeriesID: client.NoOPSeriesID,
				Cmd: append([]byte{plainPayload}, s.Command...),
			})
		}
		all = append(all, x)
	}
	return l.store.Extend(all)
}
