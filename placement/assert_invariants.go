//go:build invariants

package placement

// assertState checks every invariant after each entry.
func assertState(s *State) error { return s.check() }
