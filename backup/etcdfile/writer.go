package etcdfile

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	bolt "go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"
)

const (
	// pageSize is what etcd's files have on the machines it supports.
	pageSize = 4096
	// batchBytes is what one transaction of the writer gathers in memory. Pages of
	// a batch cost several times their rows while it is committed.
	batchBytes = 1 << 20
	// fillPercent: rows come in order, so pages are never split again.
	fillPercent = 1.0
	// openPatience bounds the wait for the lock of a file that nobody else knows.
	openPatience = 5 * time.Second
)

// Writer writes the database of a snapshot. Rows and leases come in order. The
// file is a temporary one: nothing of it is durable.
type Writer struct {
	db      *bolt.DB
	tx      *bolt.Tx
	bucket  *bolt.Bucket
	name    string
	pending int
	last    []byte
}

// Create makes a new database.
func Create(path string) (*Writer, error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{
		Timeout: openPatience, NoGrowSync: true, NoFreelistSync: true, FreelistType: bolt.FreelistMapType, PageSize: pageSize,
	})
	if err != nil {
		return nil, fmt.Errorf("create snapshot file: %w", err)
	}
	db.NoSync = true
	w := &Writer{db: db}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, name := range buckets {
			if _, err := tx.CreateBucket([]byte(name)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("create snapshot file: %w", err), db.Close())
	}
	return w, nil
}

// Row adds a version of a key: its encoded revision and KeyValue.
func (w *Writer) Row(rev, kv []byte) error {
	if bytes.Compare(w.last, rev) >= 0 {
		return fmt.Errorf("write snapshot file: revision %x after %x", rev, w.last)
	}
	w.last = append(w.last[:0], rev...)
	return w.put(BucketKey, rev, kv)
}

// Lease adds a lease, in any order.
func (w *Writer) Lease(l Lease) error {
	return w.put(BucketLease, binary.BigEndian.AppendUint64(nil, uint64(l.ID)), appendLease(nil, &l))
}

// put adds a row. The bytes are copied.
func (w *Writer) put(bucket string, key, value []byte) error {
	if w.tx == nil {
		tx, err := w.db.Begin(true)
		if err != nil {
			return fmt.Errorf("write snapshot file: %w", err)
		}
		w.tx = tx
	}
	if w.name != bucket {
		w.name, w.bucket = bucket, w.tx.Bucket([]byte(bucket))
		w.bucket.FillPercent = fillPercent
	}
	// bbolt keeps the value until the transaction ends.
	if err := w.bucket.Put(key, bytes.Clone(value)); err != nil {
		return fmt.Errorf("write snapshot file: %w", err)
	}
	if w.pending += len(key) + len(value); w.pending >= batchBytes {
		return w.commit()
	}
	return nil
}

func (w *Writer) commit() error {
	tx := w.tx
	w.tx, w.bucket, w.name, w.pending = nil, nil, "", 0
	if tx == nil {
		return nil
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("write snapshot file: %w", err)
	}
	return nil
}

// Finish adds everything else.
func (w *Writer) Finish(c *Contents) error {
	var errs []error
	put := func(bucket, key string, value []byte) { errs = append(errs, w.put(bucket, []byte(key), value)) }
	number := func(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
	message := func(bucket string, key []byte, m proto.Message) {
		b, err := proto.Marshal(m)
		if key == nil {
			key, b = b, nil
		}
		put(bucket, string(key), b)
		errs = append(errs, err)
	}
	if c.CompactRevision > 0 {
		rev := AppendRevision(nil, Revision{Main: c.CompactRevision})
		put(BucketMeta, metaScheduledCompact, rev)
		put(BucketMeta, metaFinishedCompact, rev)
	}
	put(BucketMeta, metaConsistentIndex, number(max(c.ConsistentIndex, 1)))
	put(BucketMeta, metaTerm, number(max(c.Term, 1)))
	put(BucketMeta, metaStorageVersion, []byte(StorageVersion))
	state, err := confState(c.Members)
	errs = append(errs, err)
	put(BucketMeta, metaConfState, state)
	put(BucketCluster, clusterVersionKey, []byte(c.ClusterVersion))
	for i := range c.Members {
		b, err := json.Marshal(&c.Members[i])
		errs = append(errs, err)
		put(BucketMembers, string(memberKey(c.Members[i].ID)), b)
	}
	for _, a := range c.Alarms {
		message(BucketAlarm, nil, a)
	}
	enabled := []byte{0}
	if c.Auth.Enabled {
		enabled[0] = 1
	}
	put(BucketAuth, authEnabledKey, enabled)
	put(BucketAuth, authRevisionKey, number(max(c.Auth.Revision, 1)))
	for _, u := range c.Auth.Users {
		message(BucketAuthUsers, u.Name, u)
	}
	for _, r := range c.Auth.Roles {
		message(BucketAuthRoles, r.Name, r)
	}
	return errors.Join(append(errs, w.commit())...)
}

// Size is that of the database, in bytes, once it is finished.
func (w *Writer) Size() (size int64, err error) {
	err = w.db.View(func(tx *bolt.Tx) error {
		size = tx.Size()
		return nil
	})
	return size, err
}

// WriteTo writes the database, without a checksum, until ctx ends.
func (w *Writer) WriteTo(ctx context.Context, to io.Writer) error {
	return w.db.View(func(tx *bolt.Tx) error {
		_, err := tx.WriteTo(&ctxWriter{ctx, to})
		return err
	})
}

type ctxWriter struct {
	ctx context.Context
	w   io.Writer
}

func (c *ctxWriter) Write(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.w.Write(b)
}

// Close closes the database, finished or not.
func (w *Writer) Close() error {
	var err error
	if w.tx != nil {
		err = w.tx.Rollback()
		w.tx = nil
	}
	return errors.Join(err, w.db.Close())
}
