package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// model is what the demo itself did: the dumb twin that the store is compared with.
type model struct {
	base    time.Time
	keys    []string // sorted, each once
	stanzas []stanza
	keyOf   []int32 // stanza -> key

	mu struct {
		sync.Mutex
		puts    []put
		acked   int
		unknown int
		maxRev  int64
		first   error // the first put that ended in an error
	}
}

// put is one put that was sent.
type put struct {
	stanza   int32
	fate     fate
	revision int64         // if answered
	started  time.Duration // since base
	ended    time.Duration // 0 while under way
}

type fate uint8

const (
	underway fate = iota
	acked
	unknown // it ended in an error: it may have happened, once, or not
)

// tag begins the last line of every value; the put's number follows.
const tag = "X-Demo-Put: "

func newModel(stanzas []stanza) *model {
	m := &model{base: time.Now(), stanzas: stanzas}
	for _, s := range stanzas {
		m.keys = append(m.keys, s.key)
	}
	slices.Sort(m.keys)
	m.keys = slices.Compact(m.keys)
	for _, s := range stanzas {
		i, _ := slices.BinarySearch(m.keys, s.key)
		m.keyOf = append(m.keyOf, int32(i))
	}
	return m
}

// begin registers a put of a stanza and gives its number, key and value.
func (m *model) begin(st int) (n int, key, value string) {
	m.mu.Lock()
	n = len(m.mu.puts)
	m.mu.puts = append(m.mu.puts, put{stanza: int32(st), started: time.Since(m.base)})
	m.mu.Unlock()
	return n, m.stanzas[st].key, m.value(st, n)
}

func (m *model) value(st, n int) string { return m.stanzas[st].text + tag + strconv.Itoa(n) + "\n" }

// end registers the answer of put n.
func (m *model) end(n int, revision int64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := &m.mu.puts[n]
	p.ended = time.Since(m.base)
	if err != nil {
		p.fate = unknown
		m.mu.unknown++
		if m.mu.first == nil {
			m.mu.first = fmt.Errorf("put %d of %s: %w", n, m.stanzas[p.stanza].key, err)
		}
		return
	}
	p.fate, p.revision = acked, revision
	m.mu.acked++
	m.mu.maxRev = max(m.mu.maxRev, revision)
}

// counts tells how many puts were answered, how many ended in an error, and the first error.
func (m *model) counts() (answered, lost int, maxRev int64, first error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.acked, m.mu.unknown, m.mu.maxRev, m.mu.first
}

// identify finds the put that wrote a value and checks the value byte by byte.
func (m *model) identify(key, value string) (int, error) {
	i := strings.LastIndex(value, tag)
	if i < 0 {
		return 0, fmt.Errorf("key %q has a value that no put wrote", key)
	}
	n, err := strconv.Atoi(strings.TrimSuffix(value[i+len(tag):], "\n"))
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil || n < 0 || n >= len(m.mu.puts) {
		return 0, fmt.Errorf("key %q has a value that no put wrote", key)
	}
	st := m.mu.puts[n].stanza
	if m.stanzas[st].key != key || m.value(int(st), n) != value {
		return 0, fmt.Errorf("key %q does not have the value that put %d wrote", key, n)
	}
	return n, nil
}

// snapshot copies the puts.
func (m *model) snapshot() []put {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.mu.puts)
}

// now is the time in the model's terms.
func (m *model) now() time.Duration { return time.Since(m.base) }
