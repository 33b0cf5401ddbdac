package manager

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/kvd-io/kvd/internal/durable"
)

// disk is where the replicas of a member lie: one directory of a store for each,
// and durable marks that outlive it.
type disk struct{ dir string }

// Dir is where a member's replicas lie, in its data directory.
const Dir = "shards"

const (
	markStarted = "started"
	markRemoved = "removed"
)

func openDisk(dir string) (*disk, error) {
	d := &disk{dir: dir}
	for _, path := range []string{d.dir, d.marks()} {
		if err := os.MkdirAll(path, 0o700); err != nil {
			return nil, fmt.Errorf("create directory of the shards: %w", err)
		}
	}
	return d, durable.SyncDir(dir)
}

func (d *disk) marks() string { return filepath.Join(d.dir, "marks") }

// store is the directory of a replica's store. A seed lies there once it is whole.
func (d *disk) store(shard, replica uint64) string { return StoreDir(d.dir, shard, replica) }

// StoreDir is the directory of a replica's store below Config.Dir.
func StoreDir(dir string, shard, replica uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%d-%d", shard, replica))
}

// WasStarted tells whether a replica below Config.Dir was ever started.
func WasStarted(dir string, shard, replica uint64) (bool, error) {
	return (&disk{dir: dir}).marked(shard, replica, markStarted)
}

// stores lists the replicas that have a store.
func (d *disk) stores() (map[place]bool, error) {
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		return nil, fmt.Errorf("read directory of the shards: %w", err)
	}
	found := map[place]bool{}
	for _, e := range entries {
		var p place
		if n, err := fmt.Sscanf(e.Name(), "%d-%d", &p.shard, &p.replica); err != nil || n != 2 || d.store(p.shard, p.replica) != filepath.Join(d.dir, e.Name()) {
			continue
		}
		found[p] = true
	}
	return found, nil
}

// removeStore removes a replica's store. A crash may leave some of it, which the
// next start finds.
func (d *disk) removeStore(shard, replica uint64) error {
	if err := os.RemoveAll(d.store(shard, replica)); err != nil {
		return fmt.Errorf("remove the store of replica %d of shard %d: %w", replica, shard, err)
	}
	return durable.SyncDir(d.dir)
}

func (d *disk) hasStore(shard, replica uint64) (bool, error) {
	return exists(d.store(shard, replica))
}

// makeStore makes the directory of a store that is to begin empty; a seed stays
// as it is.
func (d *disk) makeStore(shard, replica uint64) error {
	if err := os.MkdirAll(d.store(shard, replica), 0o700); err != nil {
		return fmt.Errorf("create directory of replica %d of shard %d: %w", replica, shard, err)
	}
	return durable.SyncDir(d.dir)
}

func (d *disk) mark(shard, replica uint64, what string) string {
	return filepath.Join(d.marks(), fmt.Sprintf("%d-%d.%s", shard, replica, what))
}

func (d *disk) marked(shard, replica uint64, what string) (bool, error) {
	return exists(d.mark(shard, replica, what))
}

func (d *disk) setMark(shard, replica uint64, what string) error {
	if err := durable.WriteFile(d.mark(shard, replica, what), nil); err != nil {
		return fmt.Errorf("mark replica %d of shard %d as %s: %w", replica, shard, what, err)
	}
	return nil
}

func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
