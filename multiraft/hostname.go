package multiraft

import (
	"bytes"
	"crypto/md5"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/lni/dragonboat/v4/raftpb"
)

// Dragonboat makes the host's name an element of every path and notes it in a flag file, so it refuses, or does not find, a directory that is opened
// under another host name, as happens to every container. Therefore the data lies in a directory of a fixed name, a symbolic link leads there from whatever
// the host is called today, and the name in the flag file is blanked before each start, which skips its check.

const (
	dataElement = "data"
	flagFile    = "dragonboat.ds"
	flagHash    = 8
)

// nameless makes one of Dragonboat's directories ready to be opened by this host.
func nameless(dir string) error {
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("multiraft: asking for the host name: %w", err)
	}
	if err := os.MkdirAll(filepath.Join(dir, dataElement), 0o700); err != nil {
		return fmt.Errorf("multiraft: %w", err)
	}
	all, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("multiraft: %w", err)
	}
	linked := host == dataElement
	for _, e := range all {
		if e.Type()&fs.ModeSymlink == 0 {
			continue
		}
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err == nil && e.Name() == host && target == dataElement {
			linked = true
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("multiraft: removing a former host name: %w", err)
		}
	}
	if !linked {
		if err := os.Symlink(dataElement, filepath.Join(dir, host)); err != nil {
			return fmt.Errorf("multiraft: giving the data the name of the host: %w", err)
		}
		if err := syncDir(dir); err != nil {
			return fmt.Errorf("multiraft: giving the data the name of the host: %w", err)
		}
	}
	return blankFlag(filepath.Join(dir, flagFile))
}

// blankFlag blanks the host name in Dragonboat's flag file. It also reports a damaged one, on which Dragonboat would panic.
func blankFlag(path string) error {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("multiraft: reading the flag file: %w", err)
	}
	if len(b) < flagHash || !bytes.Equal(flagSum(b[flagHash:]), b[:flagHash]) {
		return fmt.Errorf("multiraft: %s is damaged", path)
	}
	var s raftpb.RaftDataStatus
	if err := s.Unmarshal(b[flagHash:]); err != nil {
		return fmt.Errorf("multiraft: %s is damaged: %w", path, err)
	}
	if s.Hostname == "" {
		return nil
	}
	s.Hostname = ""
	data, err := s.Marshal()
	if err != nil {
		return fmt.Errorf("multiraft: encoding the flag file: %w", err)
	}
	return writeFile(path, append(flagSum(data), data...))
}

// flagSum is the checksum of Dragonboat's flag files: the second half of an MD5.
func flagSum(data []byte) []byte {
	sum := md5.Sum(data)
	return bytes.Clone(sum[flagHash:])
}
