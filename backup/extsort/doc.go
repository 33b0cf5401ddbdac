// Package extsort sorts more rows than fit into memory: it fills a buffer, writes
// it out as a sorted run, and merges the runs in the end.
//
// It promises that memory stays within Options.Bytes and the read buffers of one
// merge (MergeBytes), whatever is added, except for a single row that is larger;
// and that rows of equal keys come out in the order in which they were added.
//
// It must never leave a file behind: Close removes what was written, and whoever
// uses it empties the directory at the next start, for the case of a crash.
package extsort
