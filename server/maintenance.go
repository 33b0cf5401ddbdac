package server

import (
	"context"

	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/server/compactor"
	"github.com/kvd-io/kvd/server/integrity"
	"github.com/kvd-io/kvd/server/space"
	"github.com/kvd-io/kvd/shard"
)

// openMaintenance makes what looks after the store: its space, and its history.
func (m *Member) openMaintenance(context.Context) error {
	wal, err := walDir(m.cfg)
	if err != nil {
		return err
	}
	dirs := []string{m.cfg.DataDir}
	if wal != "" {
		dirs = append(dirs, wal)
	}
	m.space = space.New(space.Config{
		Member: m.id.member, Quota: m.cfg.QuotaBackendBytes, Reserve: m.cfg.DiskReserveBytes,
		Disks: func() ([]space.Disk, error) { return space.Room(dirs...) },
		Size:  func() int64 { return m.storage().LiveBytes }, Reclaim: m.flushShards,
		Alarms: m.placement, Logger: m.log.Named("space"),
	})
	m.onClose(m.space.Close)
	period, revisions, err := m.cfg.AutoCompaction()
	if err != nil {
		return err
	}
	m.compactor = compactor.New(compactor.Config{
		Period: period, Revisions: revisions, Owner: m.placement.Serving,
		Current: func(ctx context.Context) (int64, error) {
			g, err := m.placement.Current(ctx)
			return g.First, err
		},
		Compact: func(ctx context.Context, revision int64) error {
			err := m.space.Change()
			if err == nil {
				_, err = m.placement.Compact(ctx, revision)
			}
			return err
		},
		Logger: m.log.Named("compactor"),
	})
	m.onClose(m.compactor.Close)
	m.integrity = integrity.New(integrity.Config{
		Member: m.id.member, Replicas: m.manager,
		Descriptor: func(id uint64) *kvdpb.Descriptor { return m.placement.Map().ByID(id) },
		Live:       func() []*kvdpb.Descriptor { return m.placement.Map().Live() },
		Conn:       func(to uint64) (grpc.ClientConnInterface, error) { return m.mesh.Conn(to) },
		Alarms:     m.placement, Period: m.cfg.CorruptCheckPeriod(), Logger: m.log.Named("integrity"),
	})
	m.integrity.Register(m.mesh.Registrar())
	m.onClose(m.integrity.Close)
	return nil
}

// flushShards writes out the memtables of all shards: what was compacted in them takes no more space then.
func (m *Member) flushShards() {
	m.manager.Each(func(r *shard.Replica) bool {
		if store := r.Store(); store != nil {
			if err := store.Flush(); err != nil {
				m.log.Warn("could not write out a memtable", zap.Error(err))
			}
		}
		return true
	})
}
