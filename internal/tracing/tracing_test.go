package tracing

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

func TestOffCostsNothing(t *testing.T) {
	Enable(nil)
	ctx := context.WithValue(context.Background(), testing.TB(t), 1)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if Sampled(ctx) {
			t.Fatal("sampled although tracing is off")
		}
	}))
	_, span := Start(ctx, "x")
	End(span, nil)
	Past(ctx, "x", time.Now(), time.Now())
}

func TestSpansOfOneRequestOnTwoMembers(t *testing.T) {
	recorder := tracetest.NewSpanRecorder()
	provider := sdk.NewTracerProvider(sdk.WithSpanProcessor(recorder))
	Enable(provider.Tracer("test"))
	defer Enable(nil)
	require.False(t, Sampled(context.Background()), "a request without a span of its call")
	ctx, root := provider.Tracer("test").Start(context.Background(), "call")
	require.True(t, Sampled(ctx))
	ctx, forward := Start(ctx, "router.forward")
	b := AppendParent(nil, ctx)
	require.Len(t, b, ParentBytes)

	there := WithParent(context.Background(), b)
	require.True(t, Sampled(there))
	began := time.Now()
	Past(there, "shard.evaluate", began, began.Add(time.Millisecond))
	Past(there, "never", time.Time{}, began)
	End(forward, errors.New("lost"))
	root.End()

	spans := recorder.Ended()
	require.Len(t, spans, 3)
	require.Equal(t, "shard.evaluate", spans[0].Name())
	require.Equal(t, time.Millisecond, spans[0].EndTime().Sub(spans[0].StartTime()))
	require.Equal(t, forward.SpanContext().SpanID(), spans[0].Parent().SpanID())
	require.Equal(t, "lost", spans[1].Status().Description)
	for _, s := range spans {
		require.Equal(t, root.SpanContext().TraceID(), s.SpanContext().TraceID())
	}
	require.False(t, Sampled(WithParent(context.Background(), make([]byte, ParentBytes))), "no valid span")
	require.False(t, trace.SpanContextFromContext(WithParent(context.Background(), b[:5])).IsValid())
}
