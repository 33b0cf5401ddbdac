// Package auth decides who may do what: who a request comes from (a token, or the
// common name of a client certificate), what its user's roles permit, and whether
// that was still so when the request took effect.
//
// # What it owns
//
//   - [Rules] are the permissions of one version of users and roles (package
//     authstate, replicated through the placement group), compiled when first
//     asked for. Checks are pure: a [Caller] and a request in, etcd's error out.
//   - [Service] finds the caller of a request, runs requests under the rules of a
//     version and again under newer ones, and carries out the changes that
//     administrators ask for. Passwords are hashed and compared by few workers.
//
// # What it promises
//
//  1. A change that returned is in force for every linearizable request that
//     starts after that, on any member. A request is checked under the rules that
//     this member knows, and goes on with their version ([Version]). Whoever
//     obtains the sequencer's answer for it (package shard, for writes the
//     sequencer itself) compares: in another version it is not carried out, and
//     [Service.Run] checks it again. What goes to no shard is compared by
//     [Service.Run] itself, where it is told to.
//  2. A refusal is as current as a permission: before a request is refused, the
//     version is compared with the sequencer's.
//  3. While auth is on, serializable reads and watches, which ask nobody, are
//     served only as long as this member heard from the sequencer within
//     [newsLimit] that its rules are the present ones.
//  4. While auth is off, a request costs one look at a pointer.
//  5. Passwords, hashes, tokens and the secret that signs them are in no log, no
//     error and no metric.
//
// Version 0 means that auth is off. kvd's own requests are marked by [Exempt].
//
// # Tokens
//
// Simple tokens are signed with a secret of the placement group, so that every
// member knows them at once: see docs/decisions. JSON web tokens are etcd's.
//
// # What it must never do
//
// Compare a password on the goroutine of a shard or of raft; let a request pass
// because the rules are not known.
package auth
