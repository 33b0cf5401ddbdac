package placement

import (
	"syscall"
	"time"
	"unsafe"
)

// clockBoottime is CLOCK_BOOTTIME: monotonic, and it counts the time that the
// machine was suspended.
const clockBoottime = 7

// BootClock reads the clock that leases rest on.
//
// It is read for each answer of the sequencer. The system call is made without
// telling the scheduler, because it never blocks: that halves its cost.
func BootClock() time.Duration {
	var ts syscall.Timespec
	_, _, errno := syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clockBoottime, uintptr(unsafe.Pointer(&ts)), 0)
	if errno != 0 {
		// Every Linux since 2.6.39 has this clock: without it no lease is safe.
		panic("placement: CLOCK_BOOTTIME cannot be read: " + errno.Error())
	}
	return time.Duration(ts.Nano())
}
