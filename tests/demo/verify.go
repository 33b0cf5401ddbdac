package main

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// pageKeys is the number of keys that a paged scan asks for at a time.
const pageKeys = 3000

// history is what happened, as the puts and the watches tell it together: in the order of revisions, each once.
type history struct {
	model  *model
	puts   []put
	events []seen
	first  int64 // the revision that the first event must have
}

// checkAnswered proves that every answered put happened once, at the revision that was answered, and that nothing else happened
// but puts of unknown fate.
func (h *history) checkAnswered() (resolved int, err error) {
	at := make([]int64, len(h.puts))
	for _, e := range h.events {
		p := h.puts[e.put]
		switch {
		case at[e.put] != 0:
			return 0, fmt.Errorf("put %d happened twice, at revisions %d and %d", e.put, at[e.put], e.revision)
		case p.fate == acked && p.revision != e.revision:
			return 0, fmt.Errorf("put %d was answered with revision %d but is seen at %d", e.put, p.revision, e.revision)
		case p.fate == unknown:
			resolved++
		}
		at[e.put] = e.revision
	}
	for n, p := range h.puts {
		if p.fate == acked && at[n] == 0 {
			return 0, fmt.Errorf("put %d was answered with revision %d, no watch saw it", n, p.revision)
		}
	}
	return resolved, nil
}

// checkRealTime proves the order of revisions: a put that began after another was answered has the larger revision.
func (h *history) checkRealTime() error {
	type edge struct {
		at    int64
		start bool
		rev   int64
	}
	var edges []edge
	for _, p := range h.puts {
		if p.fate == acked {
			edges = append(edges, edge{int64(p.started), true, p.revision}, edge{int64(p.ended), false, p.revision})
		}
	}
	sort.Slice(edges, func(i, j int) bool { return edges[i].at < edges[j].at })
	var known int64
	for _, e := range edges {
		if e.start && e.rev <= known {
			return fmt.Errorf("a put that began when revision %d had been answered got revision %d", known, e.rev)
		}
		if !e.start {
			known = max(known, e.rev)
		}
	}
	return nil
}

// checkSame proves that a watch saw what the first one saw.
func (h *history) checkSame(f *follower) error {
	events := f.list()
	if i := slices.IndexFunc(events, func(e seen) bool { return e.revision > h.events[len(h.events)-1].revision }); i >= 0 {
		events = events[:i]
	}
	if !slices.Equal(events, h.events) {
		n := min(len(events), len(h.events))
		for i := range n {
			if events[i] != h.events[i] {
				return fmt.Errorf("event %d is put %d at revision %d, another watch saw put %d at revision %d", i, events[i].put, events[i].revision, h.events[i].put, h.events[i].revision)
			}
		}
		return fmt.Errorf("%d events, another watch saw %d", len(events), len(h.events))
	}
	return nil
}

// version is a key as the model has it at some revision.
type version struct {
	put         int32
	create, mod int64
	version     int64
}

// at is the state of all keys at a revision; keys that did not exist are absent.
func (h *history) at(rev int64) map[string]version {
	state := map[string]version{}
	for _, e := range h.events {
		if e.revision > rev {
			break
		}
		key := h.model.stanzas[h.puts[e.put].stanza].key
		v := state[key]
		if v.create == 0 {
			v.create = e.revision
		}
		v.put, v.mod, v.version = e.put, e.revision, v.version+1
		state[key] = v
	}
	return state
}

// checkState compares what a scan gave, in its order, with the model's state.
func (h *history) checkState(kvs []*mvccpb.KeyValue, want map[string]version) error {
	if len(kvs) != len(want) {
		return fmt.Errorf("%d keys, the model has %d", len(kvs), len(want))
	}
	for i, kv := range kvs {
		key := string(kv.Key)
		if i > 0 && key <= string(kvs[i-1].Key) {
			return fmt.Errorf("key %q after %q", key, kvs[i-1].Key)
		}
		v, ok := want[key]
		if !ok {
			return fmt.Errorf("key %q should not be there", key)
		}
		n, err := h.model.identify(key, string(kv.Value))
		if err != nil {
			return err
		}
		if int32(n) != v.put || kv.CreateRevision != v.create || kv.ModRevision != v.mod || kv.Version != v.version {
			return fmt.Errorf("key %q: put %d, created %d, modified %d, version %d; the model has put %d, created %d, modified %d, version %d",
				key, n, kv.CreateRevision, kv.ModRevision, kv.Version, v.put, v.create, v.mod, v.version)
		}
	}
	return nil
}

// scanWay is one way to read the whole index at a revision; all must give the same.
type scanWay struct {
	name string
	scan func(ctx context.Context, cli *clientv3.Client, rev int64) ([]*mvccpb.KeyValue, error)
}

var scanWays = []scanWay{{"in pages", scanPages}, {"as a stream", scanStream}, {"in one answer", scanOnce}}

func scanPages(ctx context.Context, cli *clientv3.Client, rev int64) ([]*mvccpb.KeyValue, error) {
	var kvs []*mvccpb.KeyValue
	end := clientv3.GetPrefixRangeEnd(prefix)
	for from := prefix; ; {
		resp, err := cli.Get(ctx, from, clientv3.WithRange(end), clientv3.WithRev(rev), clientv3.WithLimit(pageKeys))
		if err != nil {
			return nil, err
		}
		if want := int64(len(resp.Kvs)); !resp.More && resp.Count != want || resp.More && resp.Count <= want {
			return nil, fmt.Errorf("a page of %d keys, count %d, more %v", want, resp.Count, resp.More)
		}
		kvs = append(kvs, resp.Kvs...)
		if !resp.More {
			return kvs, nil
		}
		from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

func scanStream(ctx context.Context, cli *clientv3.Client, rev int64) ([]*mvccpb.KeyValue, error) {
	stream, err := cli.GetStream(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(rev))
	if err != nil {
		return nil, err
	}
	resp, err := clientv3.GetStreamToGetResponse(stream)
	if err != nil {
		return nil, err
	}
	return resp.Kvs, nil
}

func scanOnce(ctx context.Context, cli *clientv3.Client, rev int64) ([]*mvccpb.KeyValue, error) {
	resp, err := cli.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(rev))
	if err != nil {
		return nil, err
	}
	return resp.Kvs, nil
}

// checks collects what was proved and what was not.
type checks struct {
	failed []string
}

func (c *checks) report(what string, err error) {
	if err == nil {
		fmt.Printf("  ok      %s\n", what)
		return
	}
	fmt.Printf("  FAILED  %s: %v\n", what, err)
	c.failed = append(c.failed, what)
}

func (c *checks) err() error {
	if len(c.failed) == 0 {
		return nil
	}
	return fmt.Errorf("%d checks failed: %s", len(c.failed), strings.Join(c.failed, "; "))
}
