package main

import (
	"bufio"
	"bytes"
	"fmt"
	"math"
	"net"
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/kvd-io/kvd/server/config"
)

// minMemoryLimit is a floor under which a limit would only make the collector spin.
const minMemoryLimit = 256 << 20

// prepareProcess sets the garbage collector, where the environment does not, and locks memory if asked to.
func prepareProcess(environ []string, cfg *config.Config) error {
	if lookup(environ, "GOGC") == "" {
		tuneGC(heapGrowth)
		cfg.Logger.Info("set the garbage collector", zap.Int("gogc", gcPercent))
	}
	if total := machineMemory("/"); total > 0 && lookup(environ, "GOMEMLIMIT") == "" {
		limit := memoryLimit(total, cfg.BlockCacheBytes+cfg.MemtableBytes)
		debug.SetMemoryLimit(limit)
		cfg.Logger.Info("set the memory limit of the heap", zap.Int64("gomemlimit", limit))
	}
	if cfg.MemoryLock {
		if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE); err != nil {
			return fmt.Errorf("keeping the process's memory out of swap (--memory-mlock): %w", err)
		}
	}
	return nil
}

// memoryLimit is what of a machine's bytes Go's heap may take: three quarters without what the store keeps outside of
// the heap, at least a quarter.
func memoryLimit(total, outside int64) int64 {
	return max(total/4*3-outside, total/4, minMemoryLimit)
}

// machineMemory answers the bytes that this process may use: those of the machine, or the control group's if they are
// fewer. 0 if neither can be read.
func machineMemory(root string) int64 {
	total := int64(math.MaxInt64)
	if content, err := os.ReadFile(root + "proc/meminfo"); err == nil {
		for scanner := bufio.NewScanner(bytes.NewReader(content)); scanner.Scan(); {
			fields := strings.Fields(scanner.Text())
			if len(fields) >= 2 && fields[0] == "MemTotal:" {
				if kilobytes, err := strconv.ParseInt(fields[1], 10, 53); err == nil {
					total = kilobytes << 10
				}
			}
		}
	}
	for _, path := range []string{"sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		content, err := os.ReadFile(root + path)
		if err != nil {
			continue
		}
		// "max", or a huge number, is no limit.
		if limit, err := strconv.ParseInt(strings.TrimSpace(string(content)), 10, 64); err == nil && limit > 0 {
			total = min(total, limit)
		}
	}
	if total == math.MaxInt64 {
		return 0
	}
	return total
}

// notifySystemd tells a state to systemd, if it started this process with Type=notify.
func notifySystemd(logger *zap.Logger, environ []string, state string) {
	socket := lookup(environ, "NOTIFY_SOCKET")
	if socket == "" {
		return
	}
	// A leading @ is the abstract namespace, which package net writes the same way.
	conn, err := net.Dial("unixgram", socket)
	if err == nil {
		_, err = conn.Write([]byte(state))
		_ = conn.Close() // nothing was buffered
	}
	if err != nil {
		logger.Warn("failed to notify systemd", zap.String("state", state), zap.Error(err))
	}
}

// lookup finds a variable; of several the last one counts, as for the shell.
func lookup(environ []string, name string) string {
	found := ""
	for _, entry := range environ {
		if key, value, ok := strings.Cut(entry, "="); ok && key == name {
			found = value
		}
	}
	return found
}
