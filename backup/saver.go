package backup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kvd-io/kvd/backup/etcdfile"
	"github.com/kvd-io/kvd/backup/extsort"
	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
)

const (
	// maxFiles bounds the saves that are built or being sent; one is built at a
	// time, because it is that which takes memory.
	maxFiles = 8
	// reopenMost bounds how often a shard whose replica went away is read on from
	// another one.
	reopenMost = 16
)

// Saver saves snapshots on one member. It is safe for concurrent use.
type Saver struct {
	cfg      Config
	files    chan struct{}
	building chan struct{}
}

// New makes a saver, and removes what an earlier process left in its directory.
func New(cfg Config) (*Saver, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	if err := os.RemoveAll(cfg.Dir); err != nil {
		return nil, fmt.Errorf("backup: remove what an unfinished snapshot left: %w", err)
	}
	return &Saver{cfg: cfg, files: make(chan struct{}, maxFiles), building: make(chan struct{}, 1)}, nil
}

// File is a snapshot that is ready to be sent.
type File struct {
	// Revision is what the file is consistent at.
	Revision int64
	// Size is in bytes, without the checksum.
	Size    int64
	w       *etcdfile.Writer
	dir     string
	release func()
}

// Version is the file's storage version.
func (f *File) Version() string { return etcdfile.StorageVersion }

// WriteTo writes the file's database, until ctx ends. Its SHA-256, which the file
// ends with, is left to the caller.
func (f *File) WriteTo(ctx context.Context, w interface{ Write([]byte) (int, error) }) error {
	return f.w.WriteTo(ctx, w)
}

// Close removes the file.
func (f *File) Close() error {
	err := errors.Join(f.w.Close(), os.RemoveAll(f.dir))
	f.release()
	return err
}

// Save builds a snapshot of the whole store as of now. Saves queue; when too many
// wait, it answers ResourceExhausted.
func (s *Saver) Save(ctx context.Context) (*File, error) {
	select {
	case s.files <- struct{}{}:
	default:
		return nil, status.Error(codes.ResourceExhausted, "kvd: too many snapshots are being saved on this member")
	}
	f, err := s.build(ctx)
	if err != nil {
		<-s.files
		return nil, err
	}
	f.release = func() { <-s.files }
	return f, nil
}

