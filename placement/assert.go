//go:build !invariants

package placement

// assertState checks what is cheap after each entry. Builds with the tag
// "invariants" check everything.
func assertState(s *State) error { return s.checkCheap() }
