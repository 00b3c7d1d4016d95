package rotationotel

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/vaultpool/vaultpool/rotation"
	"github.com/vaultpool/vaultpool/rotation/internal/asker"
)

// ScopeName is the instrumentation scope of all metrics and spans.
const ScopeName = "github.com/vaultpool/vaultpool/rotation/rotationotel"

// Config says where to and under which name. The zero value is useful.
type Config struct {
	// MeterProvider takes the metrics. Default: [otel.GetMeterProvider].
	MeterProvider metric.MeterProvider
	// TracerProvider takes the spans. Default: [otel.GetTracerProvider].
	TracerProvider trace.TracerProvider
	// Pool is the attribute vaultpool.pool of everything: which credential of the process this
	// is. Give each rotator its own, or their gauges overwrite each other. Default "default".
	Pool string
	// Attributes are added to everything. Each value makes a series of its own: none
	// that changes, and no secret.
	Attributes []attribute.KeyValue
	// StallTimeout is how long the rotator's loop may take to answer before it counts as
	// stalled: a collection takes no longer than that. Default 500 ms.
	StallTimeout time.Duration
}

func (c Config) withDefaults() Config {
	if c.MeterProvider == nil {
		c.MeterProvider = otel.GetMeterProvider()
	}
	if c.TracerProvider == nil {
		c.TracerProvider = otel.GetTracerProvider()
	}
	if c.Pool == "" {
		c.Pool = "default"
	}
	if c.StallTimeout <= 0 {
		c.StallTimeout = 500 * time.Millisecond
	}
	c.Attributes = append(slices.Clone(c.Attributes), keyPool.String(c.Pool))
	return c
}

// Instrument reports what r does from here on: call it right after r was made, once. What
// happened before is not counted. It ends by itself when r is closed; stop ends it before
// that and is idempotent. Counters and histograms keep their last values, gauges are gone.
//
// The error is that of a meter that refuses an instrument, or wraps [rotation.ErrClosed] if r
// is closed. Nothing is reported then; r is not affected.
func Instrument(r *rotation.Rotator, config Config) (stop func(), err error) {
	return instrument(r, config)
}

// rotator is what is needed of a rotation.Rotator.
type rotator interface {
	Status() rotation.Status
	Subscribe(f func(rotation.Event)) (cancel func())
}

func instrument(r rotator, config Config) (stop func(), err error) {
	config = config.withDefaults()
	meter := config.MeterProvider.Meter(ScopeName)
	rec, err := newRecorder(meter, config)
	if err != nil {
		return nil, fmt.Errorf("instrumenting rotator %q: %w", config.Pool, err)
	}
	ask := asker.New(r.Status, config.StallTimeout)
	registration, err := observe(meter, ask, config.Attributes)
	if err != nil {
		return nil, fmt.Errorf("instrumenting rotator %q: %w", config.Pool, err)
	}
	var unsubscribe func()
	subscribed := make(chan struct{})
	stop = sync.OnceFunc(func() {
		<-subscribed
		unsubscribe()
		rec.stop()
		// It only fails if the provider has been shut down, and then there is nothing to undo.
		_ = registration.Unregister()
	})
	unsubscribe = r.Subscribe(func(e rotation.Event) {
		if rec.add(e); e.Kind == rotation.Closed {
			stop()
		}
	})
	close(subscribed)
	// Asked after subscribing: what is closed after this answer says so.
	if snap := ask.Ask(); !snap.Stalled && snap.Status.Closed {
		stop()
		return nil, fmt.Errorf("instrumenting rotator %q: %w", config.Pool, rotation.ErrClosed)
	}
	return stop, nil
}
