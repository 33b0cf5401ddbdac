// Command demo shows kvd at work and checks what it shows.
//
// Three members, real processes with real fsync on loopback, take in this machine's Debian package index (a small excerpt of one where there is
// none) from many clients, while three watches over the whole of it are open, one through each member, and while shards are split at real
// boundaries until there are at least eight. Then one member is killed with SIGKILL in the middle of updates and started again.
//
// The demo remembers every put: its value carries the put's own number, so that whatever the store shows later can be traced to one put. An
// answered put has a revision; one that ended in an error may or may not have happened, and what the watches show decides. In the end
//
//   - every answered put is found at its revision, and no put is found twice or at another one;
//   - every watch saw every revision once, in order, and all saw the same;
//   - ranges over all shards at several old revisions equal what the remembered puts say;
//   - revisions are dense, but for gaps that lie between the kill and the new ownership and keep within their bound.
//
// It exits non-zero if any of these does not hold. It never touches anything outside its own temporary directory and loopback.
package main
