package backup

import (
	"context"
	"maps"
	"slices"

	"github.com/kvd-io/kvd/backup/etcdfile"
	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard"
)

// restoredLease is a lease on its way from a file into a store.
type restoredLease struct {
	// ttl and remaining are in seconds.
	ttl, remaining int64
	// shards are the places of those in which a version of a key was ever attached
	// to it, in order. Where none is any more, ending the lease asks in vain.
	shards []uint16
}

// attach notes a shard in which a key was attached.
func (l *restoredLease) attach(shard int) {
	// There are at most maxShards.
	n := uint16(shard)
	if i, found := slices.BinarySearch(l.shards, n); !found {
		l.shards = slices.Insert(l.shards, i, n)
	}
}

// readLeases reads the leases of the file.
func (b *builder) readLeases(ctx context.Context) error {
	b.leases = make(map[int64]*restoredLease, b.survey.leases)
	return b.reader.Leases(ctx, func(l etcdfile.Lease) error {
		b.leases[l.ID] = &restoredLease{ttl: max(l.TTL, 1), remaining: min(l.Remaining, l.TTL)}
		return nil
	})
}

// writeLeases brings the records of leases to the stores that hold their keys, and
// the stores' lease indexes in order, once all rows are there. A record is a
// function of the file and of where the shards were cut, so that it is the same
// on all members.
func (b *builder) writeLeases(ctx context.Context, imports []*mvcc.Import) error {
	shards := b.cluster.Init.Shards
	for _, id := range slices.Sorted(maps.Keys(b.leases)) {
		home := imports[b.shardOf(keyspace.Lease(id))]
		if home == nil {
			continue
		}
		l := b.leases[id]
		record := &kvdpb.LeaseRecord{Id: id, Ttl: l.ttl, RemainingMs: 1000 * l.remaining}
		for _, at := range l.shards {
			span := keyspace.Span{Start: shards[at].Start, End: shards[at].End}.Intersect(keyspace.Users())
			record.Spans = append(record.Spans, &kvdpb.LeaseSpan{Start: span.Start, End: span.End})
		}
		name, value, err := shard.RestoredLease(record)
		if err != nil {
			return err
		}
		if err := home.SetLocal(name, value); err != nil {
			return err
		}
	}
	for _, i := range imports {
		if i == nil {
			continue
		}
		err := i.TrimLeases(func(id int64) bool { return b.leases[id] != nil })
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}
