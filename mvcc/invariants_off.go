//go:build !invariants

package mvcc

// invariants says that dear checks are compiled in.
const invariants = false

func assert(bool, string) {}
