package datadir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/kvd-io/kvd/internal/durable"
)

// restoringName marks a directory that a restore has begun to fill: everything in
// it is the restore's, until there is a stamp.
const restoringName = "RESTORING"

// BeginRestore makes and locks a directory that is to be filled from a snapshot.
// It must not exist, or be empty, or hold nothing but an interrupted restore,
// which is cleared away. EndRestore completes it: until then kvd refuses to
// start on it.
func BeginRestore(path string) (*Dir, error) {
	if err := refuseUsed(path); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("create data directory: %w", err)
	}
	lock, err := takeLock(path)
	if err != nil {
		return nil, err
	}
	d := &Dir{path: path, lock: lock}
	// Another restore may have finished before the lock was taken.
	if err := refuseUsed(path); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	if err := errors.Join(d.clear(), durable.SyncDir(filepath.Dir(filepath.Clean(path)))); err != nil {
		return nil, errors.Join(fmt.Errorf("prepare data directory: %w", err), d.Close())
	}
	return d, nil
}

// EndRestore gives the directory its identity, durably: from here on it is a
// member's.
func (d *Dir) EndRestore(s Stamp) error {
	if err := d.WriteStamp(s); err != nil {
		return err
	}
	if err := os.Remove(d.Join(restoringName)); err != nil {
		return fmt.Errorf("remove the mark of a restore: %w", err)
	}
	return durable.SyncDir(d.path)
}

// refuseUsed refuses a directory that holds anything but an interrupted restore.
func refuseUsed(path string) error {
	entries, err := os.ReadDir(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read data directory: %w", err)
	}
	restoring, foreign := false, ""
	for _, e := range entries {
		switch e.Name() {
		case stampName:
			return fmt.Errorf("data-dir %q not empty: it belongs to a member", path)
		case restoringName:
			restoring = true
		case lockName, "lost+found":
		default:
			foreign = e.Name()
		}
	}
	if foreign != "" && !restoring {
		return fmt.Errorf("data-dir %q not empty: it holds %q", path, foreign)
	}
	return nil
}

// clear marks the directory and removes what an interrupted restore left.
func (d *Dir) clear() error {
	if err := durable.WriteFile(d.Join(restoringName), nil); err != nil {
		return err
	}
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		switch e.Name() {
		case restoringName, lockName, "lost+found":
		default:
			if err := os.RemoveAll(d.Join(e.Name())); err != nil {
				return err
			}
		}
	}
	return durable.SyncDir(d.path)
}
