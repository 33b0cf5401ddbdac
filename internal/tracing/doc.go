// Package tracing makes the spans of requests on their way through a member:
// router, shard, apply. The spans of the calls themselves are OpenTelemetry's own
// for gRPC.
//
// Tracing is on or off for the whole process. While it is off, or a request is
// not sampled, it costs one look at a pointer, or at the request's context, and
// allocates nothing: that must stay so. Spans never hold keys or values.
package tracing
