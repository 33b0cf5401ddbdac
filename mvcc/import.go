package mvcc

import (
	"errors"
	"fmt"
	"sort"
)

// Import makes a new store out of the history of a span that somebody else kept:
// the beginning of a shard that is restored from a snapshot file. Its applied
// index is 0. It is used by one goroutine; nothing of it may be opened before
// Finish has returned.
type Import struct {
	store    *Store
	batch    *Batch
	rev, sub int64
}

// importBatch bounds a batch of an import, in bytes.
const importBatch = 1 << 20

// NewImport begins a store in dir, which must not exist.
func (e *Engine) NewImport(dir string) (*Import, error) {
	if exists, err := e.exists(dir); err != nil || exists {
		if err == nil {
			err = errors.New("it exists already")
		}
		return nil, diskError("import into "+dir, err)
	}
	s, err := e.Open(dir)
	if err != nil {
		return nil, err
	}
	return &Import{store: s}, nil
}

// Put writes what a revision did to a key. Revisions and, within one, sub-revisions
// rise; a revision changes a key once.
func (i *Import) Put(rev, sub int64, e *Effect) error {
	if rev < i.rev || (rev == i.rev && sub <= i.sub) || rev < 1 {
		return fmt.Errorf("mvcc: import of revision %d/%d after %d/%d", rev, sub, i.rev, i.sub)
	}
	i.rev, i.sub = rev, sub
	i.begin()
	i.batch.Put(rev, sub, e)
	// The live keys are counted when the store is opened again.
	i.batch.changes = i.batch.changes[:0]
	return i.room()
}

// SetLocal writes a local record.
func (i *Import) SetLocal(name, value []byte) error {
	i.begin()
	i.batch.SetLocal(name, value)
	return i.room()
}

func (i *Import) begin() {
	if i.batch == nil {
		i.batch = i.store.NewBatch()
		i.batch.importing = true
	}
}

// room commits a batch that is full.
func (i *Import) room() error {
	if i.batch.err != nil || i.batch.b.Len() >= importBatch {
		return i.commit()
	}
	return nil
}

// TrimLeases makes the lease index exact after the last Put: an import knows no
// version's predecessor, so keys that were attached once and are no more are
// still in it. Keys of leases that are not known go as well.
func (i *Import) TrimLeases(known func(lease int64) bool) error {
	if err := i.commit(); err != nil {
		return err
	}
	return i.store.trimLeased(func(sn *Snapshot, lease int64, key []byte) (bool, error) {
		if !known(lease) {
			return false, nil
		}
		h, err := sn.Head(key)
		return h.Exists && h.Lease == lease, err
	})
}

func (i *Import) commit() error {
	b := i.batch
	i.batch = nil
	if b == nil {
		return nil
	}
	if err := b.Commit(); err != nil {
		return err
	}
	if e := i.store.engine; e.unflushed.Load() > e.opts.MemtableBudget {
		e.flushLargest()
	}
	return nil
}

// Finish writes the compaction revision and the local records, makes the store
// durable and closes it.
func (i *Import) Finish(compact int64, local map[string][]byte) error {
	err := i.commit()
	if err == nil {
		b := i.store.NewBatch()
		b.SetCompactRevision(compact)
		names := make([]string, 0, len(local))
		for n := range local {
			names = append(names, n)
		}
		sort.Strings(names)
		for _, n := range names {
			b.SetLocal([]byte(n), local[n])
		}
		err = b.Commit()
	}
	if err == nil {
		err = i.store.Flush()
	}
	return errors.Join(err, i.store.Close())
}

// Abort gives the import up. What it wrote is left for the caller to remove.
func (i *Import) Abort() error {
	if i.batch != nil {
		i.batch.Close()
		i.batch = nil
	}
	return i.store.Close()
}
