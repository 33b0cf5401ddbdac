// Package inner lets a member call its own gRPC services without network or
// connection, as the client whose request it serves.
//
// # What it owns
//
//   - [Services] are services and the interceptors before them, as of a
//     grpc.Server.
//   - [Conn] is a grpc.ClientConnInterface to them. Messages are encoded and
//     decoded on the way as gRPC does, so that neither side sees memory of the
//     other.
//
// # What it promises
//
//  1. A call runs with the identity of the caller of [Services.As]: the metadata and
//     the peer (with its certificate) of that request, whatever context the call
//     itself has. It can do no more than its caller.
//  2. A stream ends with its context or its handler. Nothing is buffered: whoever
//     sends waits until the other side receives.
//  3. Errors are those that a client of the network would get.
package inner
