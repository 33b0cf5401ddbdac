package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// sample is a model of two packages with three answered puts, one that was lost, and one of unknown fate that happened.
func sample() (*model, *history) {
	m := newModel([]stanza{{prefix + "x/a", "Package: a\n"}, {prefix + "x/b", "Package: b\n"}})
	for i, p := range []struct {
		stanza int
		rev    int64
		err    error
	}{{0, 2, nil}, {1, 3, nil}, {0, 0, errors.New("lost")}, {1, 0, errors.New("unknown")}, {0, 6, nil}} {
		m.begin(p.stanza)
		m.end(i, p.rev, p.err)
	}
	return m, &history{model: m, puts: m.snapshot(), first: 2, events: []seen{{2, 0}, {3, 1}, {4, 3}, {6, 4}}}
}

func TestChecksTakeWhatHappened(t *testing.T) {
	m, h := sample()
	if n, err := h.checkAnswered(); err != nil || n != 1 {
		t.Errorf("%d resolved, %v", n, err)
	}
	if err := h.checkRealTime(); err != nil {
		t.Error(err)
	}
	kvs := []*mvccpb.KeyValue{
		{Key: []byte(prefix + "x/a"), Value: []byte(m.value(0, 4)), CreateRevision: 2, ModRevision: 6, Version: 2},
		{Key: []byte(prefix + "x/b"), Value: []byte(m.value(1, 3)), CreateRevision: 3, ModRevision: 4, Version: 2},
	}
	if err := h.checkState(kvs, h.at(6)); err != nil {
		t.Error(err)
	}
	if err := h.checkState(kvs, h.at(5)); err == nil {
		t.Error("the state at 6 was taken for the state at 5")
	}
	if err := h.checkState(kvs[:1], h.at(6)); err == nil {
		t.Error("a missing key was not missed")
	}
	if err := h.checkState([]*mvccpb.KeyValue{kvs[1], kvs[0]}, h.at(6)); err == nil {
		t.Error("keys out of order were taken")
	}
	kvs[0].Value = []byte("Package: a, changed\n" + tag + "4\n")
	if err := h.checkState(kvs, h.at(6)); err == nil {
		t.Error("a changed value was taken")
	}
}

func TestChecksFindWhatDidNot(t *testing.T) {
	for name, mutate := range map[string]func(*history){
		"an answered put is missing":      func(h *history) { h.events = h.events[1:] },
		"a put happened twice":            func(h *history) { h.events = append(h.events, seen{7, 3}) },
		"a put is at another revision":    func(h *history) { h.events[1].revision = 9 },
		"two puts have changed revisions": func(h *history) { h.events[0].put, h.events[1].put = 1, 0 },
	} {
		_, h := sample()
		mutate(h)
		if _, err := h.checkAnswered(); err == nil {
			t.Errorf("%s: not found", name)
		}
	}
	_, h := sample()
	h.puts[4].revision = 1
	if err := h.checkRealTime(); err == nil {
		t.Error("a later put with a smaller revision was not found")
	}
}

func TestFollowerRefuses(t *testing.T) {
	m, _ := sample()
	event := func(rev int64, key, value string) *clientv3.Event {
		return &clientv3.Event{Kv: &mvccpb.KeyValue{Key: []byte(key), Value: []byte(value), ModRevision: rev}}
	}
	key := prefix + "x/a"
	f := &follower{model: m}
	if err := f.take(event(5, key, m.value(0, 0)), 5); err != nil {
		t.Errorf("a good event: %v", err)
	}
	deleted := event(5, key, "")
	deleted.Type = mvccpb.Event_DELETE
	for name, ev := range map[string]*clientv3.Event{
		"an old revision":           event(4, key, m.value(0, 0)),
		"a delete":                  deleted,
		"a value of another key":    event(5, key, m.value(1, 1)),
		"a put that was never sent": event(5, key, "Package: a\n"+tag+"99\n"),
		"a value without a put":     event(5, key, "Package: a\n"),
		"a cut value":               event(5, key, strings.TrimPrefix(m.value(0, 0), "P")),
	} {
		if err := f.take(ev, 5); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func TestPeakRate(t *testing.T) {
	var puts []put
	for i := range 30 {
		puts = append(puts, put{fate: acked, ended: time.Duration(i) * 100 * time.Millisecond})
	}
	puts = append(puts, put{fate: acked, ended: 1500 * time.Millisecond}, put{fate: unknown, ended: 1500 * time.Millisecond})
	if got := peakRate(puts); got != 11 {
		t.Errorf("peak rate %d", got)
	}
}
