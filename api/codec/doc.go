// Package codec is the gRPC codec of the client port: protobuf, with the
// messages of the KV service encoded and decoded by package wire, in pooled
// buffers, and everything else by google's library.
//
// # What it promises
//
//   - A KV request is decoded together with its encoding ([Request]), so that a
//     gateway forwards the client's own bytes. Both stay valid for as long as
//     anybody refers to them: they never lie in a buffer that gRPC takes back.
//   - A response can be the bytes that the owner of a shard encoded, behind a
//     header of this member ([Reply]); a watch response can be made of runs of
//     events that many streams share ([Watch]).
//   - What is decoded is what google's library would have decoded (fuzzed).
//
// It must never change a message or bytes that it was given, nor keep a pooled
// buffer. It has no state.
package codec