func (s *Saver) build(ctx context.Context) (_ *File, err error) {
	select {
	case s.building <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-s.building }()
	began := time.Now()
	if err := os.MkdirAll(s.cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	dir, err := os.MkdirTemp(s.cfg.Dir, "save-")
	if err != nil {
		return nil, fmt.Errorf("backup: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	p, err := s.pinAll(ctx)
	if err != nil {
		return nil, err
	}
	defer p.close()
	sorter := extsort.New(extsort.Options{Dir: dir})
	leases, err := newLeaseBook(filepath.Join(dir, "leases"))
	if err != nil {
		return nil, err
	}
	if err := s.spool(ctx, p, sorter, leases); err != nil {
		return nil, err
	}
	f := &File{Revision: p.revision, dir: dir}
	if f.w, err = etcdfile.Create(filepath.Join(dir, "db")); err != nil {
		return nil, err
	}
	if err := s.fill(ctx, p, sorter, leases, f.w); err != nil {
		return nil, errors.Join(err, f.w.Close())
	}
	if err := errors.Join(sorter.Close(), leases.close()); err != nil {
		return nil, errors.Join(err, f.w.Close())
	}
	if f.Size, err = f.w.Size(); err != nil {
		return nil, errors.Join(err, f.w.Close())
	}
	s.cfg.Logger.Info("built a snapshot", zap.Int64("revision", p.revision), zap.Int64("compact-revision", p.compact),
		zap.Int("shards", len(p.sources)), zap.Int64("bytes", f.Size), zap.Duration("took", time.Since(began)))
	return f, nil
}

// spool reads all shards into the sorter and the book of leases.
func (s *Saver) spool(ctx context.Context, p *pinned, sorter *extsort.Sorter, leases *leaseBook) error {
	for i := range p.sources {
		if err := s.spoolShard(ctx, p, i, sorter, leases); err != nil {
			return fmt.Errorf("save shard %d: %w", p.wants[i].shard, err)
		}
		p.sources[i].close()
		p.sources[i] = nil
	}
	return nil
}

// spoolShard reads one shard, from one replica after the other if need be.
func (s *Saver) spoolShard(ctx context.Context, p *pinned, i int, sorter *extsort.Sorter, leases *leaseBook) error {
	f := filter{compact: p.compact, upto: p.revision}
	to := &sink{
		lease: leases.record,
		row: func(it *item) error {
			ok, err := f.take(it)
			if !ok || err != nil {
				return err
			}
			if f.newest && it.lease != 0 {
				if err := leases.attached(it.lease); err != nil {
					return err
				}
			}
			return sorter.Add(it.row, it.value)
		},
	}
	for attempt := 0; ; attempt++ {
		err := p.sources[i].read(ctx, f.key, p.compact, to)
		if err == nil || ctx.Err() != nil || !errors.Is(err, errSourceLost) || attempt == reopenMost {
			return err
		}
		s.cfg.Logger.Warn("a replica went away while it was being saved; going on with another one",
			zap.Uint64("shard", p.wants[i].shard), zap.Error(err))
		span := p.sources[i].span()
		p.sources[i].close()
		p.sources[i] = nil
		if len(f.key) > 0 {
			span.Start = f.key
		}
		if p.sources[i], err = s.reopen(ctx, p, i, span); err != nil {
			return err
		}
	}
}

// reopen finds another replica that still has all that the save needs of a span.
func (s *Saver) reopen(ctx context.Context, p *pinned, i int, rest keyspace.Span) (source, error) {
	attempt, cancel := context.WithTimeout(ctx, attemptPatience)
	defer cancel()
	w := p.wants[i]
	d := s.cfg.Cluster.View().Map.Lookup(rest.Start)
	if d == nil || d.Shard != w.shard {
		return nil, fmt.Errorf("shard %d was merged into another one; save again", w.shard)
	}
	// Replicas come and go; what is wanted is in every one's log.
	w.generation = 0
	var errs []error
	for _, r := range d.Replicas {
		src, err := s.openAt(ctx, attempt, r, w, rest.Start)
		switch {
		case err != nil:
		case src.compacted() > p.compact:
			err = fmt.Errorf("member %x has compacted revision %d", r.Member, p.compact)
		case !src.span().ContainsSpan(rest):
			err = fmt.Errorf("member %x has %s, and %s is wanted", r.Member, src.span(), rest)
		default:
			return src, nil
		}
		if src != nil {
			src.close()
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("no replica of shard %d can go on: %w", w.shard, errors.Join(errs...))
}

func (s *Saver) openAt(ctx, attempt context.Context, r *kvdpb.Replica, w want, start []byte) (source, error) {
	if r.Member == s.cfg.Member {
		return s.openLocal(attempt, w)
	}
	return s.openBounded(ctx, attempt, r.Member, w, start)
}

// fill writes the file.
func (s *Saver) fill(ctx context.Context, p *pinned, sorter *extsort.Sorter, leases *leaseBook, w *etcdfile.Writer) error {
	last := int64(0)
	err := sorter.Sort(ctx, func(row, value []byte) error {
		rev, err := etcdfile.ParseRevision(row)
		if err != nil {
			return err
		}
		last = rev.Main
		return w.Row(row, value)
	})
	if err != nil {
		return err
	}
	if last < p.revision && p.compact < p.revision && p.revision > 1 {
		// Numbers that no write used, after the loss of an owner: the file's
		// revision must not be below what clients have seen.
		row := etcdfile.AppendRevision(nil, etcdfile.Revision{Main: p.revision, Tombstone: true})
		if err := w.Row(row, nil); err != nil {
			return err
		}
	}
	if err := leases.each(ctx, w.Lease); err != nil {
		return fmt.Errorf("save leases: %w", err)
	}
	return w.Finish(s.contents(p))
}

func (s *Saver) contents(p *pinned) *etcdfile.Contents {
	c := &etcdfile.Contents{
		CompactRevision: p.compact,
		ConsistentIndex: uint64(p.revision), Term: 1,
		ClusterVersion: s.cfg.ClusterVersion,
		Auth:           AuthContents(p.view.Auth),
	}
	for _, m := range p.view.Members {
		c.Members = append(c.Members, etcdfile.Member{ID: m.Id, Name: m.Name, PeerURLs: m.PeerUrls, ClientURLs: m.ClientUrls, IsLearner: m.Learner})
	}
	if s.cfg.Alarms != nil {
		c.Alarms = s.cfg.Alarms()
	}
	return c
}
