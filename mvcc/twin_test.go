package mvcc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sort"

	"github.com/cespare/xxhash/v2"
	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/kvd-io/kvd/mvcc/keyspace"
)

// twin is a store as a list of everything that ever happened: slow, and hard to
// get wrong.
type twin struct {
	events  []twinEvent
	applied uint64
	last    int64
	compact int64
	drops   int
	local   map[string]string
}

type twinEvent struct {
	rev, sub  int64
	key       string // encoded
	tombstone bool
	kv        twinKV
}

// twinKV is a KeyValue that can be compared.
type twinKV struct {
	Key, Value                  string
	Create, Mod, Version, Lease int64
}

func toTwin(kv *mvccpb.KeyValue) twinKV {
	if kv == nil {
		return twinKV{}
	}
	return twinKV{string(kv.Key), string(kv.Value), kv.CreateRevision, kv.ModRevision, kv.Version, kv.Lease}
}

func (w *twin) clone() *twin {
	c := *w
	c.events = append([]twinEvent(nil), w.events...)
	c.local = make(map[string]string)
	for k, v := range w.local {
		c.local[k] = v
	}
	return &c
}

// effect makes the effect of a put or deletion at the next revision.
func (w *twin) effect(rev, sub int64, k []byte, value string, lease int64, tombstone bool) *Effect {
	old := w.get(string(k), 0)
	ev := twinEvent{rev: rev, sub: sub, key: string(k), tombstone: tombstone}
	ev.kv = twinKV{Key: string(k), Mod: rev}
	e := &Effect{Key: k, Tombstone: tombstone}
	if !tombstone {
		ev.kv.Value, ev.kv.Lease = value, lease
		ev.kv.Create, ev.kv.Version = rev, 1
		if old.Version > 0 {
			ev.kv.Create, ev.kv.Version = old.Create, old.Version+1
			e.Create = old.Create
		}
		e.Value, e.Lease, e.Version = []byte(value), lease, ev.kv.Version
	}
	w.events = append(w.events, ev)
	return e
}

// get returns the version of a key at rev, 0 being the newest.
func (w *twin) get(k string, rev int64) (kv twinKV) {
	for _, ev := range w.events {
		if ev.key == k && (rev == 0 || ev.rev <= rev) {
			kv = ev.kv
			if ev.tombstone {
				kv = twinKV{}
			}
		}
	}
	return kv
}

// list returns the live keys of a span at rev, in order.
func (w *twin) list(span keyspace.Span, rev int64) (kvs []twinKV) {
	live := map[string]twinKV{}
	for _, ev := range w.events {
		if rev != 0 && ev.rev > rev {
			break
		}
		if ev.tombstone {
			delete(live, ev.key)
		} else {
			live[ev.key] = ev.kv
		}
	}
	for k, kv := range live {
		if span.Contains([]byte(k)) {
			kvs = append(kvs, kv)
		}
	}
	sort.Slice(kvs, func(i, j int) bool { return kvs[i].Key < kvs[j].Key })
	return kvs
}

// drop forgets a span.
func (w *twin) drop(span keyspace.Span) {
	if !span.Empty() {
		w.drops++
	}
	kept := w.events[:0:0]
	for _, ev := range w.events {
		if !span.Contains([]byte(ev.key)) {
			kept = append(kept, ev)
		}
	}
	w.events = kept
}

// check compares a snapshot with the twin at the given revisions and spans.
func (w *twin) check(t require.TestingT, sn *Snapshot, spans []keyspace.Span, revs []int64) {
	ctx := context.Background()
	require.Equal(t, w.applied, sn.AppliedIndex(), "applied index")
	require.Equal(t, w.last, sn.LastRevision(), "last revision")
	require.Equal(t, w.compact, sn.CompactRevision(), "compaction revision")
	names := map[string]string{}
	require.NoError(t, sn.ScanLocal(nil, func(n, v []byte) error {
		names[string(n)] = string(v)
		return nil
	}))
	require.Equal(t, w.local, names, "local records")

	for _, rev := range revs {
		compacted := rev > 0 && rev < w.compact
		for _, span := range spans {
			what := fmt.Sprintf("%v at %d", span, rev)
			var got []twinKV
			err := sn.Range(ctx, span, RangeOptions{Rev: rev}, func(kv *mvccpb.KeyValue) bool {
				got = append(got, toTwin(kv))
				return true
			})
			n, countErr := sn.Count(ctx, span, rev)
			if compacted {
				require.ErrorIs(t, err, ErrCompacted, what)
				require.ErrorIs(t, countErr, ErrCompacted, what)
				continue
			}
			require.NoError(t, err, what)
			require.NoError(t, countErr, what)
			want := w.list(span, rev)
			require.Equal(t, want, got, "range "+what)
			require.EqualValues(t, len(want), n, "count "+what)
			h, err := sn.Hash(ctx, span, rev)
			require.NoError(t, err, what)
			require.Equal(t, w.hash(span, rev, w.compact), h, "hash "+what)
			h, err = sn.StateHash(ctx, span, rev)
			require.NoError(t, err, what)
			require.Equal(t, w.hash(span, rev, math.MaxInt64), h, "state hash "+what)
			w.checkOptions(t, sn, span, rev, want)
			w.checkEvents(t, sn, span, max(rev, 1))
		}
		for _, k := range w.keys() {
			kv, err := sn.Get([]byte(k), rev)
			if compacted {
				require.ErrorIs(t, err, ErrCompacted)
				continue
			}
			require.NoError(t, err)
			require.Equal(t, w.get(k, rev), toTwin(kv), "get %q at %d", k, rev)
		}
	}
}

