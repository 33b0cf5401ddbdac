package etcdfile

import (
	"context"
	"hash/crc32"
)

// Status is what `snapshot status` shows of a file; it is what etcdutl shows.
type Status struct {
	// Hash covers every row of every bucket.
	Hash uint32 `json:"hash"`
	// Revision is the largest one of a row.
	Revision int64 `json:"revision"`
	// TotalKey is the number of keys that exist at that revision.
	TotalKey int `json:"totalKey"`
	// TotalSize is the size of the database in bytes.
	TotalSize int64  `json:"totalSize"`
	Version   string `json:"version"`
}

// Status reads the whole file.
func (r *Reader) Status(ctx context.Context) (Status, error) {
	s := Status{TotalSize: int64(r.pages.count) * r.pages.pageSize}
	if _, err := r.Contents(ctx); err != nil {
		return s, err
	}
	err := r.bucket(ctx, BucketMeta, func(key, value []byte) error {
		if string(key) == metaStorageVersion {
			s.Version = string(value)
		}
		return nil
	})
	if err != nil {
		return s, err
	}
	h := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	for _, b := range r.buckets {
		// Writing to a hash cannot fail.
		_, _ = h.Write([]byte(b.name))
		if err := r.bucket(ctx, b.name, func(key, value []byte) error {
			_, _ = h.Write(key)
			_, _ = h.Write(value)
			return nil
		}); err != nil {
			return s, err
		}
	}
	s.Hash = h.Sum32()
	live := NewKeySet()
	err = r.Rows(ctx, func(rev Revision, kv *KeyValue) error {
		s.Revision = rev.Main
		if rev.Tombstone {
			live.Remove(kv.Key)
		} else {
			live.Add(kv.Key)
		}
		return nil
	})
	s.TotalKey = len(live.keys)
	return s, err
}
