// Package api serves etcd's v3 API on the client port, and the HTTP pages that
// belong to it. It is thin: it checks requests as etcd does (package check),
// hands them to the router and the watch hub, and fills response headers.
//
// # The fast path
//
// Range, Put, DeleteRange and Txn are the server's load. Their handlers are
// written out instead of generated: they decode a request together with its own
// encoding, no interceptor lies between, and the response may be bytes that the
// owner of a shard encoded. Everything else takes the usual way.
//
// # The client port
//
// gRPC and HTTP/1 share it. A plaintext connection shows with its first bytes
// whether it is HTTP/2, which is gRPC; of a TLS connection ALPN decides: who
// offers HTTP/1.1 gets it (browsers, curl), for gRPC clients offer only h2. So
// gRPC runs on its own server and never through net/http.
//
// # What it must never do
//
// Hold logic that the router could hold; change a request; answer a request
// that is not valid in a way that differs from etcd's code or text.
package api
