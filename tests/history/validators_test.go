package history

import (
	"fmt"
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// failing are the names of the validators that find something.
func failing(ev *Evidence, w *Watch) []string {
	var names []string
	for _, v := range Validators {
		if v.Check(ev, w) != nil {
			names = append(names, v.Name)
		}
	}
	return names
}

func TestValidatorsPassGoodWatches(t *testing.T) {
	for seed := range uint64(10) {
		d := newDouble(t)
		d.run(seed, 300)
		ev := &Evidence{Log: d.log(), Operations: d.operations, Complete: true}
		for _, req := range []WatchRequest{
			{Key: "\x00", End: "\x00"},
			{Key: "\x00", End: "\x00", Revision: 40, PrevKV: true, ProgressNotify: true},
			{Key: "k2", End: "k5", Revision: 7, PrevKV: true, NoDelete: true},
			{Key: "k3", NoPut: true, ProgressNotify: true},
		} {
			if err := CheckWatch(ev, d.watch(req)); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestValidatorsFindPlantedBugs: for each validator a bug that it finds, and no other one.
func TestValidatorsFindPlantedBugs(t *testing.T) {
	everything := WatchRequest{Key: "\x00", End: "\x00", Revision: 2, PrevKV: true}
	events := func(w *Watch) (at []int) { // responses with events
		for i, r := range w.Responses {
			if len(r.Events) > 0 {
				at = append(at, i)
			}
		}
		return at
	}
	for _, c := range []struct {
		validator, bug string
		request        WatchRequest
		plant          func(d *double, w *Watch)
		also           []string // validators that must find it as well
	}{
		{"filter", "an event of a key outside of the range", WatchRequest{Key: "k1", End: "k4", Revision: 2}, func(_ *double, w *Watch) { w.Request.End = "k3" }, nil},
		{"filter", "a deletion in spite of the filter", everything, func(_ *double, w *Watch) { w.Request.NoDelete = true }, nil},
		{"ordered", "two responses change places", everything, func(_ *double, w *Watch) {
			at := events(w)
			w.Responses[at[8]], w.Responses[at[9]] = w.Responses[at[9]], w.Responses[at[8]]
		}, nil},
		{"ordered", "a header behind its events", everything, func(_ *double, w *Watch) { w.Responses[events(w)[5]].Revision-- }, nil},
		{"unique", "a response comes twice", everything, func(_ *double, w *Watch) {
			i := events(w)[7]
			w.Responses = slices.Insert(w.Responses, i, w.Responses[i])
		}, nil},
		{"atomic", "a revision in two responses", everything, func(_ *double, w *Watch) {
			i := slices.IndexFunc(w.Responses, func(r WatchResponse) bool { return len(r.Events) > 1 })
			r := w.Responses[i]
			rest := r
			r.Events, rest.Events = r.Events[:1], r.Events[1:]
			w.Responses[i] = r
			w.Responses = slices.Insert(w.Responses, i+1, rest)
		}, nil},
		{"reliable", "a gap", everything, func(_ *double, w *Watch) {
			i := events(w)[6]
			w.Responses = slices.Delete(w.Responses, i, i+1)
		}, nil},
		{"reliable", "part of a revision", everything, func(_ *double, w *Watch) {
			i := slices.IndexFunc(w.Responses, func(r WatchResponse) bool { return len(r.Events) > 1 })
			w.Responses[i].Events = w.Responses[i].Events[1:]
		}, nil},
		{"reliable", "another value", everything, func(_ *double, w *Watch) {
			i := slices.IndexFunc(w.Responses, func(r WatchResponse) bool { return len(r.Events) > 0 && r.Events[0].Type == mvccpb.Event_PUT })
			w.Responses[i].Events[0].Kv.Value = []byte("other")
		}, nil},
		{"reliable", "the end never comes", everything, func(_ *double, w *Watch) { w.Responses = w.Responses[:events(w)[20]] }, nil},
		{"resumable", "a watch from a revision begins behind it", everything, func(_ *double, w *Watch) { w.Responses = w.Responses[events(w)[3]:] }, nil},
		{"resumable", "a watch on a future revision gets an old event", everything, func(_ *double, w *Watch) { w.Request.Revision = 3 }, nil},
		{"resumable", "compacted by nobody", everything, func(_ *double, w *Watch) {
			w.Responses = append(w.Responses, WatchResponse{Canceled: true, CompactRevision: 1 << 40, Error: "compacted"})
		}, nil},
		{"resumable", "ended without a reason", everything, func(_ *double, w *Watch) {
			w.Responses = append(w.Responses, WatchResponse{Canceled: true, Error: "overloaded"})
		}, nil},
		{"bookmarkable", "a progress notification overtakes an event", WatchRequest{Key: "\x00", End: "\x00", Revision: 2, ProgressNotify: true}, func(_ *double, w *Watch) {
			i := slices.IndexFunc(w.Responses, func(r WatchResponse) bool { return r.Progress })
			w.Responses[i-1], w.Responses[i] = w.Responses[i], w.Responses[i-1]
		}, nil},
		{"bookmarkable", "progress goes back", WatchRequest{Key: "\x00", End: "\x00", Revision: 2, ProgressNotify: true}, func(_ *double, w *Watch) {
			w.Responses = append(w.Responses, WatchResponse{Revision: 5, Progress: true})
		}, nil},
		{"prev_kv", "the previous value of another revision", everything, func(_ *double, w *Watch) {
			i := slices.IndexFunc(w.Responses, func(r WatchResponse) bool { return len(r.Events) > 0 && r.Events[0].PrevKv != nil })
			w.Responses[i].Events[0].PrevKv.Version++
		}, nil},
		{"prev_kv", "no previous value where there is one", everything, func(_ *double, w *Watch) {
			i := slices.IndexFunc(w.Responses, func(r WatchResponse) bool { return len(r.Events) > 0 && r.Events[0].PrevKv != nil })
			w.Responses[i].Events[0].PrevKv = nil
		}, nil},
		{"is-create", "an update says that it created the key", everything, func(_ *double, w *Watch) {
			i := slices.IndexFunc(w.Responses, func(r WatchResponse) bool {
				return len(r.Events) > 0 && r.Events[0].Type == mvccpb.Event_PUT && r.Events[0].Kv.Version > 1
			})
			w.Responses[i].Events[0].Kv.CreateRevision = w.Responses[i].Events[0].Kv.ModRevision
		}, []string{"reliable"}},
	} {
		t.Run(c.validator+"/"+c.bug, func(t *testing.T) {
			d := newDouble(t)
			d.run(1, 300)
			ev := &Evidence{Log: d.log(), Operations: d.operations, Complete: true}
			w := d.watch(c.request)
			if got := failing(ev, w); got != nil {
				t.Fatalf("the watch is good, and fails %v", got)
			}
			c.plant(d, w)
			want := append(slices.Clone(c.also), c.validator)
			if got := failing(ev, w); !sameSet(got, want) {
				t.Errorf("fails %v, want %v: %v", got, want, CheckWatch(ev, w))
			}
		})
	}
	for _, v := range Validators {
		if v.Promises == "" || v.Name == "" {
			t.Errorf("a validator without a name or a promise: %+v", v)
		}
	}
}

// TestCompactedWatchIsGood: a watch that is told of a compaction that somebody asked for has kept its promise.
func TestCompactedWatchIsGood(t *testing.T) {
	d := newDouble(t)
	for i := range 10 {
		d.do(put("a", fmt.Sprint(i)))
	}
	d.do(Request{Compact: &pb.CompactionRequest{Revision: 8}})
	w := &Watch{Request: WatchRequest{Key: "a", Revision: 3}, Responses: []WatchResponse{{Time: d.now, Canceled: true, CompactRevision: 8, Error: "compacted"}}}
	if err := CheckWatch(&Evidence{Log: d.log(), Operations: d.operations, Complete: true}, w); err != nil {
		t.Error(err)
	}
	w.Request.Revision = 8
	if err := CheckWatch(&Evidence{Log: d.log(), Operations: d.operations, Complete: true}, w); err == nil {
		t.Error("a watch from the compact revision on lacks nothing, and was ended")
	}
}

// TestWatchAheadOfTheLog: a watch that has seen more than the log is judged up to where the log goes.
func TestWatchAheadOfTheLog(t *testing.T) {
	d := newDouble(t)
	for i := range 5 {
		d.do(put("a", fmt.Sprint(i)))
	}
	ev := &Evidence{Log: d.log(), Operations: d.operations}
	d.do(put("a", "later"))
	w := d.watch(WatchRequest{Key: "a", Revision: 2})
	if err := CheckWatch(ev, w); err == nil {
		t.Error("the log has nothing of the last event, and nobody noticed")
	}
	cut := w.Until(ev.Log.Last())
	if err := CheckWatch(ev, cut); err != nil {
		t.Error(err)
	}
	var events int
	for _, r := range cut.Responses {
		events += len(r.Events)
	}
	if events != 5 || w.Until(ev.Log.Last()+1) != w {
		t.Errorf("%d events up to %d", events, ev.Log.Last())
	}
}

func sameSet(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}
