package mvcc

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/objstorage/objstorageprovider"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/zap"
)

// ingestSuffix marks the directory in which the tables of a generation are
// built.
const ingestSuffix = "-ingest"

// restoreTableBytes is the size of the tables that a stream becomes.
const restoreTableBytes = 32 << 20

// ReadSnapshot replaces the whole state of the store by that of a stream from
// WriteSnapshot, durably. The new state is built aside and then takes the place
// of the old one in one step, so that an error, stop or a crash at any moment
// leaves the old one. Snapshots that are open stay as they are.
//
// It belongs to the goroutine that writes.
func (s *Store) ReadSnapshot(r io.Reader, stop <-chan struct{}) error {
	s.replacing.Lock()
	defer s.replacing.Unlock()
	old := s.current.Load()
	if old == nil {
		return ErrClosed
	}
	if err := s.failure(); err != nil {
		return err
	}
	name, err := nextGeneration(old.name)
	if err != nil {
		return err
	}
	g, err := s.buildGeneration(name, r, stop)
	if err != nil {
		s.discard(name)
		return fmt.Errorf("mvcc: read replica stream: %w", err)
	}
	if err := s.marker.Move(name); err != nil {
		// Whether the marker moved is not known: to go on with either state
		// could mean to find the other after a restart.
		err = errors.Join(diskError("move generation marker", err), g.close())
		s.fail(err)
		return err
	}
	s.current.Store(g)
	s.replaced.Add(1)
	go func() {
		defer s.replaced.Done()
		if err := old.close(); err != nil {
			s.engine.log.Warn("replaced state did not close cleanly", zap.String("dir", s.dir), zap.Error(err))
		}
		s.discard(old.name)
	}()
	return nil
}

// nextGeneration returns the name that follows that of a generation.
func nextGeneration(name string) (string, error) {
	n, err := strconv.ParseUint(strings.TrimPrefix(name, generationPrefix), 10, 63)
	if err != nil {
		return "", corruptf("generation name %q", name)
	}
	return generationPrefix + strconv.FormatUint(n+1, 10), nil
}

// discard removes a generation that is not in use. What cannot be removed now is
// removed at the next start.
func (s *Store) discard(name string) {
	fs := s.engine.fs
	for _, n := range []string{name, name + ingestSuffix} {
		if err := fs.RemoveAll(fs.PathJoin(s.dir, n)); err != nil {
			s.engine.log.Warn("could not remove old state", zap.String("dir", s.dir), zap.Error(err))
		}
	}
}

// buildGeneration makes a durable generation out of a stream.
func (s *Store) buildGeneration(name string, r io.Reader, stop <-chan struct{}) (_ *generation, err error) {
	// What an earlier attempt left must not become a part of this one.
	fs := s.engine.fs
	for _, n := range []string{name, name + ingestSuffix} {
		if err := fs.RemoveAll(fs.PathJoin(s.dir, n)); err != nil {
			return nil, diskError("remove partial state", err)
		}
	}
	dir := fs.PathJoin(s.dir, name+ingestSuffix)
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return nil, diskError("make directory", err)
	}
	g, err := s.openGeneration(name)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.close())
		}
	}()
	t := &tableBuilder{fs: fs, dir: dir, opts: s.engine.pebbleOptions(s).MakeWriterOptions(6, g.db.TableFormat())}
	in := &frameReader{r: bufio.NewReaderSize(r, 2*frameBytes)}
	if err := in.header(); err != nil {
		return nil, err
	}
	for done := false; !done; {
		if err = s.proceed(stop); err == nil {
			done, err = in.frame(t.add)
		}
		if err != nil {
			// The table's error, if any, follows from this one.
			_ = t.finish()
			return nil, err
		}
	}
	if err := t.finish(); err != nil {
		return nil, err
	}
	if len(t.paths) > 0 {
		if err := g.db.Ingest(context.Background(), t.paths); err != nil {
			return nil, diskError("ingest tables", err)
		}
	}
	if err := fs.RemoveAll(dir); err != nil {
		return nil, diskError("remove directory", err)
	}
	if err := syncDir(fs, s.dir); err != nil {
		return nil, err
	}
	return g, g.load()
}

// tableBuilder turns rows, which come in order, into tables.
type tableBuilder struct {
	fs    vfs.FS
	dir   string
	opts  sstable.WriterOptions
	paths []string
	w     *sstable.Writer
}

func (t *tableBuilder) add(key, value []byte) error {
	if t.w != nil && t.w.Raw().EstimatedSize() > restoreTableBytes {
		if err := t.finish(); err != nil {
			return err
		}
	}
	if t.w == nil {
		path := t.fs.PathJoin(t.dir, strconv.Itoa(len(t.paths)))
		f, err := t.fs.Create(path, vfs.WriteCategoryUnspecified)
		if err != nil {
			return diskError("create table", err)
		}
		t.w = sstable.NewWriter(objstorageprovider.NewFileWritable(f), t.opts)
		t.paths = append(t.paths, path)
	}
	return diskError("write table", t.w.Set(key, value))
}

// finish makes the table that is being written durable.
func (t *tableBuilder) finish() error {
	if t.w == nil {
		return nil
	}
	err := t.w.Close()
	t.w = nil
	return diskError("finish table", err)
}
