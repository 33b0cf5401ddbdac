package placement

import "github.com/kvd-io/kvd/mvcc"

// storeStorage keeps the records as local records of a multi-version store,
// which gives atomic batches, an applied index and flushing.
type storeStorage struct{ store *mvcc.Store }

// NewStorage returns the storage that keeps its records in store, which it closes
// in the end.
func NewStorage(store *mvcc.Store) Storage { return storeStorage{store} }

func (s storeStorage) AppliedIndex() uint64 { return s.store.AppliedIndex() }

func (s storeStorage) Scan(fn func(name, value []byte) error) error {
	return s.store.ScanLocal([]byte(recordPrefix), fn)
}

func (s storeStorage) Write(applied uint64, changes []Record) error {
	b := s.store.NewBatch()
	defer b.Close()
	for _, c := range changes {
		if c.Value == nil {
			b.DeleteLocal(c.Name)
		} else {
			b.SetLocal(c.Name, c.Value)
		}
	}
	b.SetAppliedIndex(applied)
	return b.Commit()
}

func (s storeStorage) Sync() error { return s.store.Flush() }

func (s storeStorage) Close() error { return s.store.Close() }
