package mvcc

import (
	"context"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/kvd-io/kvd/mvcc/keyspace"
)

// RangeOptions says what of a span to read.
type RangeOptions struct {
	// Rev is the revision to read at; 0 is the newest.
	Rev int64
	// Limit ends the scan after that many keys were delivered; 0 is no limit.
	Limit int64
	// KeysOnly leaves the values out.
	KeysOnly bool
	// Bounds, both inclusive, on the revisions of the keys delivered; 0 is no
	// bound.
	MinMod, MaxMod, MinCreate, MaxCreate int64
	// Desc delivers in descending order of the keys.
	Desc bool
}

func (o *RangeOptions) admits(create, mod int64) bool {
	return mod >= o.MinMod && (o.MaxMod == 0 || mod <= o.MaxMod) &&
		create >= o.MinCreate && (o.MaxCreate == 0 || create <= o.MaxCreate)
}

// Range calls fn on the live keys of span, in key order, until it returns
// false. What fn is given is the caller's to keep, its Key being the encoded
// key; the bytes of several of them may share memory.
func (sn *Snapshot) Range(ctx context.Context, span keyspace.Span, o RangeOptions, fn func(*mvccpb.KeyValue) (more bool)) error {
	var slab kvSlab
	if o.Limit > 0 {
		slab.expect = int(min(o.Limit, maxSlabKeys))
	}
	left := o.Limit
	return sn.versions(ctx, span, o.Rev, o.Desc, func(key []byte, mod int64, row []byte) (bool, error) {
		v, ok := decodeVersion(row, mod)
		if !ok {
			return false, corruptVersion(key, mod)
		}
		if v.tombstone || !o.admits(v.create, mod) {
			return true, nil
		}
		if o.KeysOnly {
			v.value = nil
		}
		kv := slab.add(key, v.value)
		kv.CreateRevision, kv.ModRevision = v.create, mod
		kv.Version, kv.Lease = v.version, v.lease
		if !fn(kv) {
			return false, nil
		}
		left--
		return left != 0, nil
	})
}
