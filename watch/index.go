package watch

import (
	"bytes"
	"math/rand/v2"

	"github.com/kvd-io/kvd/mvcc/keyspace"
)

// index finds the watchers of a key. Watchers of the same span share a node:
// what is delivered to one of them is delivered to all. A node of one key is
// found through a map, the others through an interval tree (a treap in the order
// of the spans, in which every branch knows the largest end below it), so that
// the cost of an event does not depend on the watchers that it does not concern.
type index struct {
	keys map[string]*node
	root *branch
	// ranges finds the branch of a span that is there already.
	ranges map[spanKey]*node
	size   int
}

// spanKey is a span as a map key.
type spanKey struct{ start, end string }

func keyOf(s keyspace.Span) spanKey { return spanKey{string(s.Start), string(s.End)} }

// node holds the watchers of one span, gathered by stream so that a stream is
// locked once per delivery.
type node struct {
	span keyspace.Span
	sets []*streamSet
	at   map[*Stream]*streamSet
	// prevs counts the watchers that want previous values.
	prevs int
	// pending are the entries that the delivery under way has for the node.
	pending []*entry
}

// streamSet holds the watchers of one span on one stream.
type streamSet struct {
	stream   *Stream
	watchers []*watcher
	pos      int // in node.sets
}

// branch is a vertex of the interval tree.
type branch struct {
	node        *node
	maxEnd      []byte
	priority    uint64
	left, right *branch
}

func newIndex() *index {
	return &index{keys: map[string]*node{}, ranges: map[spanKey]*node{}}
}

// add puts a watcher in. It must not be there.
func (x *index) add(w *watcher) {
	n := x.find(w.span)
	if n == nil {
		n = &node{span: w.span, at: map[*Stream]*streamSet{}}
		if w.span.IsKey() {
			x.keys[string(w.span.Start)] = n
		} else {
			x.ranges[keyOf(w.span)] = n
			x.root = insert(x.root, &branch{node: n, maxEnd: n.span.End, priority: rand.Uint64()})
		}
	}
	set := n.at[w.stream]
	if set == nil {
		set = &streamSet{stream: w.stream, pos: len(n.sets)}
		n.at[w.stream] = set
		n.sets = append(n.sets, set)
	}
	w.slot = len(set.watchers)
	set.watchers = append(set.watchers, w)
	x.size++
	if w.mask&withPrev != 0 {
		n.prevs++
	}
}

// remove takes a watcher out; false if it is not there.
func (x *index) remove(w *watcher) bool {
	n := x.find(w.span)
	if n == nil {
		return false
	}
	set := n.at[w.stream]
	if set == nil || w.slot >= len(set.watchers) || set.watchers[w.slot] != w {
		return false
	}
	x.size--
	if w.mask&withPrev != 0 {
		n.prevs--
	}
	last := len(set.watchers) - 1
	set.watchers[w.slot] = set.watchers[last]
	set.watchers[w.slot].slot = w.slot
	set.watchers[last] = nil
	if set.watchers = set.watchers[:last]; last > 0 {
		return true
	}
	delete(n.at, w.stream)
	end := len(n.sets) - 1
	n.sets[set.pos] = n.sets[end]
	n.sets[set.pos].pos = set.pos
	n.sets[end] = nil
	if n.sets = n.sets[:end]; end > 0 {
		return true
	}
	if n.span.IsKey() {
		delete(x.keys, string(n.span.Start))
	} else {
		delete(x.ranges, keyOf(n.span))
		x.root = erase(x.root, n)
	}
	return true
}

func (x *index) find(span keyspace.Span) *node {
	if span.IsKey() {
		return x.keys[string(span.Start)]
	}
	return x.ranges[keyOf(span)]
}

// visit calls fn with every node whose span contains key.
func (x *index) visit(key []byte, fn func(*node)) {
	if n := x.keys[string(key)]; n != nil {
		fn(n)
	}
	stab(x.root, key, fn)
}

// concerns tells whether anybody watches key.
func (x *index) concerns(key []byte) bool {
	return x.keys[string(key)] != nil || hit(x.root, key)
}

// each calls fn with every watcher; fn must not change the index.
func (x *index) each(fn func(*watcher)) {
	for _, n := range x.keys {
		n.each(fn)
	}
	for _, n := range x.ranges {
		n.each(fn)
	}
}

func (n *node) each(fn func(*watcher)) {
	for _, set := range n.sets {
		for _, w := range set.watchers {
			fn(w)
		}
	}
}

func compareSpans(a, b keyspace.Span) int {
	if c := bytes.Compare(a.Start, b.Start); c != 0 {
		return c
	}
	return bytes.Compare(a.End, b.End)
}

// fix recomputes what a branch knows of those below it.
func (b *branch) fix() *branch {
	b.maxEnd = b.node.span.End
	for _, c := range [...]*branch{b.left, b.right} {
		if c != nil && bytes.Compare(c.maxEnd, b.maxEnd) > 0 {
			b.maxEnd = c.maxEnd
		}
	}
	return b
}

func insert(t, b *branch) *branch {
	if t == nil {
		return b
	}
	if compareSpans(b.node.span, t.node.span) < 0 {
		if t.left = insert(t.left, b); t.left.priority > t.priority {
			l := t.left
			t.left, l.right = l.right, t
			t.fix()
			return l.fix()
		}
	} else if t.right = insert(t.right, b); t.right.priority > t.priority {
		r := t.right
		t.right, r.left = r.left, t
		t.fix()
		return r.fix()
	}
	return t.fix()
}

func erase(t *branch, n *node) *branch {
	switch {
	case t == nil:
		return nil
	case t.node == n:
		return join(t.left, t.right)
	case compareSpans(n.span, t.node.span) < 0:
		t.left = erase(t.left, n)
	default:
		t.right = erase(t.right, n)
	}
	return t.fix()
}

// join makes one tree of two, all spans of l being smaller than those of r.
func join(l, r *branch) *branch {
	switch {
	case l == nil:
		return r
	case r == nil:
		return l
	case l.priority > r.priority:
		l.right = join(l.right, r)
		return l.fix()
	}
	r.left = join(l, r.left)
	return r.fix()
}

func stab(t *branch, key []byte, fn func(*node)) {
	for t != nil && bytes.Compare(key, t.maxEnd) < 0 {
		stab(t.left, key, fn)
		if bytes.Compare(t.node.span.Start, key) > 0 {
			return
		}
		if bytes.Compare(key, t.node.span.End) < 0 {
			fn(t.node)
		}
		t = t.right
	}
}

func hit(t *branch, key []byte) bool {
	for t != nil && bytes.Compare(key, t.maxEnd) < 0 {
		if hit(t.left, key) {
			return true
		}
		if bytes.Compare(t.node.span.Start, key) > 0 {
			return false
		}
		if bytes.Compare(key, t.node.span.End) < 0 {
			return true
		}
		t = t.right
	}
	return false
}
