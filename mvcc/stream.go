package mvcc

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"

	"github.com/cockroachdb/pebble/v2"

	"github.com/kvd-io/kvd/mvcc/keyspace"
)

// A replica stream is a header and frames. Each frame is the length of its
// payload and the CRC-32C of it (4 bytes each, big endian), and the payload:
// rows of the store, in order, as (key length, key, value length, value) with
// lengths as uvarints. A frame of length 0, whose checksum field is the CRC-32C
// of the number of rows in 8 bytes, followed by that number, ends the stream.
const (
	streamHeader = "kvd-mvcc-stream-1\n"
	// frameBytes is about what a frame carries; a larger row has a frame of its
	// own.
	frameBytes = 128 << 10
	// maxFrameBytes bounds what a reader accepts.
	maxFrameBytes = 256 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// WriteSnapshot writes the whole state of a snapshot of this store, local
// records and the store's own record included, until stop is closed.
func (s *Store) WriteSnapshot(sn *Snapshot, w io.Writer, stop <-chan struct{}) error {
	if sn.err != nil {
		return sn.err
	}
	if sn.store != s {
		return errors.New("mvcc: snapshot of another store")
	}
	out := &frameWriter{w: bufio.NewWriterSize(w, 2*frameBytes)}
	if _, err := out.w.WriteString(streamHeader); err != nil {
		return fmt.Errorf("mvcc: write replica stream: %w", err)
	}
	rows := 0
	err := sn.scanRows(nil, nil, func(it *pebble.Iterator) error {
		if rows++; rows%checkEvery == 0 {
			if err := s.proceed(stop); err != nil {
				return err
			}
		}
		v, err := it.ValueAndErr()
		if err != nil {
			return diskError("read row", err)
		}
		return out.row(it.Key(), v)
	})
	if err == nil {
		err = out.end()
	}
	if err != nil {
		return fmt.Errorf("mvcc: write replica stream: %w", err)
	}
	return nil
}

// proceed tells whether a long operation may go on.
func (s *Store) proceed(stop <-chan struct{}) error {
	select {
	case <-stop:
		return ErrStopped
	default:
		return s.isOpen()
	}
}

// frameWriter packs rows into frames.
type frameWriter struct {
	w    *bufio.Writer
	buf  []byte
	rows uint64
}

func (f *frameWriter) row(key, value []byte) error {
	if len(f.buf) > 0 && len(f.buf)+len(key)+len(value) > frameBytes {
		if err := f.flush(); err != nil {
			return err
		}
	}
	f.buf = binary.AppendUvarint(f.buf, uint64(len(key)))
	f.buf = append(f.buf, key...)
	f.buf = binary.AppendUvarint(f.buf, uint64(len(value)))
	f.buf = append(f.buf, value...)
	if len(f.buf) > maxFrameBytes {
		return fmt.Errorf("row of %d bytes", len(f.buf))
	}
	f.rows++
	return nil
}

func (f *frameWriter) flush() error {
	var head [8]byte
	binary.BigEndian.PutUint32(head[:], uint32(len(f.buf)))
	binary.BigEndian.PutUint32(head[4:], crc32.Checksum(f.buf, castagnoli))
	if _, err := f.w.Write(head[:]); err != nil {
		return err
	}
	_, err := f.w.Write(f.buf)
	f.buf = f.buf[:0]
	return err
}

func (f *frameWriter) end() error {
	if len(f.buf) > 0 {
		if err := f.flush(); err != nil {
			return err
		}
	}
	var tail [16]byte
	binary.BigEndian.PutUint64(tail[8:], f.rows)
	binary.BigEndian.PutUint32(tail[4:], crc32.Checksum(tail[8:], castagnoli))
	if _, err := f.w.Write(tail[:]); err != nil {
		return err
	}
	return f.w.Flush()
}

// frameReader unpacks and checks a replica stream. No input makes it panic, or
// allocate much more than was received.
type frameReader struct {
	r    io.Reader
	buf  bytes.Buffer
	rows uint64
	last []byte
	// meta is the store's record, which every stream of a store that was ever
	// written to has.
	meta    meta
	hasMeta bool
}

// header checks the beginning of the stream.
func (f *frameReader) header() error {
	got := make([]byte, len(streamHeader))
	if _, err := io.ReadFull(f.r, got); err != nil {
		return fmt.Errorf("read header: %w", err)
	}
	if string(got) != streamHeader {
		return corruptf("not a replica stream: it begins with %q", got)
	}
	return nil
}

// frame reads one frame and calls fn on its rows. done tells that it was the
// last one.
func (f *frameReader) frame(fn func(key, value []byte) error) (done bool, err error) {
	var head [8]byte
	if _, err := io.ReadFull(f.r, head[:]); err != nil {
		return false, fmt.Errorf("read frame: %w", unexpectedEOF(err))
	}
	size, sum := binary.BigEndian.Uint32(head[:]), binary.BigEndian.Uint32(head[4:])
	if size == 0 {
		return true, f.trailer(sum)
	}
	if size > maxFrameBytes {
		return false, corruptf("frame of %d bytes", size)
	}
	f.buf.Reset()
	if _, err := io.CopyN(&f.buf, f.r, int64(size)); err != nil {
		return false, fmt.Errorf("read frame: %w", unexpectedEOF(err))
	}
	b := f.buf.Bytes()
	if got := crc32.Checksum(b, castagnoli); got != sum {
		return false, corruptf("frame checksum %08x, want %08x", got, sum)
	}
	for len(b) > 0 {
		var key, value []byte
		var ok bool
		if key, b, ok = takeBytes(b); ok {
			value, b, ok = takeBytes(b)
		}
		if !ok {
			return false, corruptf("truncated row in frame")
		}
		if err := f.check(key, value); err != nil {
			return false, err
		}
		if err := fn(key, value); err != nil {
			return false, err
		}
	}
	return false, nil
}

func (f *frameReader) trailer(sum uint32) error {
	var tail [8]byte
	if _, err := io.ReadFull(f.r, tail[:]); err != nil {
		return fmt.Errorf("read end: %w", unexpectedEOF(err))
	}
	if crc32.Checksum(tail[:], castagnoli) != sum {
		return corruptf("checksum of the end")
	}
	if n := binary.BigEndian.Uint64(tail[:]); n != f.rows {
		return corruptf("%d rows, want %d", f.rows, n)
	}
	if f.rows > 0 && !f.hasMeta {
		return corruptf("no store record")
	}
	return nil
}

// check accepts the rows that a store consists of, in their order.
func (f *frameReader) check(key, value []byte) error {
	if f.rows > 0 && compareRows(f.last, key) >= 0 {
		return corruptf("row %x after %x", key, f.last)
	}
	f.rows++
	f.last = append(f.last[:0], key...)
	ok := false
	switch {
	case bytes.Equal(key, metaKey):
		f.meta, ok = decodeMeta(value)
		f.hasMeta = ok
	case bytes.Equal(key, collectedKey):
		_, _, ok = decodeCollected(value)
	case bytes.Equal(key, sweepKey):
		_, ok = decodeSweeps(value)
	case len(key) > 0 && key[0] == localPrefix:
		_, ok = decodeLocalKey(key)
	case len(key) > 0 && key[0] == indexPrefix:
		if _, _, ok = decodeIndexKey(key); ok {
			_, _, ok = decodeIndexValue(value)
		}
	case len(key) > 0 && key[0] == leasePrefix:
		_, _, ok = decodeLeaseKey(key)
	case keyspace.Valid(key):
		var mod int64
		if _, mod, ok = decodeVersionKey(key); ok {
			_, ok = decodeVersion(value, mod)
		}
	}
	if !ok {
		return corruptf("row %x", key)
	}
	return nil
}

// takeBytes takes length-prefixed bytes off the front of b.
func takeBytes(b []byte) (head, rest []byte, ok bool) {
	u, n := binary.Uvarint(b)
	if n <= 0 || u > math.MaxInt32 || int(u) > len(b)-n {
		return nil, nil, false
	}
	b = b[n:]
	return b[:u:u], b[u:], true
}

func unexpectedEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
