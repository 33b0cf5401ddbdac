// Package expiry measures what happens when many client leases end at once: whether
// any ends early, how late the last one is, and what writes that have nothing to do
// with it see of it. Command tests/leases runs it at full size, tests/e2e at a
// reduced one.
package expiry
