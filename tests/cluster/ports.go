package cluster

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// Ports are taken from below the range from which Linux gives ports to outgoing connections (32768 and up), because a member that is
// killed and started again must find its port free. The first hundred are those of etcd's own tests: see tests/etcd.
const (
	firstPort = 20100
	lastPort  = 31999
)

// port is a loopback port held for this process: the lock keeps other test processes from choosing it, also while no member listens on it.
type port struct {
	number int
	lock   *os.File
}

func (p *port) release() {
	if p.lock != nil {
		p.lock.Close()
		p.lock = nil
	}
}

func reservePort() (*port, error) {
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("kvd-test-ports-%d", os.Getuid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("reserving a port: %w", err)
	}
	for range 1000 {
		n := firstPort + rand.IntN(lastPort-firstPort+1)
		lock, err := os.OpenFile(filepath.Join(dir, strconv.Itoa(n)), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, fmt.Errorf("reserving port %d: %w", n, err)
		}
		if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			lock.Close()
			continue
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", n))
		if err != nil {
			lock.Close()
			continue
		}
		l.Close()
		return &port{number: n, lock: lock}, nil
	}
	return nil, fmt.Errorf("no free loopback port between %d and %d found", firstPort, lastPort)
}

// FreePort gives a loopback port that no other test process will choose before release is called.
func FreePort() (number int, release func(), err error) {
	p, err := reservePort()
	if err != nil {
		return 0, nil, err
	}
	return p.number, p.release, nil
}
