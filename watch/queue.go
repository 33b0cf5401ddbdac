package watch

// itemCost is what an item weighs beside its events, in bytes, roughly;
// mergeCost the same for events that join an item.
const (
	itemCost  = 128
	mergeCost = 16
	// mergeBytes and mergeEvents bound what is merged into one response.
	mergeBytes  = 256 << 10
	mergeEvents = 1000
	// keepItems is the capacity that a queue keeps when it needs less.
	keepItems = 1024
)

type itemKind uint8

const (
	itemEvents itemKind = iota
	itemCreated
	itemRefused
	itemCanceled
	itemCompacted
	itemProgress
)

// item is a response that waits to be sent.
type item struct {
	kind     itemKind
	fragment bool
	id       int64
	// revision of the header; with events it is that of the last one.
	revision  int64
	compacted int64
	reason    string
	batch     *Batch
	// more holds what piled up behind batch.
	more   []*Batch
	bytes  int
	events int
	cost   int64
}

// queue is a stream's outgoing responses. Items are numbered from 1 on, so that
// a watch finds its last one and later events can join it while it waits.
type queue struct {
	items []item
	// spare is the array that was sent last, to be filled again.
	spare []item
	// first is the number of items[0].
	first uint64
	// barrier is the number of the last item that no events may be merged across:
	// a progress report of all watches says what was sent before it.
	barrier uint64
}

func (q *queue) empty() bool { return len(q.items) == 0 }

func (q *queue) push(it item) (seq uint64) {
	if q.first == 0 {
		q.first = 1
	}
	if it.batch != nil {
		it.bytes, it.events, it.revision = it.batch.bytes, len(it.batch.Events), it.batch.last
	}
	q.items = append(q.items, it)
	seq = q.first + uint64(len(q.items)) - 1
	if it.kind == itemProgress {
		q.barrier = seq
	}
	return seq
}

// at returns a queued item by its number.
func (q *queue) at(seq uint64) *item { return &q.items[seq-q.first] }

// merge joins a batch to the last item of the watch, if that still waits, no
// progress was reported since, and it stays within bounds.
func (q *queue) merge(w *watcher, b *Batch) bool {
	if w.tail < q.first || w.tail <= q.barrier || w.tail == 0 {
		return false
	}
	it := q.at(w.tail)
	if it.bytes+b.bytes > mergeBytes || it.events+len(b.Events) > mergeEvents {
		return false
	}
	it.more = append(it.more, b)
	it.bytes += b.bytes
	it.events += len(b.Events)
	it.revision = b.last
	return true
}

// take empties the queue and returns what was in it, valid until the next take.
func (q *queue) take() []item {
	out := q.items
	q.first += uint64(len(out))
	q.items = q.spare[:0]
	q.spare = out
	if cap(out) > keepItems && len(out) < cap(out)/4 {
		// A burst is over; its array goes once it is sent.
		q.spare = nil
	}
	return out
}

// drop forgets what is queued and returns how many events that was.
func (q *queue) drop() (events int64) {
	for i := range q.items {
		events += int64(q.items[i].events)
	}
	q.first += uint64(len(q.items))
	q.items, q.spare = nil, nil
	return events
}
