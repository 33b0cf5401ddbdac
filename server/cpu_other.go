//go:build !unix

package server

import "time"

// cpuTime is the processor time that this process has used; zero if unknown.
func cpuTime() time.Duration { return 0 }
