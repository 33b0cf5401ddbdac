// Package router brings each request of a client to the shards that hold its
// keys, and their answers back: a gateway's half of the work. It holds no data
// and decides nothing about it.
//
// # What it promises
//
//   - A request inside one shard goes to the shard's owner: called directly
//     where that is this member, else forwarded on the one request channel of
//     the mesh between the two members, which batches whatever is ready.
//   - Stale routes teach ([routes]): whatever an owner or replica says about
//     ranges and owners is taken over if it is newer, and the request goes on.
//     Splits, moves and changes of owners are latency for the client, not errors.
//   - A write is sent a second time only if it is certain that the first one was
//     not written. Whatever was sent and lost its answer ends in an error that
//     says that its fate is unknown.
//   - A read over several shards is the state at one revision R, which was
//     obtained after the request arrived ([Router.Range]).
//   - Memory per request is bounded by what the client asked to have in one
//     answer; streams by a chunk.
//
// # How a large range is read
//
// The owner of each shard only confirms: at revision R, generation G, every
// write up to R is applied at index I. A replica that has applied I, still has
// generation G and has not collected what R needs then is as good as the owner.
// The gateway reads its own copy if it has one ([Replica].View checks all of
// that in the very snapshot that it reads), else some replica streams the keys
// over the bulk connection. So the owner's CPU and the request channel are
// spared whatever the answer's size.
//
// # What it must never do
//
// Retry an ambiguous write; let a request block the reader goroutine of a mesh
// connection; hold a lock while calling a replica, the mesh or a callback.
package router
