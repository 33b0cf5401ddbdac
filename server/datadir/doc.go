// Package datadir guards a member's data directory: one process at a time, and
// only a directory that this cluster's member made.
//
// A directory is locked for the life of the process and stamped with the
// identity of its member and with whatever can never change. A directory that
// holds something else, or that a newer kvd wrote, is refused before anything in
// it is touched.
package datadir
