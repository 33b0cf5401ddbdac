// Package durable writes small files so that a crash leaves either the old
// content or the new, never something in between, and so that what was written
// is still there after a loss of power.
package durable