func (w *twin) keys() []string {
	seen := map[string]bool{}
	var keys []string
	for _, ev := range w.events {
		if !seen[ev.key] {
			seen[ev.key] = true
			keys = append(keys, ev.key)
		}
	}
	return keys
}

// hash follows the definition in Snapshot.Hash, key by key, of a history that begins at compact.
func (w *twin) hash(span keyspace.Span, rev, compact int64) (sum uint32) {
	if rev == 0 {
		rev = w.last
	}
	add := func(ev twinEvent) {
		var dead uint64
		if ev.tombstone {
			dead = 1
		}
		var b []byte
		b = binary.LittleEndian.AppendUint64(b, uint64(len(ev.key)))
		b = append(b, ev.key...)
		for _, n := range []int64{ev.rev, ev.kv.Create, ev.kv.Version, ev.kv.Lease, int64(dead)} {
			b = binary.LittleEndian.AppendUint64(b, uint64(n))
		}
		h := xxhash.Sum64(append(b, ev.kv.Value...))
		sum += uint32(h) ^ uint32(h>>32)
	}
	base := map[string]twinEvent{}
	for _, ev := range w.events {
		switch {
		case !span.Contains([]byte(ev.key)) || ev.rev > rev:
		case ev.rev > compact:
			add(ev)
		default:
			base[ev.key] = ev
		}
	}
	for _, ev := range base {
		if !ev.tombstone {
			add(ev)
		}
	}
	return sum
}

// checkOptions compares limits, order and filters.
func (w *twin) checkOptions(t require.TestingT, sn *Snapshot, span keyspace.Span, rev int64, all []twinKV) {
	middle := w.last / 2
	for _, o := range []RangeOptions{
		{Desc: true},
		{Limit: 2},
		{Limit: 3, Desc: true},
		{MinMod: middle, KeysOnly: true},
		{MaxMod: middle, Limit: 1},
		{MinCreate: middle, MaxMod: w.last - 1, Desc: true},
		{MaxCreate: middle},
	} {
		o.Rev = rev
		var want, got []twinKV
		for i := range all {
			kv := all[i]
			if o.Desc {
				kv = all[len(all)-1-i]
			}
			if kv.Mod < o.MinMod || (o.MaxMod > 0 && kv.Mod > o.MaxMod) || kv.Create < o.MinCreate || (o.MaxCreate > 0 && kv.Create > o.MaxCreate) {
				continue
			}
			if o.KeysOnly {
				kv.Value = ""
			}
			if want = append(want, kv); o.Limit > 0 && int64(len(want)) == o.Limit {
				break
			}
		}
		require.NoError(t, sn.Range(context.Background(), span, o, func(kv *mvccpb.KeyValue) bool {
			got = append(got, toTwin(kv))
			return true
		}))
		require.Equal(t, want, got, "range %v with %+v", span, o)
	}
}

// checkEvents compares the history from rev on, read at once and in pieces.
func (w *twin) checkEvents(t require.TestingT, sn *Snapshot, span keyspace.Span, from int64) {
	var want []twinEvent
	for _, ev := range w.events {
		if ev.rev >= from && span.Contains([]byte(ev.key)) {
			want = append(want, ev)
		}
	}
	sort.SliceStable(want, func(i, j int) bool {
		return want[i].rev < want[j].rev || (want[i].rev == want[j].rev && want[i].sub < want[j].sub)
	})
	for _, maxBytes := range []int{0, 1, 40} {
		var got []twinEvent
		next := from
		for next <= w.last {
			began := next
			var err error
			next, err = sn.Events(context.Background(), span, next, w.last+5, maxBytes, func(rev, sub int64, kv *mvccpb.KeyValue, tombstone bool) bool {
				got = append(got, twinEvent{rev: rev, sub: sub, key: string(kv.Key), tombstone: tombstone, kv: toTwin(kv)})
				return true
			})
			if from < w.compact {
				require.ErrorIs(t, err, ErrCompacted)
				var compacted *CompactedError
				require.True(t, errors.As(err, &compacted))
				require.Equal(t, w.compact, compacted.CompactRevision)
				return
			}
			require.NoError(t, err)
			require.Greater(t, next, began)
		}
		require.Equal(t, max(from, w.last+1), next)
		require.Equal(t, want, got, "events of %v from %d by %d bytes", span, from, maxBytes)
	}
}
