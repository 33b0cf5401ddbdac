// Package histogram counts durations in buckets whose bounds double, at the
// price of two atomic additions, so that a request's path can afford it.
//
// It knows nothing of Prometheus: whoever shows metrics reads a Snapshot. It
// must never allocate or lock in Observe.
package histogram
