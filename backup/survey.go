package backup

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/kvd-io/kvd/backup/etcdfile"
)

// survey is what is known of a snapshot file once every row of it was looked at.
type survey struct {
	*etcdfile.Contents
	// revision is the current one of the store that was saved.
	revision int64
	// bytes adds up keys and values.
	bytes int64
	// leases counts the leases of the file.
	leases int
	// splits are the keys at which the shards of the new cluster begin, but for
	// the first.
	splits [][]byte
}

const (
	// DefaultShardBytes is the size that shards of a restored cluster have about.
	DefaultShardBytes = 128 << 20
	// maxShards bounds the shards of a restored cluster; more data makes them
	// larger.
	maxShards = 512
	// samples is about how many keys are kept to find out where to cut; sampleKey
	// bounds what is kept of each.
	samples   = 32 << 10
	sampleKey = 256
)

// look reads the whole file, checks that it can be restored, and decides where to
// cut. It depends on nothing but the file and shardBytes.
func look(ctx context.Context, r *etcdfile.Reader, shardBytes int64) (*survey, error) {
	c, err := r.Contents(ctx)
	if err != nil {
		return nil, err
	}
	s := &survey{Contents: c}
	cut := sampler{step: max(r.Size()/samples, 1)}
	once := onceARevision{}
	err = r.Rows(ctx, func(rev etcdfile.Revision, kv *etcdfile.KeyValue) error {
		s.revision = rev.Main
		if len(kv.Key) == 0 {
			return nil
		}
		if !once.first(rev.Main, kv.Key) {
			return fmt.Errorf("%w: revision %d changes key %q twice", etcdfile.ErrCorrupt, rev.Main, kv.Key[:min(len(kv.Key), 64)])
		}
		n := int64(len(kv.Key) + len(kv.Value))
		s.bytes += n
		cut.add(kv.Key, n)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := r.Leases(ctx, func(etcdfile.Lease) error {
		s.leases++
		return nil
	}); err != nil {
		return nil, err
	}
	// A store whose last writes were all compacted away is at its compaction.
	s.revision = max(s.revision, s.CompactRevision, 1)
	if s.revision > math.MaxInt64/4 {
		return nil, fmt.Errorf("%w: revision %d", etcdfile.ErrCorrupt, s.revision)
	}
	shards := min((s.bytes+shardBytes-1)/shardBytes, maxShards)
	s.splits = cut.splits(int(shards))
	return s, nil
}

// onceARevision finds keys that one revision changes twice.
type onceARevision struct {
	rev  int64
	last []byte
	keys *etcdfile.KeySet
}

// first tells whether the key is new in its revision. Revisions come in order.
func (o *onceARevision) first(rev int64, key []byte) bool {
	switch {
	case rev != o.rev:
		o.rev, o.keys = rev, nil
		o.last = append(o.last[:0], key...)
		return true
	case o.keys == nil:
		// Most revisions change one key, and need no set.
		o.keys = etcdfile.NewKeySet()
		o.keys.Add(o.last)
	}
	return o.keys.Add(key)
}

// sampler keeps a key for about every step bytes, with its share of them, so that
// quantiles can be told in bounded memory.
type sampler struct {
	step, left int64
	kept       []sample
}

type sample struct {
	key    []byte
	weight int64
}

func (s *sampler) add(key []byte, n int64) {
	s.left += n
	if s.left >= s.step {
		// The beginning of a key is as good a place to cut.
		s.kept = append(s.kept, sample{bytes.Clone(key[:min(len(key), sampleKey)]), s.left})
		s.left = 0
	}
}

// splits returns at most n-1 keys that cut what was seen into parts of about the
// same size.
func (s *sampler) splits(n int) [][]byte {
	slices.SortFunc(s.kept, func(a, b sample) int { return bytes.Compare(a.key, b.key) })
	total := int64(0)
	for _, k := range s.kept {
		total += k.weight
	}
	var keys [][]byte
	seen := int64(0)
	for i, k := range s.kept {
		next := int64(len(keys)+1) * (total / int64(max(n, 1)))
		if len(keys)+1 < n && seen >= next && i > 0 && !bytes.Equal(k.key, s.kept[i-1].key) {
			keys = append(keys, k.key)
		}
		seen += k.weight
	}
	return keys
}
