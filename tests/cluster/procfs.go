package cluster

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// userHz is the unit of /proc's CPU times; Linux reports 100 per second on every architecture that Go supports.
const userHz = 100

// CPUTime is the user and system time that a process has used, all its threads together (source: /proc/<pid>/stat, to 10 ms).
func CPUTime(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("reading CPU time: %w", err)
	}
	// The second field is the command in parentheses and may hold anything; the fields that follow are counted from the last ')'.
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return 0, fmt.Errorf("reading CPU time: unexpected %q", b)
	}
	f := strings.Fields(string(b[i+1:]))
	if len(f) < 13 {
		return 0, fmt.Errorf("reading CPU time: unexpected %q", b)
	}
	var ticks int64
	for _, s := range f[11:13] {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("reading CPU time: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / userHz, nil
}

// RSS is the resident memory of a process in bytes (source: /proc/<pid>/status).
func RSS(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("reading memory: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("reading memory: %w", err)
			}
			return kib << 10, nil
		}
	}
	return 0, fmt.Errorf("reading memory: no VmRSS for process %d", pid)
}

// MachineCPU is the CPU time that the whole machine has spent: busy is everything but idle and waiting for disks, and includes what a
// hypervisor took away (source: /proc/stat).
func MachineCPU() (busy, total time.Duration, err error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, fmt.Errorf("reading the machine's CPU time: %w", err)
	}
	line, _, _ := strings.Cut(string(b), "\n")
	f := strings.Fields(line)
	if len(f) < 9 || f[0] != "cpu" {
		return 0, 0, fmt.Errorf("reading the machine's CPU time: unexpected %q", line)
	}
	// user nice system idle iowait irq softirq steal; guest time is already in user.
	var t [8]int64
	for i := range t {
		if t[i], err = strconv.ParseInt(f[i+1], 10, 64); err != nil {
			return 0, 0, fmt.Errorf("reading the machine's CPU time: %w", err)
		}
	}
	var all int64
	for _, n := range t {
		all += n
	}
	idle := t[3] + t[4]
	return time.Duration(all-idle) * time.Second / userHz, time.Duration(all) * time.Second / userHz, nil
}

// FDs is the number of open file descriptors of a process (source: /proc/<pid>/fd).
func FDs(pid int) (int, error) {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return 0, fmt.Errorf("counting file descriptors: %w", err)
	}
	return len(entries), nil
}

// socketInode is the inode of the loopback TCP socket with these ports (source: /proc/net/tcp).
func socketInode(local, remote int) (string, error) {
	b, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return "", fmt.Errorf("reading sockets: %w", err)
	}
	from, to := fmt.Sprintf(":%04X", local), fmt.Sprintf(":%04X", remote)
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 9 && strings.HasSuffix(f[1], from) && strings.HasSuffix(f[2], to) {
			return f[9], nil
		}
	}
	return "", fmt.Errorf("no socket from port %d to port %d", local, remote)
}

// holdsSocket tells whether a process has a socket open (source: /proc/<pid>/fd).
func holdsSocket(pid int, inode string) bool {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	want := "socket:[" + inode + "]"
	for _, e := range entries {
		if target, err := os.Readlink(dir + "/" + e.Name()); err == nil && target == want {
			return true
		}
	}
	return false
}
