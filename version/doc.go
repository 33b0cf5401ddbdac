// Package version says which kvd this is, and which etcd it is compatible with.
//
// Version and Commit are stamped by the linker (see the Makefile); a plain `go build` leaves their defaults.
// Clients switch features on by the etcd version, so Etcd is what the server reports in Status and /version.
// The package imports nothing of kvd and must never read anything at run time.
package version
