package etcdfile

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strconv"

	"go.etcd.io/etcd/api/v3/authpb"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// Contents is what a snapshot holds beside keys and leases.
type Contents struct {
	// CompactRevision is the lowest revision that can be read; 0 if there was no
	// compaction.
	CompactRevision int64
	// ConsistentIndex and Term are of the raft log that the keys come from.
	ConsistentIndex, Term uint64
	Members               []Member
	ClusterVersion        string
	Alarms                []*etcdserverpb.AlarmMember
	Auth                  Auth
}

// Member is one member of the cluster that was saved. Whoever restores makes
// members of its own.
type Member struct {
	ID         uint64   `json:"id"`
	PeerURLs   []string `json:"peerURLs"`
	IsLearner  bool     `json:"isLearner,omitempty"`
	Name       string   `json:"name,omitempty"`
	ClientURLs []string `json:"clientURLs,omitempty"`
}

// Auth is the state of users and roles.
type Auth struct {
	Enabled  bool
	Revision uint64
	Users    []*authpb.User
	Roles    []*authpb.Role
}

// maxTTL is the largest TTL that etcd grants, in seconds.
const maxTTL = 9_000_000_000

// maxAuth bounds users and roles, which are kept in memory, in bytes.
const maxAuth = 256 << 20

// Contents reads everything but keys, leases and members.
func (r *Reader) Contents(ctx context.Context) (*Contents, error) {
	if !r.has(BucketKey) || !r.has(BucketMeta) {
		return nil, fmt.Errorf("%w: it has no buckets %q and %q", ErrNotSnapshot, BucketKey, BucketMeta)
	}
	c := &Contents{}
	if err := r.readMeta(ctx, c); err != nil {
		return nil, err
	}
	if err := r.readAuth(ctx, &c.Auth); err != nil {
		return nil, err
	}
	err := r.bucket(ctx, BucketAlarm, func(key, _ []byte) error {
		a := &etcdserverpb.AlarmMember{}
		if err := proto.Unmarshal(key, a); err != nil {
			return corruptf("alarm: %v", err)
		}
		if len(c.Alarms) > 1<<16 {
			return corruptf("more than %d alarms", len(c.Alarms))
		}
		c.Alarms = append(c.Alarms, a)
		return nil
	})
	return c, err
}

func (r *Reader) readMeta(ctx context.Context, c *Contents) error {
	compacted := func(value []byte) error {
		rev, err := ParseRevision(value)
		if err == nil {
			// A compaction that was scheduled is finished by whoever opens the file.
			c.CompactRevision = max(c.CompactRevision, rev.Main)
		}
		return err
	}
	return r.bucket(ctx, BucketMeta, func(key, value []byte) error {
		switch string(key) {
		case metaScheduledCompact, metaFinishedCompact:
			return compacted(value)
		case metaConsistentIndex:
			return parseNumber(value, &c.ConsistentIndex)
		case metaTerm:
			return parseNumber(value, &c.Term)
		case metaStorageVersion:
			return checkVersion(string(value))
		}
		return nil
	})
}

func parseNumber(b []byte, n *uint64) error {
	if len(b) != 8 {
		return corruptf("number of %d bytes", len(b))
	}
	*n = binary.BigEndian.Uint64(b)
	return nil
}

// checkVersion refuses what a later etcd wrote.
func checkVersion(v string) error {
	var major, minor int
	if _, err := fmt.Sscanf(v, "%d.%d", &major, &minor); err != nil {
		return corruptf("storage version %q", v)
	}
	var knownMajor, knownMinor int
	if _, err := fmt.Sscanf(StorageVersion, "%d.%d", &knownMajor, &knownMinor); err != nil {
		return err
	}
	if major != knownMajor || minor > knownMinor {
		return fmt.Errorf("the snapshot has storage version %s; this kvd reads up to %s", v, StorageVersion)
	}
	return nil
}

func (r *Reader) readAuth(ctx context.Context, a *Auth) error {
	size := 0
	keep := func(value []byte) error {
		if size += len(value); size > maxAuth {
			return corruptf("more than %d bytes of users and roles", maxAuth)
		}
		return nil
	}
	err := r.bucket(ctx, BucketAuth, func(key, value []byte) error {
		switch string(key) {
		case authEnabledKey:
			a.Enabled = bytes.Equal(value, []byte{1})
		case authRevisionKey:
			return parseNumber(value, &a.Revision)
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = r.bucket(ctx, BucketAuthUsers, func(key, value []byte) error {
		u := &authpb.User{}
		if err := proto.Unmarshal(value, u); err != nil || !bytes.Equal(u.Name, key) {
			return corruptf("user %q: %v", short(key), err)
		}
		a.Users = append(a.Users, u)
		return keep(value)
	})
	if err != nil {
		return err
	}
	return r.bucket(ctx, BucketAuthRoles, func(key, value []byte) error {
		role := &authpb.Role{}
		if err := proto.Unmarshal(value, role); err != nil || !bytes.Equal(role.Name, key) {
			return corruptf("role %q: %v", short(key), err)
		}
		a.Roles = append(a.Roles, role)
		return keep(value)
	})
}

// Leases calls fn with every lease in the order of ids, negative ones last.
func (r *Reader) Leases(ctx context.Context, fn func(Lease) error) error {
	return r.bucket(ctx, BucketLease, func(key, value []byte) error {
		l, err := parseLease(value)
		if err != nil {
			return err
		}
		if len(key) != 8 || int64(binary.BigEndian.Uint64(key)) != l.ID || l.ID == 0 || l.TTL < 0 || l.TTL > maxTTL || l.Remaining < 0 {
			return corruptf("lease %x of %d s", short(key), l.TTL)
		}
		return fn(l)
	})
}

// memberKey is how the buckets of members name one.
func memberKey(id uint64) []byte { return []byte(strconv.FormatUint(id, 16)) }

// confState is raftpb.ConfState as etcd keeps it.
func confState(members []Member) ([]byte, error) {
	state := struct {
		Voters   []uint64 `json:"voters,omitempty"`
		Learners []uint64 `json:"learners,omitempty"`
	}{}
	for _, m := range members {
		if m.IsLearner {
			state.Learners = append(state.Learners, m.ID)
		} else {
			state.Voters = append(state.Voters, m.ID)
		}
	}
	return json.Marshal(state)
}
