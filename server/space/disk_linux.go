package space

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Room looks at the disks that hold directories.
func Room(dirs ...string) ([]Disk, error) {
	var disks []Disk
	for _, dir := range dirs {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			return nil, fmt.Errorf("room on the disk of %q: %w", dir, err)
		}
		// What is kept for root is no room for a member.
		disks = append(disks, Disk{Total: int64(st.Blocks) * st.Bsize, Free: int64(st.Bavail) * st.Bsize})
	}
	return disks, nil
}
