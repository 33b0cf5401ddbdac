package history

import (
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"
)

// Validator is one promise of etcd's watch.
type Validator struct {
	Name     string
	Promises string
	Check    func(*Evidence, *Watch) error
}

// Evidence is what watches are judged against.
type Evidence struct {
	Log *Log
	// Operations are needed for the compactions among them.
	Operations []*Operation
	// Complete tells that every watch that the server did not end had its time to see the whole log.
	Complete bool
}

// Validators are all promises, by the names that etcd gives them.
var Validators = []Validator{
	{"filter", "only events of the range and of the kinds that were asked for", checkFilter},
	{"ordered", "revisions never go back", checkOrdered},
	{"unique", "no event comes twice", checkUnique},
	{"atomic", "the events of one revision come in one response", checkAtomic},
	{"reliable", "between what was delivered nothing is missing, and nothing is invented", checkReliable},
	{"resumable", "a watch from a revision begins with the first event at or behind it, or is told that it was compacted", checkResumable},
	{"bookmarkable", "a progress notification of a revision means that everything up to it was delivered", checkBookmarkable},
	{"prev_kv", "the previous value is the one before the event, if it was asked for", checkPrevKV},
	{"is-create", "an event says that it created its key if, and only if, the key was not there", checkIsCreate},
}

// CheckWatch judges one watch by all validators. The error names those that fail.
func CheckWatch(ev *Evidence, w *Watch) error {
	var errs []error
	for _, v := range Validators {
		if err := v.Check(ev, w); err != nil {
			errs = append(errs, fmt.Errorf("%s: %s: %w", v.Name, w, err))
		}
	}
	return errors.Join(errs...)
}

func checkFilter(_ *Evidence, w *Watch) error {
	for _, r := range w.Responses {
		for _, e := range r.Events {
			if !w.wants(e) {
				return fmt.Errorf("%s was not asked for", describeEvents([]*mvccpb.Event{e}))
			}
		}
	}
	return nil
}

func checkOrdered(_ *Evidence, w *Watch) error {
	var last int64
	for _, r := range w.Responses {
		for _, e := range r.Events {
			if e.Kv.ModRevision < last {
				return fmt.Errorf("revision %d came after %d", e.Kv.ModRevision, last)
			}
			last = e.Kv.ModRevision
		}
		if n := len(r.Events); n > 0 && r.Revision < last {
			return fmt.Errorf("a response with events of revision %d says in its header that the store is at %d", last, r.Revision)
		}
	}
	return nil
}

func checkUnique(_ *Evidence, w *Watch) error {
	type event struct {
		key string
		rev int64
	}
	seen := map[event]bool{}
	for _, r := range w.Responses {
		for _, e := range r.Events {
			k := event{string(e.Kv.Key), e.Kv.ModRevision}
			if seen[k] {
				return fmt.Errorf("the event of %q at revision %d came twice", k.key, k.rev)
			}
			seen[k] = true
		}
	}
	return nil
}

func checkAtomic(_ *Evidence, w *Watch) error {
	told := map[int64]int{} // revision: the response that had its events
	keys := map[string]bool{}
	for i, r := range w.Responses {
		for _, e := range r.Events {
			// The same event again is another validator's affair.
			id := fmt.Sprintf("%d/%s", e.Kv.ModRevision, e.Kv.Key)
			if at, ok := told[e.Kv.ModRevision]; ok && at != i && !keys[id] {
				return fmt.Errorf("the events of revision %d came in two responses", e.Kv.ModRevision)
			}
			told[e.Kv.ModRevision], keys[id] = i, true
		}
	}
	return nil
}

// delivered are the events of all responses by revision.
func (w *Watch) delivered() (byRevision map[int64]map[string]*mvccpb.Event, first, last int64) {
	byRevision = map[int64]map[string]*mvccpb.Event{}
	for _, r := range w.Responses {
		for _, e := range r.Events {
			rev := e.Kv.ModRevision
			if byRevision[rev] == nil {
				byRevision[rev] = map[string]*mvccpb.Event{}
			}
			byRevision[rev][string(e.Kv.Key)] = e
			if first == 0 || rev < first {
				first = rev
			}
			last = max(last, rev)
		}
	}
	return byRevision, first, last
}

// ended tells whether the server ended the watch.
func (w *Watch) ended() bool {
	return slices.ContainsFunc(w.Responses, func(r WatchResponse) bool { return r.Canceled || r.Error != "" })
}

