package mvcc

import (
	"errors"
	"fmt"
	"sync"

	"github.com/cockroachdb/pebble/v2"
)

// Pin keeps the state of a store at one instant readable for long: history is
// not collected under it, and, unlike a Snapshot, it holds no memory, only files
// that would otherwise be given back. It must be closed. It does not keep the
// store from being closed: that ends the pin, and snapshots of it answer
// ErrClosed from then on.
type Pin struct {
	store *Store
	g     *generation
	meta  meta

	// mu is held while snap is used, so that it is not closed meanwhile.
	mu   sync.Mutex
	snap *pebble.Snapshot
}

// NewPin pins the store as of its last committed batch.
func (s *Store) NewPin() (*Pin, error) {
	g, err := s.acquire()
	if err != nil {
		return nil, err
	}
	s.engine.bulk.begin(s.engine)
	p := &Pin{store: s, g: g, snap: g.db.NewSnapshot()}
	if err := p.readMeta(); err != nil {
		p.release()
		return nil, err
	}
	if !s.pins.add(p) {
		p.release()
		return nil, ErrClosed
	}
	return p, nil
}

// readMeta reads the store's record as the pin sees it.
func (p *Pin) readMeta() error {
	v, closer, err := p.snap.Get(metaKey)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil
	}
	if err != nil {
		return diskError("read store record", err)
	}
	var ok bool
	if p.meta, ok = decodeMeta(v); !ok {
		err = corruptf("store record %x", v)
	}
	return errors.Join(err, diskError("read store record", closer.Close()))
}

// AppliedIndex returns the raft index that the pin contains.
func (p *Pin) AppliedIndex() uint64 { return p.meta.applied }

// CompactRevision returns the lowest revision that the pin can be read at.
func (p *Pin) CompactRevision() int64 { return p.meta.compact }

// NewSnapshot returns a snapshot of the pinned instant. Of its reads only
// GetLocal, ScanLocal, Get and Versions know nothing but the pin; Count and Events also look
// at what the store keeps in memory about now, and must not be used.
func (p *Pin) NewSnapshot() *Snapshot {
	sn := &Snapshot{store: p.store, meta: p.meta}
	sn.row = sn.rowBuf[:0]
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.snap == nil || !p.g.acquire() {
		sn.err = ErrClosed
		return sn
	}
	sn.g = p.g
	it, err := p.snap.NewIter(&pointOptions)
	if err != nil {
		sn.err = diskError("open iterator", err)
		return sn
	}
	sn.it = it
	return sn
}

// Close ends the pin. Closing twice is allowed.
func (p *Pin) Close() {
	p.store.pins.remove(p)
	p.release()
}

func (p *Pin) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.snap == nil {
		return
	}
	if err := p.snap.Close(); err != nil {
		// Pebble has no way to fail here but by a state that must not be.
		p.store.fail(fmt.Errorf("mvcc: close pin: %w", err))
	}
	p.snap = nil
	p.g.release()
	p.store.engine.bulk.end()
}

// pinSet are the open pins of a store.
type pinSet struct {
	mu     sync.Mutex
	closed bool
	pins   map[*Pin]struct{}
}

func (s *pinSet) add(p *Pin) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	if s.pins == nil {
		s.pins = make(map[*Pin]struct{})
	}
	s.pins[p] = struct{}{}
	return true
}

func (s *pinSet) remove(p *Pin) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pins, p)
}

// close ends all pins, and refuses new ones.
func (s *pinSet) close() {
	s.mu.Lock()
	s.closed = true
	pins := s.pins
	s.pins = nil
	s.mu.Unlock()
	for p := range pins {
		p.release()
	}
}
