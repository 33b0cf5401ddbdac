package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// lockPorts waits until no other run uses the ports that etcd's tests use (20000 and up).
func lockPorts(ctx context.Context) (unlock func(), err error) {
	path := filepath.Join(os.TempDir(), "kvd-test-etcd.lock")
	f, err := os.Open(path) // it may be another user's
	if errors.Is(err, os.ErrNotExist) {
		f, err = os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o644)
	}
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

// firstPort and ports are what the clusters of etcd's tests listen on: five for each of at most five members.
const (
	firstPort = 20000
	ports     = 25
	// portPatience is how long another program may still need a port.
	portPatience = time.Minute
)

// awaitPorts waits until nobody listens on the ports.
func awaitPorts(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, portPatience, errors.New("another program listens there"))
	defer cancel()
	for port := firstPort; port < firstPort+ports; port++ {
		for {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
			if err == nil {
				if err := l.Close(); err != nil {
					return err
				}
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("port %d, which etcd's tests need: %w (%w)", port, err, context.Cause(ctx))
			case <-time.After(time.Second):
			}
		}
	}
	return nil
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
