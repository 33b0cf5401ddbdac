package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"

	"go.uber.org/zap"

	"github.com/kvd-io/kvd/backup/etcdfile"
	"github.com/kvd-io/kvd/internal/durable"
	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/placement"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/server/datadir"
	"github.com/kvd-io/kvd/shard"
	"github.com/kvd-io/kvd/shard/manager"
)

const (
	// importCache and importMemtables are the memory of the storage engine while
	// stores are built, in bytes.
	importCache     = 8 << 20
	importMemtables = 64 << 20
)

// builder builds the data directory of one member.
type builder struct {
	cfg     *RestoreConfig
	reader  *etcdfile.Reader
	survey  *survey
	cluster *placement.Cluster
	member  uint64
	// leases are those of the file.
	leases map[int64]*restoredLease
}

func (b *builder) build(ctx context.Context) error {
	dir, err := datadir.BeginRestore(b.cfg.DataDir)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }() // only its lock is left to give up
	if err := b.makeWAL(); err != nil {
		return err
	}
	shards := dir.Join(manager.Dir)
	if err := os.MkdirAll(shards, 0o700); err != nil {
		return fmt.Errorf("create directory of the shards: %w", err)
	}
	if err := b.stores(ctx, shards); err != nil {
		return err
	}
	if err := durable.SyncDir(shards); err != nil {
		return fmt.Errorf("sync directory of the shards: %w", err)
	}
	if err := writeBirth(dir.Join(), b.cluster, b.cfg.WALDir != ""); err != nil {
		return err
	}
	return dir.EndRestore(datadir.Stamp{ClusterID: datadir.ID(b.cluster.ID), MemberID: datadir.ID(b.member), Name: b.cfg.Name})
}

// makeWAL makes the directory of --wal-dir, which must be new: what lies in it
// would be taken for this member's log.
func (b *builder) makeWAL() error {
	dir := b.cfg.WALDir
	if dir == "" {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("wal-dir: %w", err)
	}
	if len(entries) > 0 {
		return fmt.Errorf("wal-dir %q is not empty", dir)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("wal-dir: %w", err)
	}
	return durable.SyncDir(filepath.Dir(dir))
}

// stores builds the stores of this member's replicas.
func (b *builder) stores(ctx context.Context, dir string) (err error) {
	engine, err := mvcc.NewEngine(mvcc.EngineOptions{
		CacheBytes: importCache, MemtableBudget: importMemtables, NoBackground: true, Logger: b.cfg.Logger.Named("mvcc"),
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, engine.Close()) }()
	if err := b.readLeases(ctx); err != nil {
		return err
	}
	shards := b.cluster.Init.Shards
	imports := make([]*mvcc.Import, len(shards))
	defer func() {
		for _, i := range imports {
			if i != nil {
				err = errors.Join(err, i.Abort())
			}
		}
	}()
	for i, d := range shards {
		replica, mine := replicaOf(d, b.member)
		if !mine {
			continue
		}
		if imports[i], err = engine.NewImport(manager.StoreDir(dir, d.Shard, replica)); err != nil {
			return err
		}
	}
	if err := b.rows(ctx, imports); err != nil {
		return err
	}
	if err := b.writeLeases(ctx, imports); err != nil {
		return err
	}
	for i, d := range shards {
		if imports[i] == nil {
			continue
		}
		local, err := shard.RestoredRecords(d, b.survey.revision)
		if err != nil {
			return err
		}
		finished := imports[i]
		imports[i] = nil
		if err := finished.Finish(b.survey.CompactRevision, local); err != nil {
			return fmt.Errorf("finish shard %d: %w", d.Shard, err)
		}
		b.cfg.Logger.Debug("built the store of a shard", zap.Uint64("shard", d.Shard))
	}
	return nil
}

// rows brings the rows of the file to the stores.
func (b *builder) rows(ctx context.Context, imports []*mvcc.Import) error {
	var key []byte
	return b.reader.Rows(ctx, func(rev etcdfile.Revision, kv *etcdfile.KeyValue) error {
		if len(kv.Key) == 0 {
			return nil
		}
		key = keyspace.AppendUser(key[:0], kv.Key)
		at := b.shardOf(key)
		if l := b.leases[kv.Lease]; l != nil && !rev.Tombstone {
			l.attach(at)
		}
		if imports[at] == nil {
			return nil
		}
		e := mvcc.Effect{Key: key, Tombstone: rev.Tombstone}
		if !rev.Tombstone {
			e.Value, e.Create, e.Version, e.Lease = kv.Value, kv.Create, kv.Version, kv.Lease
		}
		return imports[at].Put(rev.Main, rev.Sub, &e)
	})
}

// shardOf returns the place of the shard that an encoded key lies in.
func (b *builder) shardOf(key []byte) int {
	shards := b.cluster.Init.Shards
	return sort.Search(len(shards), func(i int) bool { return bytes.Compare(shards[i].Start, key) > 0 }) - 1
}

func replicaOf(d *kvdpb.Descriptor, member uint64) (uint64, bool) {
	i := slices.IndexFunc(d.Replicas, func(r *kvdpb.Replica) bool { return r.Member == member })
	if i < 0 {
		return 0, false
	}
	return d.Replicas[i].Replica, true
}
