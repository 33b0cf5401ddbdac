package placement

import (
	"bytes"
	"cmp"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"go.etcd.io/etcd/client/pkg/v3/types"
)

const (
	// maxVoters bounds the voters of the placement group; further members follow
	// it with non-voting replicas.
	maxVoters = 5
	// maxReplicas is how many replicas a shard begins with, if there are members
	// enough.
	maxReplicas = 3
)

// Cluster is what etcd's flags say of a cluster that is to begin. It is the same
// on every member that was given the same flags.
type Cluster struct {
	ID uint64
	// Members is sorted by id.
	Members []*kvdpb.Member
	// Init is the first entry of the placement group.
	Init *kvdpb.PlacementInit
}

// Bootstrap computes cluster id, member ids and the first entry from the value of
// --initial-cluster, the cluster token, and optional user keys at which the key
// space is cut from the beginning. Ids are etcd's: a member's comes from its peer
// URLs and the token, the cluster's from the members'.
func Bootstrap(initialCluster, token string, splitKeys [][]byte) (*Cluster, error) {
	urls, err := types.NewURLsMap(initialCluster)
	if err != nil {
		return nil, fmt.Errorf("initial cluster %q: %w", initialCluster, err)
	}
	if len(urls) == 0 {
		return nil, errors.New("initial cluster names no member")
	}
	c := &Cluster{}
	byURL := map[string]string{}
	for name, peers := range urls {
		for _, u := range peers.StringSlice() {
			if other, ok := byURL[u]; ok {
				return nil, fmt.Errorf("initial cluster gives the peer URL %s to both %s and %s", u, min(other, name), max(other, name))
			}
			byURL[u] = name
		}
		c.Members = append(c.Members, &kvdpb.Member{Id: memberID(peers.StringSlice(), token), Name: name, PeerUrls: peers.StringSlice()})
	}
	slices.SortFunc(c.Members, func(a, b *kvdpb.Member) int {
		return cmp.Or(cmp.Compare(a.Id, b.Id), strings.Compare(a.Name, b.Name))
	})
	ids := make([]byte, 0, 8*len(c.Members))
	for i, m := range c.Members {
		if m.Id == 0 || (i > 0 && m.Id == c.Members[i-1].Id) {
			return nil, fmt.Errorf("member %q has no id of its own: change a peer URL or the cluster token", m.Name)
		}
		m.Replica = uint64(i) + 1
		m.Votes = i < maxVoters
		ids = binary.BigEndian.AppendUint64(ids, m.Id)
	}
	if c.ID = hashID(ids); c.ID == 0 {
		return nil, errors.New("the cluster id is zero: change the cluster token")
	}
	c.Init = &kvdpb.PlacementInit{ClusterId: c.ID, Members: c.Members}
	if c.Init.Shards, err = firstShards(c.Members, splitKeys); err != nil {
		return nil, err
	}
	return c, checkInit(c.Init)
}

// memberID is etcd's: a hash of the sorted peer URLs and the token.
func memberID(peerURLs []string, token string) uint64 {
	sorted := slices.Sorted(slices.Values(peerURLs))
	return hashID([]byte(strings.Join(sorted, "") + token))
}

// hashID is the first eight bytes of a SHA-1, as etcd takes them for ids.
func hashID(b []byte) uint64 {
	sum := sha1.Sum(b)
	return binary.BigEndian.Uint64(sum[:8])
}

// firstShards cuts the key space at the given user keys. The shards' replicas go
// round the members.
func firstShards(members []*kvdpb.Member, splitKeys [][]byte) ([]*kvdpb.Descriptor, error) {
	keys := slices.Clone(splitKeys)
	slices.SortFunc(keys, bytes.Compare)
	starts := [][]byte{keyspace.Min()}
	for i, k := range keys {
		if len(k) == 0 {
			return nil, errors.New("a key to split at is empty")
		}
		if i > 0 && bytes.Equal(k, keys[i-1]) {
			return nil, fmt.Errorf("the key %q to split at is given twice", k)
		}
		starts = append(starts, keyspace.User(k))
	}
	voters := members[:min(len(members), maxVoters)]
	var shards []*kvdpb.Descriptor
	for i, start := range starts {
		d := &kvdpb.Descriptor{Shard: FirstShard + uint64(i), Start: start, End: keyspace.Max(), Generation: 1}
		if i+1 < len(starts) {
			d.End = bytes.Clone(starts[i+1])
		}
		for j := range min(len(voters), maxReplicas) {
			m := voters[(i+j)%len(voters)]
			d.Replicas = append(d.Replicas, &kvdpb.Replica{Member: m.Id, Replica: uint64(j) + 1})
			d.Initial = append(d.Initial, &kvdpb.Replica{Member: m.Id, Replica: uint64(j) + 1})
		}
		shards = append(shards, d)
	}
	return shards, nil
}

// Member returns the member of a name; nil if there is none.
func (c *Cluster) Member(name string) *kvdpb.Member {
	i := slices.IndexFunc(c.Members, func(m *kvdpb.Member) bool { return m.Name == name })
	if i < 0 {
		return nil
	}
	return c.Members[i]
}

// Voters maps the first replicas of the placement group to their members, as
// raft wants them for a first start. Members that are not among them join as
// non-voting ones.
func (c *Cluster) Voters() map[uint64]uint64 {
	voters := map[uint64]uint64{}
	for _, m := range c.Members[:min(len(c.Members), maxVoters)] {
		voters[m.Replica] = m.Id
	}
	return voters
}
