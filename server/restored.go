package server

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/kvd-io/kvd/backup"
	"github.com/kvd-io/kvd/server/config"
	"github.com/kvd-io/kvd/server/datadir"
)

// restoredIdentity is who this process is if its directory was made from a
// snapshot file; nil if it was not. How such a cluster begins stands in the
// directory, not in the flags, which do not know the file.
func restoredIdentity(cfg *config.Config, dir *datadir.Dir, stamp *datadir.Stamp, incarnation uint64) (*identity, error) {
	birth, err := backup.ReadBirth(dir.Join())
	if birth == nil || err != nil {
		return nil, err
	}
	switch {
	case birth.Cluster.ID != uint64(stamp.ClusterID):
		return nil, fmt.Errorf("data directory %q was restored for cluster %x and belongs to cluster %x", cfg.DataDir, birth.Cluster.ID, uint64(stamp.ClusterID))
	case birth.SeparateWAL != (cfg.WALDir != ""):
		return nil, fmt.Errorf("data directory %q: --wal-dir must be given to both the restore and the member, or to neither", cfg.DataDir)
	case stamp.Name != cfg.Name:
		return nil, fmt.Errorf("data directory %q was restored for member %q, not for %q", cfg.DataDir, stamp.Name, cfg.Name)
	}
	_, err = os.Lstat(dir.Join(raftDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("look for the raft log: %w", err)
	}
	return &identity{
		cluster: birth.Cluster.ID, member: uint64(stamp.MemberID), incarnation: incarnation,
		birth: birth.Cluster, fresh: err != nil,
	}, nil
}
