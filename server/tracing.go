package server

import (
	"context"
	"fmt"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.uber.org/zap"
	"google.golang.org/grpc/stats"

	"github.com/kvd-io/kvd/internal/tracing"
)

// openTracing makes what sends spans to a collector, if that is asked for, and
// answers what makes the spans of gRPC calls; nil for none. A collector that is
// out of reach does no harm: spans are dropped.
func (m *Member) openTracing(ctx context.Context) (stats.Handler, error) {
	c := m.cfg.Tracing
	if !c.Enabled {
		return nil, nil
	}
	exporter, err := otlptracegrpc.New(ctx, otlptracegrpc.WithInsecure(), otlptracegrpc.WithEndpoint(c.Address))
	if err != nil {
		return nil, fmt.Errorf("distributed tracing: %w", err)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { m.log.Warn("could not send spans", zap.Error(err)) }))
	who := []attribute.KeyValue{attribute.String("service.name", c.Service)}
	if c.Instance != "" {
		who = append(who, attribute.String("service.instance.id", c.Instance))
	}
	sampler := sdk.NeverSample()
	if c.PerMillion > 0 {
		sampler = sdk.TraceIDRatioBased(float64(c.PerMillion) / 1e6)
	}
	provider := sdk.NewTracerProvider(sdk.WithBatcher(exporter), sdk.WithResource(resource.NewSchemaless(who...)), sdk.WithSampler(sdk.ParentBased(sampler)))
	tracing.Enable(provider.Tracer("github.com/kvd-io/kvd"))
	m.onClose(func() {
		tracing.Enable(nil)
		m.bounded(stopTimeout, "send the last spans", provider.Shutdown)
	})
	m.log.Info("tracing requests", zap.String("collector", c.Address), zap.String("service", c.Service), zap.Int("per-million", c.PerMillion))
	return otelgrpc.NewServerHandler(otelgrpc.WithTracerProvider(provider),
		otelgrpc.WithPropagators(propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}))), nil
}