func checkReliable(ev *Evidence, w *Watch) error {
	got, first, last := w.delivered()
	for rev, events := range got {
		for key, e := range events {
			i := slices.IndexFunc(ev.Log.Events(rev), func(x *mvccpb.Event) bool { return string(x.Kv.Key) == key })
			if i < 0 || ev.Log.Events(rev)[i].Type != e.Type || !proto.Equal(ev.Log.Events(rev)[i].Kv, e.Kv) {
				return fmt.Errorf("%s: the log has %s", describeEvents([]*mvccpb.Event{e}), describeEvents(ev.Log.Events(rev)))
			}
		}
	}
	if ev.Complete && !w.ended() {
		last = ev.Log.Last()
		if start, _, known := w.start(); first == 0 && known {
			first = start
		}
	}
	if first == 0 {
		return nil
	}
	for rev, ok := ev.Log.Next(first); ok && rev <= last; rev, ok = ev.Log.Next(rev + 1) {
		for _, e := range ev.Log.Events(rev) {
			if w.wants(e) && got[rev][string(e.Kv.Key)] == nil {
				return fmt.Errorf("%s is missing", describeEvents([]*mvccpb.Event{e}))
			}
		}
	}
	return nil
}

func checkResumable(ev *Evidence, w *Watch) error {
	start, loose, known := w.start()
	for _, r := range w.Responses {
		if r.CompactRevision != 0 {
			if !ev.compacted(r.CompactRevision, r.Time) {
				return fmt.Errorf("it was ended as compacted at %d, and nobody had compacted that far", r.CompactRevision)
			}
			if _, _, last := w.delivered(); known && max(start, last+1) >= r.CompactRevision {
				return fmt.Errorf("it was ended as compacted at %d, and needed only what lies at or behind %d", r.CompactRevision, max(start, last+1))
			}
		} else if r.Error != "" {
			return fmt.Errorf("it ended with %q: %w", r.Error, errEnded)
		}
	}
	if !known {
		return nil
	}
	_, first, _ := w.delivered()
	if first == 0 {
		return nil
	}
	if loose && first == start-1 {
		first++
	}
	if first < start {
		return fmt.Errorf("an event of revision %d came, and the watch begins at %d", first, start)
	}
	for rev, ok := ev.Log.Next(start); ok && rev < first; rev, ok = ev.Log.Next(rev + 1) {
		if slices.ContainsFunc(ev.Log.Events(rev), w.wants) {
			return fmt.Errorf("the first event came with revision %d, and %s is missing", first, describeEvents(ev.Log.Events(rev)))
		}
	}
	return nil
}

var errEnded = errors.New("a watch ends only because of its client or of a compaction")

// compacted tells whether somebody had asked for a compaction at or behind a revision before a time.
func (ev *Evidence) compacted(rev, before int64) bool {
	return slices.ContainsFunc(ev.Operations, func(op *Operation) bool {
		k := op.Request.Compact
		return k != nil && op.Call < before && k.Revision >= rev && (op.Outcome != Refused || op.Error == rpctypes.ErrGRPCCompacted.Error())
	})
}

func checkBookmarkable(ev *Evidence, w *Watch) error {
	start, _, known := w.start()
	position, bookmark := start-1, int64(0) // all up to position was delivered as far as order tells
	for _, r := range w.Responses {
		for _, e := range r.Events {
			if e.Kv.ModRevision <= bookmark {
				return fmt.Errorf("an event of revision %d came after a progress notification of %d", e.Kv.ModRevision, bookmark)
			}
			position = max(position, e.Kv.ModRevision)
		}
		if !r.Progress {
			continue
		}
		if r.Revision < bookmark {
			return fmt.Errorf("a progress notification of %d came after one of %d", r.Revision, bookmark)
		}
		bookmark = r.Revision
		for rev, ok := ev.Log.Next(position + 1); known && ok && rev <= bookmark; rev, ok = ev.Log.Next(rev + 1) {
			if slices.ContainsFunc(ev.Log.Events(rev), w.wants) {
				return fmt.Errorf("a progress notification of %d came before %s", bookmark, describeEvents(ev.Log.Events(rev)))
			}
		}
	}
	return nil
}

func checkPrevKV(ev *Evidence, w *Watch) error {
	for _, r := range w.Responses {
		for _, e := range r.Events {
			want := ev.Log.At(e.Kv.ModRevision - 1).get(e.Kv.Key)
			switch {
			case !w.Request.PrevKV:
				if e.PrevKv != nil {
					return fmt.Errorf("revision %d of %q has a previous value that was not asked for", e.Kv.ModRevision, e.Kv.Key)
				}
			case e.PrevKv == nil && want != nil && ev.compacted(e.Kv.ModRevision, r.Time):
				// The state before the event is gone.
			case e.PrevKv == nil && want == nil:
			case !proto.Equal(e.PrevKv, want):
				return fmt.Errorf("before revision %d %q was {%v}, not {%v}", e.Kv.ModRevision, e.Kv.Key, want, e.PrevKv)
			}
		}
	}
	return nil
}

func checkIsCreate(ev *Evidence, w *Watch) error {
	for _, r := range w.Responses {
		for _, e := range r.Events {
			if e.Type != mvccpb.Event_PUT {
				continue
			}
			there := ev.Log.At(e.Kv.ModRevision-1).get(e.Kv.Key) != nil
			if created := e.Kv.CreateRevision == e.Kv.ModRevision; created == there {
				return fmt.Errorf("revision %d of %q says that it created the key: %v, and the key was there: %v", e.Kv.ModRevision, e.Kv.Key, created, there)
			}
		}
	}
	return nil
}
