package backup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/proto"

	"github.com/kvd-io/kvd/internal/durable"
	"github.com/kvd-io/kvd/placement"
	"github.com/kvd-io/kvd/proto/kvdpb"
)

const (
	birthName = "birth.pb"
	// maxBirth bounds the file: descriptors, users and roles.
	maxBirth = 512 << 20
)

// Birth is how a restored cluster begins.
type Birth struct {
	Cluster *placement.Cluster
	// SeparateWAL: the member must be given a --wal-dir.
	SeparateWAL bool
}

// ReadBirth reads what a restore left in a data directory; nil if it was not made
// by one.
func ReadBirth(dir string) (*Birth, error) {
	path := filepath.Join(dir, birthName)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && info.Size() > maxBirth {
		err = fmt.Errorf("%d bytes", info.Size())
	}
	var b []byte
	if err == nil {
		b, err = os.ReadFile(path)
	}
	m := &kvdpb.Birth{}
	if err == nil {
		err = proto.Unmarshal(b, m)
	}
	if err == nil && (m.ClusterId == 0 || m.ClusterId != m.Init.GetClusterId()) {
		err = errors.New("it names no cluster")
	}
	if err != nil {
		return nil, fmt.Errorf("read how the restored cluster begins: %s: %w", path, err)
	}
	return &Birth{
		Cluster:     &placement.Cluster{ID: m.ClusterId, Members: m.Init.Members, Init: m.Init},
		SeparateWAL: m.SeparateWal,
	}, nil
}

func writeBirth(dir string, c *placement.Cluster, separateWAL bool) error {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(&kvdpb.Birth{ClusterId: c.ID, Init: c.Init, SeparateWal: separateWAL})
	if err != nil {
		return fmt.Errorf("encode how the cluster begins: %w", err)
	}
	if err := durable.WriteFile(filepath.Join(dir, birthName), b); err != nil {
		return fmt.Errorf("write how the cluster begins: %w", err)
	}
	return nil
}
