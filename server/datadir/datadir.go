package datadir

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/kvd-io/kvd/internal/durable"
)

// Format is the version of the directory's layout that this kvd writes.
const Format = 1

const (
	lockName  = "LOCK"
	stampName = "kvd.json"
)

// Stamp is the identity of a directory. It is written once.
type Stamp struct {
	// Format is the version of the layout.
	Format int `json:"format"`
	// ClusterID and MemberID are etcd's 64-bit ids, in hexadecimal.
	ClusterID ID `json:"cluster_id"`
	MemberID  ID `json:"member_id"`
	// Name is the member's name at its first start, for people.
	Name string `json:"name"`
	// Replica and Peers are set for a member that joined a running cluster: its
	// replica in the placement group, and where the others were at that time.
	Replica uint64 `json:"placement_replica,omitempty"`
	Peers   []Peer `json:"peers,omitempty"`
}

// Peer is another member as it was when this one joined.
type Peer struct {
	MemberID ID       `json:"member_id"`
	PeerURLs []string `json:"peer_urls"`
}

// certificatesName is where made certificates lie, as in etcd.
const certificatesName = "fixtures"

// ID is a 64-bit id that is written in hexadecimal, as etcd shows ids.
type ID uint64

// MarshalText writes the id in hexadecimal.
func (id ID) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%016x", uint64(id)), nil }

// UnmarshalText reads a hexadecimal id.
func (id *ID) UnmarshalText(text []byte) error {
	var v uint64
	if n, err := fmt.Sscanf(string(text), "%016x", &v); err != nil || n != 1 {
		return fmt.Errorf("%q is no hexadecimal id", text)
	}
	*id = ID(v)
	return nil
}

// Dir is a locked data directory.
type Dir struct {
	path  string
	lock  *os.File
	stamp *Stamp
}

// Open creates the directory if need be, locks it and reads its stamp. It fails
// if another process holds it, or if it is not a directory of kvd's.
func Open(path string) (*Dir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("create data directory: %w", err)
	}
	if err := refuseForeign(path); err != nil {
		return nil, err
	}
	lock, err := takeLock(path)
	if err != nil {
		return nil, err
	}
	d := &Dir{path: path, lock: lock}
	if err := d.readStamp(); err != nil {
		lock.Close()
		return nil, err
	}
	return d, nil
}

func takeLock(path string) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(path, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock of data directory: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("data directory %q is in use by another process", path)
		}
		return nil, fmt.Errorf("lock data directory %q: %w", path, err)
	}
	return lock, nil
}

// refuseForeign refuses a directory that holds files but no stamp of kvd's.
func refuseForeign(path string) error {
	if _, err := os.Lstat(filepath.Join(path, stampName)); err == nil {
		return nil
	}
	if _, err := os.Lstat(filepath.Join(path, "member", "snap", "db")); err == nil {
		return fmt.Errorf("data directory %q holds a member of etcd, which kvd does not open; give kvd a directory of its own and bring the data over with a snapshot", path)
	}
	if _, err := os.Lstat(filepath.Join(path, restoringName)); err == nil {
		return fmt.Errorf("data directory %q holds a restore that was interrupted; run kvctl snapshot restore again", path)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return fmt.Errorf("read data directory: %w", err)
	}
	for _, e := range entries {
		// lost+found is what a fresh file system holds; a lock or an unfinished
		// stamp is what a first start leaves that died at once; certificates are made
		// by --auto-tls before the directory is opened.
		switch e.Name() {
		case lockName, stampName + ".tmp", "lost+found", certificatesName:
		default:
			return fmt.Errorf("data directory %q is not one of kvd's: it holds %q but no %s", path, e.Name(), stampName)
		}
	}
	return nil
}

func (d *Dir) readStamp() error {
	text, err := os.ReadFile(d.Join(stampName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read stamp of data directory: %w", err)
	}
	var s Stamp
	if err := json.Unmarshal(text, &s); err != nil {
		return fmt.Errorf("stamp %s of the data directory cannot be read: %w", d.Join(stampName), err)
	}
	switch {
	case s.Format > Format:
		return fmt.Errorf("data directory %q has format %d, written by a newer kvd; this one reads up to %d", d.path, s.Format, Format)
	case s.Format < 1 || s.ClusterID == 0 || s.MemberID == 0:
		return fmt.Errorf("stamp %s of the data directory is not valid", d.Join(stampName))
	}
	d.stamp = &s
	return nil
}

// Stamp returns the identity of the directory, or nil if it is new.
func (d *Dir) Stamp() *Stamp { return d.stamp }

// WriteStamp gives a new directory its identity, durably.
func (d *Dir) WriteStamp(s Stamp) error {
	if d.stamp != nil {
		return fmt.Errorf("data directory %q is stamped already", d.path)
	}
	s.Format = Format
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("encode stamp: %w", err)
	}
	if err := durable.WriteFile(d.Join(stampName), append(text, '\n')); err != nil {
		return fmt.Errorf("stamp data directory: %w", err)
	}
	d.stamp = &s
	return nil
}

// Join returns the path of something in the directory.
func (d *Dir) Join(elem ...string) string {
	return filepath.Join(append([]string{d.path}, elem...)...)
}

// Close gives up the lock.
func (d *Dir) Close() error { return d.lock.Close() }

// NewIncarnation returns the number of this run of the process: never zero, and
// never the same for two runs.
func NewIncarnation() (uint64, error) {
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return 0, fmt.Errorf("draw an incarnation: %w", err)
	}
	// 63 random bits, so that the number is never zero and fits every encoding.
	return binary.BigEndian.Uint64(b[:])>>1 | 1, nil
}
