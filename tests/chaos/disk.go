package chaos

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// disk is a small file system of one member's own, which can be filled and frozen.
type disk struct {
	mount, image, ballast string
}

const (
	diskBytes = 1 << 30 // of the image, which is sparse
	// FIFREEZE and FITHAW of linux/fs.h: _IOWR('X', 119, int) and _IOWR('X', 120, int).
	fiFreeze = 0xc0045877
	fiThaw   = 0xc0045878
)

// newDisk mounts an ext4 image below dir. It needs root and loop devices; the error tells what was missing.
func newDisk(dir string) (*disk, error) {
	d := &disk{mount: filepath.Join(dir, "disk"), image: filepath.Join(dir, "disk.img")}
	d.ballast = filepath.Join(d.mount, "ballast")
	if err := os.MkdirAll(d.mount, 0o700); err != nil {
		return nil, err
	}
	f, err := os.Create(d.image)
	if err != nil {
		return nil, err
	}
	err = errors.Join(f.Truncate(diskBytes), f.Close())
	if err != nil {
		return nil, err
	}
	for _, args := range [][]string{{"mkfs.ext4", "-q", "-m", "0", d.image}, {"mount", "-o", "loop", d.image, d.mount}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%s: %w: %s", args[0], err, out)
		}
	}
	return d, nil
}

// fill leaves no room on the disk.
func (d *disk) fill() error {
	f, err := os.Create(d.ballast)
	if err != nil {
		return err
	}
	defer f.Close()
	for size := int64(64 << 20); size >= 4096; {
		st, err := f.Stat()
		if err != nil {
			return err
		}
		err = unix.Fallocate(int(f.Fd()), 0, st.Size(), size)
		switch {
		case errors.Is(err, syscall.ENOSPC):
			size /= 2
		case err != nil:
			return fmt.Errorf("filling the disk: %w", err)
		}
	}
	return nil
}

// empty makes room again.
func (d *disk) empty() error { return os.Remove(d.ballast) }

// freeze makes every write wait until thaw.
func (d *disk) freeze() error { return d.control(fiFreeze) }

// thaw lets writes go on. A disk that is not frozen stays as it is.
func (d *disk) thaw() error {
	if err := d.control(fiThaw); !errors.Is(err, syscall.EINVAL) {
		return err
	}
	return nil
}

func (d *disk) control(request uint) error {
	f, err := os.Open(d.mount)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.IoctlSetInt(int(f.Fd()), request, 0); err != nil {
		return fmt.Errorf("freezing or thawing %s: %w", d.mount, err)
	}
	return nil
}

// close unmounts the disk, thawed, once its member is gone.
func (d *disk) close() error {
	thawed := d.thaw()
	out, err := exec.Command("umount", d.mount).CombinedOutput()
	if err != nil {
		return errors.Join(thawed, fmt.Errorf("unmounting %s: %w: %s", d.mount, err, out))
	}
	return thawed
}
