// Package wire encodes and decodes the messages of etcd's KV service that every
// request needs: Range, Put, DeleteRange and Txn with their responses.
//
// It is protobuf, byte for byte what google's library reads and writes, but
// written out by hand because these messages are most of a server's CPU:
//
//   - Decoding copies nothing: byte fields alias the input, which the caller
//     must therefore leave alone for as long as the message lives.
//   - Anything out of the ordinary (an unknown field, a field of another wire
//     type, a message given twice, deep nesting) goes to google's library, so
//     that the meaning is always the same as there. Fuzz tests compare the two.
//   - Encoding appends to a buffer of the caller's, whose size is known before.
//   - A response's header can be left out, so that a gateway passes the owner's
//     bytes on behind a header of its own.
//
// No input makes the package panic. It keeps no state.
package wire
