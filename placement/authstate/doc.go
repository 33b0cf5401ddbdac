// Package authstate is the replicated state of auth: users, roles, permissions,
// and whether they count. It is a part of the placement group's state.
//
// # What it promises
//
//   - A [State] is immutable. Apply answers a new one, or why etcd would refuse
//     the change, with etcd's error; what it answers follows from state and
//     command alone: no clock, no chance, no order of a map. Passwords come as
//     hashes, secrets as bytes that the proposer drew.
//   - A command applies once, however often it is proposed: the last ones are
//     remembered by their ids, with their outcome.
//   - [State.Version] is what the sequencer's answers carry. It is zero while auth
//     is off, and else the auth revision, which rises with every change. So two
//     states of one version permit the same.
//
// # What it must never do
//
// Check a password, a token or a permission: that is package auth.
package authstate
