package etcdfile

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
)

// Reader reads a snapshot file. It is used by one goroutine at a time.
type Reader struct {
	f *os.File
	// size is that of the database, without the checksum.
	size    int64
	summed  bool
	pages   *pages
	buckets []namedBucket
}

// namedBucket is a bucket and the value of the row that names it.
type namedBucket struct {
	name  string
	value []byte
}

const (
	// sectorLen divides the size of every database; what is left over is the
	// checksum, as etcd tells them apart.
	sectorLen = 512
	// maxBuckets bounds what a file may name; etcd has ten.
	maxBuckets = 64
	// maxSmall bounds a row that is kept in memory.
	maxSmall = 64 << 20
	// checkEvery is the number of rows between two looks at the context.
	checkEvery = 1024
)

// Open opens a snapshot file, or a database copied out of a data directory, and
// reads which buckets it has.
func Open(path string) (*Reader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open snapshot file: %w", err)
	}
	r := &Reader{f: f}
	if err := r.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	return r, nil
}

func (r *Reader) open() error {
	info, err := r.f.Stat()
	if err != nil {
		return fmt.Errorf("open snapshot file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%w: it is no regular file", ErrNotSnapshot)
	}
	r.size = info.Size()
	if r.size%sectorLen == sha256.Size {
		r.size, r.summed = r.size-sha256.Size, true
	}
	if r.pages, err = openPages(r.f, r.size); err != nil {
		return err
	}
	r.pages.forget()
	return r.pages.walk(r.pages.root, func(key, value []byte, nested bool) error {
		switch {
		case !nested:
			return corruptf("row %q beside the buckets", short(key))
		case len(r.buckets) == maxBuckets:
			return corruptf("more than %d buckets", maxBuckets)
		case len(value) > maxSmall:
			return corruptf("inline bucket of %d bytes", len(value))
		}
		r.buckets = append(r.buckets, namedBucket{string(key), bytes.Clone(value)})
		return nil
	})
}

// Close closes the file.
func (r *Reader) Close() error { return r.f.Close() }

// Size is that of the whole file, in bytes.
func (r *Reader) Size() int64 {
	if r.summed {
		return r.size + sha256.Size
	}
	return r.size
}

// VerifySum compares the file with its checksum. A file without one, as it is
// copied out of a data directory, is an error.
func (r *Reader) VerifySum(ctx context.Context) error {
	if !r.summed {
		return fmt.Errorf("%w: the checksum is missing; a database that was copied out of a data directory has none and wants --skip-hash-check", ErrCorrupt)
	}
	want := make([]byte, sha256.Size)
	if _, err := r.f.ReadAt(want, r.size); err != nil {
		return fmt.Errorf("read checksum: %w", err)
	}
	got, err := r.Sum(ctx)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%w: its SHA-256 is %x, and %x is written behind it", ErrCorrupt, got, want)
	}
	return nil
}

// Sum computes the SHA-256 of the database.
func (r *Reader) Sum(ctx context.Context) ([]byte, error) {
	h := sha256.New()
	if _, err := io.Copy(h, &ctxReader{ctx, io.NewSectionReader(r.f, 0, r.size)}); err != nil {
		return nil, fmt.Errorf("read snapshot file: %w", err)
	}
	return h.Sum(nil), nil
}

type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *ctxReader) Read(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(b)
}

// bucket visits the rows of a bucket; a bucket that is missing is empty.
func (r *Reader) bucket(ctx context.Context, name string, fn func(key, value []byte) error) error {
	for _, b := range r.buckets {
		if b.name == name {
			if err := r.pages.bucket(b.value, plainRows(ctx, fn)); err != nil {
				return fmt.Errorf("bucket %q: %w", name, err)
			}
		}
	}
	return nil
}

// plainRows refuses buckets inside a bucket, of which etcd has none.
func plainRows(ctx context.Context, fn func(key, value []byte) error) visit {
	n := 0
	return func(key, value []byte, nested bool) error {
		if nested {
			return corruptf("bucket %q inside it", short(key))
		}
		if n++; n%checkEvery == 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		return fn(key, value)
	}
}

// has tells whether the file has a bucket.
func (r *Reader) has(name string) bool {
	for _, b := range r.buckets {
		if b.name == name {
			return true
		}
	}
	return false
}

// Rows calls fn with every version of every key in the order of revisions. What
// it is given is well formed: revisions are positive, a put has a key, the
// revision of its row, a creation at or before that, and a version; a deletion
// has a key. Rows that carry nothing but a revision have no key. The bytes are
// valid only during the call.
func (r *Reader) Rows(ctx context.Context, fn func(Revision, *KeyValue) error) error {
	return r.bucket(ctx, BucketKey, func(key, value []byte) error {
		rev, err := ParseRevision(key)
		if err != nil {
			return err
		}
		kv, err := ParseKeyValue(value)
		if err != nil {
			return fmt.Errorf("revision %d/%d: %w", rev.Main, rev.Sub, err)
		}
		bare := len(kv.Key) == 0 && (rev.Tombstone || len(value) == 0)
		switch {
		case rev.Main < 1:
			return corruptf("revision %d", rev.Main)
		case bare || (rev.Tombstone && len(kv.Key) > 0):
		case len(kv.Key) == 0:
			return corruptf("revision %d/%d puts no key", rev.Main, rev.Sub)
		case kv.Mod != rev.Main || kv.Create < 1 || kv.Create > kv.Mod || kv.Version < 1 || kv.Version > kv.Mod:
			return corruptf("revision %d/%d puts key %q as modified at %d, created at %d, version %d",
				rev.Main, rev.Sub, short(kv.Key), kv.Mod, kv.Create, kv.Version)
		}
		return fn(rev, &kv)
	})
}
