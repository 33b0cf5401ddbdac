// Command report plays the scenarios of package tests/sim at full size and writes the
// page docs/simulation.md with its plots. The same seed gives the same page, to the
// byte. It exits with 1 if a run does not show what it has to.
//
// It is a module of its own, so that the plotting library is none of kvd's
// dependencies.
package main
