//go:build !linux

package placement

import "time"

var processStart = time.Now()

// BootClock reads the clock that leases rest on. Where there is no CLOCK_BOOTTIME
// it stands still while the machine is suspended: use quorum reads there.
func BootClock() time.Duration { return time.Since(processStart) }
