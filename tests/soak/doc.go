// Command soak runs rounds of package chaos for as long as it is asked to, each with a fresh seed, and stops at the first that finds something.
//
//	go run ./tests/soak -duration 1h
//	go run ./tests/soak -seed 17 -faults pause-owner,split    # again what round 17 did
//
// It prints a line per round, the seed of a failure with where its evidence lies, and in the end how long each fault was in force.
package main
