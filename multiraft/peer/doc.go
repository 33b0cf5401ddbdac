// Package peer owns the one port on which members of a cluster talk to each other.
//
// A listener on the peer URLs accepts (TLS) connections and looks at the first bytes: a connection that opens
// with the mesh magic becomes a mesh connection, everything else is served by a gRPC server on the same port.
//
//   - Mesh connections carry small frames with low latency. Between two members there is one connection per channel
//     and direction: a member sends on connections it dialled itself and receives on those the other side dialled.
//     Channels are separate TCP connections so that a burst on one cannot delay the other's heartbeats.
//   - gRPC carries bulk: snapshots, range streams, feeds, administration.
//
// What it promises
//
//   - Frames of one channel arrive in the order of Send, each at most once, and unaltered (checksummed).
//   - Nothing is delivered that was not sent by a member of the same cluster: the handshake names cluster, sender and
//     receiver, and the process decides through Config.Allowed who may talk to it. With mutual TLS configured this rests on
//     certificates; without it the peer port must be on a trusted network.
//   - Send never blocks and its queue is bounded. A frame that Send accepted is lost only together with its
//     connection, and then NotifyDown is called: whatever was in flight is of unknown fate.
//   - A connection that stands still (no progress, no answer to pings) for Config.DeadAfter is closed.
//
// Invariants
//
//   - At most one incoming connection per (member, channel) delivers frames at any time: when a member connects again,
//     the old connection's reader has ended before the new one starts, so order survives reconnects.
//   - Frames that were pending on a lost connection are dropped, never carried over to the next one.
//   - NotifyDown for a lost outgoing connection is called before the next dial.
//   - Handlers run on the connection's reader goroutine. They must be quick: while one runs, pings are not answered.
//
// What it must never do: interpret frames, retry them, or panic on bytes from the network.
//
// Lock order: Mesh.mu before outgoing.mu. Callbacks (handlers, NotifyDown, Config functions) run without locks.
package peer
