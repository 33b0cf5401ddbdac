package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// lockPorts waits until no other run uses the ports that etcd's tests use (20000 and up).
func lockPorts(ctx context.Context) (unlock func(), err error) {
	path := filepath.Join(os.TempDir(), "kvd-test-etcd.lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o666)
	if err != nil {
		return nil, err
	}
	for said := false; ; said = true {
		switch err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err {
		case nil:
			return func() { f.Close() }, nil
		case syscall.EWOULDBLOCK, syscall.EINTR:
		default:
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if !said {
			fmt.Println("waiting for another run to end: the ports of the tests are fixed")
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// killMembers ends what a broken test left behind: processes whose working directory is that of this run.
func (s *suite) killMembers() {
	dirs, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		return
	}
	for _, link := range dirs {
		dir, err := os.Readlink(link)
		if err != nil || dir != filepath.Join(s.work, "common") {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(link))); err == nil && pid != os.Getpid() {
			fmt.Printf("ending process %d, which a test left behind\n", pid)
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended by itself
		}
	}
}
