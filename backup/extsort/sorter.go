package extsort

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
)

// Options of a Sorter.
type Options struct {
	// Dir is where the runs go; it must exist and belong to the sorter alone.
	Dir string
	// Bytes bounds the rows in memory. 0 means DefaultBytes.
	Bytes int
	// MergeBytes bounds the buffers of a merge. 0 means DefaultMergeBytes.
	MergeBytes int
}

// Defaults of Options.
const (
	DefaultBytes      = 12 << 20
	DefaultMergeBytes = 12 << 20
)

const (
	// minBuffer is the smallest read buffer of a run; more runs than have room
	// for it are merged in several passes.
	minBuffer = 32 << 10
	maxBuffer = 256 << 10
	// rowOverhead is what a row takes in memory beside its bytes.
	rowOverhead = 32
	// checkEvery is the number of rows between two looks at the context.
	checkEvery = 4096
	// maxRow bounds what a run's header may claim.
	maxRow = 1 << 30
)

// Sorter takes rows in any order and gives them back sorted by key. One
// goroutine uses it.
type Sorter struct {
	opts  Options
	rows  []row
	arena []byte
	runs  []string
	made  int
}

// row is one row in the arena.
type row struct{ at, key, value int }

// New makes a sorter.
func New(o Options) *Sorter {
	if o.Bytes == 0 {
		o.Bytes = DefaultBytes
	}
	if o.MergeBytes == 0 {
		o.MergeBytes = DefaultMergeBytes
	}
	return &Sorter{opts: o}
}

// Add adds a row; the bytes are copied.
func (s *Sorter) Add(key, value []byte) error {
	need := len(key) + len(value) + rowOverhead
	if len(s.rows) > 0 && len(s.arena)+len(s.rows)*rowOverhead+need > s.opts.Bytes {
		if err := s.spill(); err != nil {
			return err
		}
	}
	if s.arena == nil {
		// Growing step by step would take twice the room.
		s.arena = make([]byte, 0, s.opts.Bytes)
	}
	s.rows = append(s.rows, row{at: len(s.arena), key: len(key), value: len(value)})
	s.arena = append(append(s.arena, key...), value...)
	return nil
}

func (s *Sorter) key(r row) []byte { return s.arena[r.at : r.at+r.key] }

func (s *Sorter) value(r row) []byte { return s.arena[r.at+r.key : r.at+r.key+r.value] }

// spill writes what is in memory as a run.
func (s *Sorter) spill() error {
	slices.SortStableFunc(s.rows, func(a, b row) int { return bytes.Compare(s.key(a), s.key(b)) })
	w, err := s.newRun()
	if err != nil {
		return err
	}
	for _, r := range s.rows {
		if err := w.add(s.key(r), s.value(r)); err != nil {
			return errors.Join(err, w.close())
		}
	}
	s.rows = s.rows[:0]
	if cap(s.arena) > 2*s.opts.Bytes {
		s.arena = nil
	} else {
		s.arena = s.arena[:0]
	}
	s.runs = append(s.runs, w.path)
	return w.close()
}

// Sort calls fn with all rows in order. The bytes are valid only during the
// call. Nothing may be added afterwards.
func (s *Sorter) Sort(ctx context.Context, fn func(key, value []byte) error) error {
	if len(s.rows) > 0 {
		if err := s.spill(); err != nil {
			return err
		}
	}
	s.rows, s.arena = nil, nil
	fan := max(s.opts.MergeBytes/minBuffer, 2)
	for len(s.runs) > fan {
		// The first runs are merged into one that takes their place, so that equal
		// rows keep their order.
		w, err := s.newRun()
		if err != nil {
			return err
		}
		if err := errors.Join(s.merge(ctx, s.runs[:fan], w.add), w.close()); err != nil {
			return err
		}
		if err := remove(s.runs[:fan]); err != nil {
			return err
		}
		s.runs = append([]string{w.path}, s.runs[fan:]...)
	}
	return s.merge(ctx, s.runs, fn)
}

// Close removes the runs.
func (s *Sorter) Close() error {
	s.rows, s.arena, s.runs = nil, nil, nil
	var errs []error
	for ; s.made > 0; s.made-- {
		// What a merge took in is gone already.
		if err := os.Remove(s.path(s.made - 1)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (s *Sorter) path(run int) string { return filepath.Join(s.opts.Dir, "run-"+strconv.Itoa(run)) }

func remove(paths []string) error {
	var errs []error
	for _, p := range paths {
		errs = append(errs, os.Remove(p))
	}
	return errors.Join(errs...)
}

// runWriter writes one run.
type runWriter struct {
	path string
	f    *os.File
	w    *bufio.Writer
	head []byte
}

func (s *Sorter) newRun() (*runWriter, error) {
	path := s.path(s.made)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("extsort: create run: %w", err)
	}
	s.made++
	return &runWriter{path: path, f: f, w: bufio.NewWriterSize(f, min(max(s.opts.Bytes, minBuffer), maxBuffer))}, nil
}

func (w *runWriter) add(key, value []byte) error {
	w.head = binary.AppendUvarint(w.head[:0], uint64(len(key)))
	w.head = binary.AppendUvarint(w.head, uint64(len(value)))
	for _, b := range [][]byte{w.head, key, value} {
		if _, err := w.w.Write(b); err != nil {
			return fmt.Errorf("extsort: write run: %w", err)
		}
	}
	return nil
}

func (w *runWriter) close() error {
	if err := errors.Join(w.w.Flush(), w.f.Close()); err != nil {
		return fmt.Errorf("extsort: write run: %w", err)
	}
	return nil
}

// runReader reads one run.
type runReader struct {
	f *os.File
	r *bufio.Reader
	// number is the place of the run among those that are merged.
	number     int
	buf        []byte
	key, value []byte
}

// next reads the next row; io.EOF behind the last.
func (r *runReader) next() error {
	k, err := binary.ReadUvarint(r.r)
	if errors.Is(err, io.EOF) {
		return io.EOF
	}
	v, verr := binary.ReadUvarint(r.r)
	if err = errors.Join(err, verr); err != nil || k > maxRow || v > maxRow {
		return fmt.Errorf("extsort: read run: row of %d and %d bytes: %w", k, v, err)
	}
	r.buf = slices.Grow(r.buf[:0], int(k+v))[:k+v]
	if _, err := io.ReadFull(r.r, r.buf); err != nil {
		return fmt.Errorf("extsort: read run: %w", err)
	}
	r.key, r.value = r.buf[:k], r.buf[k:]
	return nil
}
