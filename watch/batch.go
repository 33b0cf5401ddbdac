package watch

import (
	"sync"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// Batch is a run of events, of whole revisions and in their order, that is
// delivered to many watches alike. It is immutable.
type Batch struct {
	Events []*mvccpb.Event
	// first and last are the revisions of the first and the last event.
	first, last int64
	bytes       int

	encode  sync.Once
	encoded []byte
}

// eventsField is the number of WatchResponse.events.
const eventsField = 11

// Encoded returns the events as they stand in an encoded WatchResponse, field
// tags included. It is computed once, whoever asks, and must not be changed.
func (b *Batch) Encoded() []byte {
	b.encode.Do(func() {
		b.encoded = appendEvents(make([]byte, 0, b.bytes+b.bytes/8+64*len(b.Events)), b.Events)
	})
	return b.encoded
}

func appendEvents(dst []byte, events []*mvccpb.Event) []byte {
	opts := proto.MarshalOptions{UseCachedSize: true}
	for _, ev := range events {
		dst = protowire.AppendTag(dst, eventsField, protowire.BytesType)
		dst = protowire.AppendVarint(dst, uint64(proto.Size(ev)))
		// Marshalling into memory cannot fail: the bytes fields take any value, and
		// there are no strings, required fields or extensions.
		dst, _ = opts.MarshalAppend(dst, ev)
	}
	return dst
}

// What a watch wants to see of the events in its span.
const (
	noPut = 1 << iota
	noDelete
	withPrev
	variants
)

// batches makes the batches of one delivery to the watchers of one span: the
// watchers that want to see the same share one.
type batches struct {
	entries []*entry
	made    [variants]*Batch
	done    [variants]bool
}

// of returns the batch for a kind of watcher; nil if nothing is left of it.
func (b *batches) of(mask uint8) *Batch {
	if !b.done[mask] {
		b.done[mask] = true
		b.made[mask] = newBatch(b.entries, mask)
	}
	return b.made[mask]
}

func newBatch(entries []*entry, mask uint8) *Batch {
	b := &Batch{Events: make([]*mvccpb.Event, 0, len(entries))}
	for _, e := range entries {
		if (e.isDelete() && mask&noDelete != 0) || (!e.isDelete() && mask&noPut != 0) {
			continue
		}
		ev := &e.event
		if mask&withPrev != 0 {
			if prev := e.prev.Load(); prev != nil {
				ev = prev
			}
		}
		if len(b.Events) == 0 {
			b.first = e.rev
		}
		b.last = e.rev
		b.Events = append(b.Events, ev)
		b.bytes += e.size()
		if ev.PrevKv != nil {
			b.bytes += len(ev.PrevKv.Value) + len(ev.PrevKv.Key)
		}
	}
	if len(b.Events) == 0 {
		return nil
	}
	return b
}
