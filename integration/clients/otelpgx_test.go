package clients_test

import (
	"context"
	"sync"
	"testing"

	"github.com/exaring/otelpgx"
	"go.opentelemetry.io/otel/codes"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/pgvault"
	"github.com/vaultpool/vaultpool/rotation/rotationotel"
)

// otelpgx traces what the service does, and only that: the connections that are taken and given back to replace
// them do not show. Its queries name the user that they ran as, which tells the credentials apart. Beside it,
// rotationotel traces what the rotator does.
func TestOtelpgx(t *testing.T) {
	t.Parallel()
	spans := &spanCounter{count: make(map[string]int), users: make(map[string]bool)}
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	reader := sdkmetric.NewManualReader()
	meters := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	p := openPool(t, func(c *pgvault.Config) {
		c.ConnConfig.Tracer = otelpgx.NewTracer(otelpgx.WithTracerProvider(provider), otelpgx.WithMeterProvider(meters),
			otelpgx.WithQuerySpanNamePrefix())
	})
	kit.Check(t, otelpgx.RecordStats(p.Pool.Pool, otelpgx.WithStatsMeterProvider(meters)))
	_, err := rotationotel.Instrument(p.rotator, rotationotel.Config{TracerProvider: provider, MeterProvider: meters})
	kit.Check(t, err)
	tracer := provider.Tracer("test")
	users := map[string]bool{p.rotator.Status().User: true}
	p.through(t, func(ctx context.Context, worker, n int) error {
		ctx, span := tracer.Start(ctx, "round")
		defer span.End()
		var got int
		err := p.QueryRow(ctx, "SELECT $1::int", n).Scan(&got)
		if err == nil && got != n {
			err = errWrong
		}
		return err
	})
	users[p.rotator.Status().User] = true
	for _, step := range []string{"rotate", "issue", "probe", "drain", "revoke"} {
		kit.Eventually(t, "a span for every "+step, func(context.Context) bool {
			return spans.of("vaultpool."+step) == rotations
		})
	}

	spans.mu.Lock()
	defer spans.mu.Unlock()
	rounds := spans.count["round"]
	if spans.count["query SELECT"] != rounds || spans.count["pool.acquire"] != rounds {
		t.Errorf("in %d rounds there are these spans: %v", rounds, spans.count)
	}
	if spans.count["connect"] == 0 || spans.count["connect"] >= rounds {
		t.Errorf("%d spans are of logins that callers waited for", spans.count["connect"])
	}
	if spans.errors > 0 {
		t.Errorf("%d spans have an error", spans.errors)
	}
	if len(spans.users) != rotations+1 {
		t.Errorf("the spans name %d users: %v", len(spans.users), spans.users)
	}
	for user := range users {
		if !spans.users[user] {
			t.Errorf("no query ran as %s, but as %v", user, spans.users)
		}
	}
	var metrics metricdata.ResourceMetrics
	kit.Check(t, reader.Collect(t.Context(), &metrics))
	if n := operations(metrics, "db.client.operation.duration"); n < uint64(rounds) {
		t.Errorf("it has measured %d operations in %d rounds", n, rounds)
	}
}

// operations counts what a histogram has measured.
func operations(metrics metricdata.ResourceMetrics, name string) (n uint64) {
	for _, scope := range metrics.ScopeMetrics {
		for _, m := range scope.Metrics {
			if histogram, ok := m.Data.(metricdata.Histogram[float64]); ok && m.Name == name {
				for _, point := range histogram.DataPoints {
					n += point.Count
				}
			}
		}
	}
	return n
}

// spanCounter counts spans by their names, and notes as whom queries ran.
type spanCounter struct {
	mu     sync.Mutex // guards what follows
	count  map[string]int
	users  map[string]bool
	errors int
}

// OnStart makes spanCounter an sdktrace.SpanProcessor.
func (*spanCounter) OnStart(context.Context, sdktrace.ReadWriteSpan) {}

// OnEnd counts a span.
func (c *spanCounter) OnEnd(s sdktrace.ReadOnlySpan) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count[s.Name()]++
	if s.Status().Code == codes.Error {
		c.errors++
	}
	if s.Name() != "query SELECT" {
		return
	}
	for _, a := range s.Attributes() {
		if a.Key == "user.name" {
			c.users[a.Value.AsString()] = true
		}
	}
}

func (c *spanCounter) of(name string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count[name]
}

// Shutdown makes spanCounter an sdktrace.SpanProcessor.
func (*spanCounter) Shutdown(context.Context) error { return nil }

// ForceFlush makes spanCounter an sdktrace.SpanProcessor.
func (*spanCounter) ForceFlush(context.Context) error { return nil }
