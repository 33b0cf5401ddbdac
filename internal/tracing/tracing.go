package tracing

import (
	"context"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

var current atomic.Pointer[trace.Tracer]

// Enable makes the process trace with t; nil turns tracing off.
func Enable(t trace.Tracer) {
	if t == nil {
		current.Store(nil)
		return
	}
	current.Store(&t)
}

// On says whether the process traces at all.
func On() bool { return current.Load() != nil }

// Sampled says whether a request's spans are wanted.
func Sampled(ctx context.Context) bool {
	return current.Load() != nil && trace.SpanContextFromContext(ctx).IsSampled()
}

// Start begins a span. Call it only for a request that is Sampled.
func Start(ctx context.Context, name string, attributes ...attribute.KeyValue) (context.Context, trace.Span) {
	t := current.Load()
	if t == nil {
		return ctx, trace.SpanFromContext(context.Background())
	}
	return (*t).Start(ctx, name, trace.WithAttributes(attributes...))
}

// End ends a span, with the error that the work ended in.
func End(span trace.Span, err error) {
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
	}
	span.End()
}

// Past makes a span of work that has ended already. Without a beginning or an end
// there was no such work.
func Past(ctx context.Context, name string, from, to time.Time, attributes ...attribute.KeyValue) {
	t := current.Load()
	if t == nil || from.IsZero() || to.Before(from) {
		return
	}
	_, span := (*t).Start(ctx, name, trace.WithTimestamp(from), trace.WithAttributes(attributes...))
	span.End(trace.WithTimestamp(to))
}

// ParentBytes is the length of what AppendParent appends.
const ParentBytes = len(trace.TraceID{}) + len(trace.SpanID{}) + 1

// AppendParent appends the span of ctx, for a member that goes on with the
// request.
func AppendParent(b []byte, ctx context.Context) []byte {
	sc := trace.SpanContextFromContext(ctx)
	id, span := sc.TraceID(), sc.SpanID()
	return append(append(append(b, id[:]...), span[:]...), byte(sc.TraceFlags()))
}

// WithParent gives ctx the span that another member appended. What is not one is
// ignored.
func WithParent(ctx context.Context, b []byte) context.Context {
	if len(b) != ParentBytes {
		return ctx
	}
	var c trace.SpanContextConfig
	n := copy(c.TraceID[:], b)
	n += copy(c.SpanID[:], b[n:])
	c.TraceFlags, c.Remote = trace.TraceFlags(b[n]), true
	sc := trace.NewSpanContext(c)
	if !sc.IsValid() {
		return ctx
	}
	return trace.ContextWithRemoteSpanContext(ctx, sc)
}
