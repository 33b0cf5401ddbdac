package multiraft

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/kvd-io/kvd/multiraft/logstore"
)

const (
	stampFile   = "raft.json"
	stampFormat = 1
	tempSuffix  = ".new"
)

// stamp is what can never change once a data directory was used. All of it is the configuration's, but for the number of step workers: a directory
// keeps the one that it was made with.
type stamp struct {
	Format       int    `json:"format"`
	MemberID     string `json:"member"`
	DeploymentID string `json:"deployment"`
	StepWorkers  uint64 `json:"step_workers"`
	LogFormat    int    `json:"log_format"`
	SeparateWAL  bool   `json:"separate_wal"`
	// Complete is set once the log store was opened for the first time. Until then nothing can be in it, and what a crash left of it is thrown away,
	// because Dragonboat does not write its own files atomically.
	Complete bool `json:"complete"`
}

func (c *Config) stamp() stamp {
	return stamp{Format: stampFormat, MemberID: fmt.Sprintf("%016x", c.MemberID), DeploymentID: fmt.Sprintf("%016x", c.DeploymentID),
		StepWorkers: c.stepWorkers, LogFormat: logstore.Format, SeparateWAL: c.WALDir != ""}
}

// readStamp compares the directory's stamp with what this process would write, and returns the one that is in force. It is not complete for a directory that
// is new; logs are where the log store lies, and must not exist before the stamp does.
func readStamp(dir string, want stamp, logs []string) (stamp, error) {
	path := filepath.Join(dir, stampFile)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		for _, log := range logs {
			if _, err := os.Stat(log); err == nil {
				return stamp{}, fmt.Errorf("multiraft: there is a raft log in %s but no %s", log, path)
			}
		}
		return want, writeStamp(dir, want)
	}
	if err != nil {
		return stamp{}, fmt.Errorf("multiraft: reading the stamp: %w", err)
	}
	var have stamp
	if err := json.Unmarshal(b, &have); err != nil {
		return stamp{}, fmt.Errorf("multiraft: %s is damaged: %w", path, err)
	}
	if have.Format > stampFormat {
		return stamp{}, fmt.Errorf("multiraft: %s was written by a newer version (format %d, this one knows %d)", dir, have.Format, stampFormat)
	}
	var errs []error
	differ := func(what string, have, want any) {
		if have != want {
			errs = append(errs, fmt.Errorf("%s is %v there, %v here", what, have, want))
		}
	}
	differ("member id", have.MemberID, want.MemberID)
	differ("cluster id", have.DeploymentID, want.DeploymentID)
	differ("format of the log", have.LogFormat, want.LogFormat)
	differ("separate WAL directory", have.SeparateWAL, want.SeparateWAL)
	if err := errors.Join(errs...); err != nil {
		return stamp{}, fmt.Errorf("multiraft: %s belongs to another member or configuration: %w", dir, err)
	}
	if !have.Complete {
		return want, writeStamp(dir, want)
	}
	if have.StepWorkers == 0 || have.StepWorkers > mostStepWorkers {
		return stamp{}, fmt.Errorf("multiraft: %s is damaged: %d step workers", path, have.StepWorkers)
	}
	return have, nil
}

func writeStamp(dir string, s stamp) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("multiraft: encoding the stamp: %w", err)
	}
	return writeFile(filepath.Join(dir, stampFile), append(b, '\n'))
}

// writeFile replaces a file atomically and durably.
func writeFile(path string, b []byte) (err error) {
	tmp := path + tempSuffix
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("multiraft: %w", err)
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("multiraft: writing %s: %w", path, err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}
