//go:build invariants

package mvcc

// invariants says that dear checks are compiled in.
const invariants = true

// assert ends the process of a test whose state is not what it must be.
func assert(ok bool, what string) {
	if !ok {
		panic("mvcc: invariant broken: " + what)
	}
}
