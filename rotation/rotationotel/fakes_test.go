package rotationotel

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"

	"github.com/vaultpool/vaultpool/rotation"
)

// fakeRotator says what a test wants it to say.
type fakeRotator struct {
	mu          sync.Mutex // guards what follows
	s           rotation.Status
	stall       chan struct{} // Status waits for its close, if not nil
	subscribers []func(rotation.Event)
}

func (f *fakeRotator) set(change func(*fakeRotator)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func (f *fakeRotator) Status() rotation.Status {
	f.mu.Lock()
	stall := f.stall
	f.mu.Unlock()
	if stall != nil {
		<-stall
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.s
}

func (f *fakeRotator) Subscribe(to func(rotation.Event)) (cancel func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := len(f.subscribers)
	f.subscribers = append(f.subscribers, to)
	return func() { f.set(func(f *fakeRotator) { f.subscribers[i] = nil }) }
}

func (f *fakeRotator) subscribed() (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, to := range f.subscribers {
		if to != nil {
			n++
		}
	}
	return n
}

func (f *fakeRotator) emit(events ...rotation.Event) {
	for _, e := range events {
		if e.Time.IsZero() {
			e.Time = time.Now()
		}
		f.mu.Lock()
		subscribers := append([]func(rotation.Event){}, f.subscribers...)
		f.mu.Unlock()
		for _, to := range subscribers {
			if to != nil {
				to(e)
			}
		}
	}
}

// fakeMeter keeps what is recorded, by name and attributes, "vaultpool.rotations vaultpool.pool=default".
type fakeMeter struct {
	fails string // the instrument that cannot be created

	mu        sync.Mutex // guards what follows
	sums      map[string]float64
	last      map[string]float64
	callbacks []metric.Callback
}

var errNoInstrument = errors.New("no such instrument here")

func newFakeMeter() *fakeMeter {
	return &fakeMeter{sums: make(map[string]float64), last: make(map[string]float64)}
}

func (m *fakeMeter) provider() metric.MeterProvider { return fakeProvider{m: m} }

type fakeProvider struct {
	metricnoop.MeterProvider
	m *fakeMeter
}

func (p fakeProvider) Meter(string, ...metric.MeterOption) metric.Meter { return fakeMeterOnly{m: p.m} }

// fakeMeterOnly is the Meter of a fakeMeter.
type fakeMeterOnly struct {
	metricnoop.Meter
	m *fakeMeter
}

func (o fakeMeterOnly) check(name string) error {
	if name == o.m.fails {
		return errNoInstrument
	}
	return nil
}

func (o fakeMeterOnly) Int64Counter(name string, _ ...metric.Int64CounterOption) (metric.Int64Counter, error) {
	return fakeCounter{m: o.m, name: name}, o.check(name)
}

func (o fakeMeterOnly) Float64Histogram(name string, _ ...metric.Float64HistogramOption) (metric.Float64Histogram, error) {
	return fakeHistogram{m: o.m, name: name}, o.check(name)
}

func (o fakeMeterOnly) Float64ObservableGauge(name string, _ ...metric.Float64ObservableGaugeOption) (metric.Float64ObservableGauge, error) {
	return fakeFloat{name: name}, o.check(name)
}

func (o fakeMeterOnly) Int64ObservableGauge(name string, _ ...metric.Int64ObservableGaugeOption) (metric.Int64ObservableGauge, error) {
	return fakeInt{name: name}, o.check(name)
}

func (o fakeMeterOnly) Int64ObservableUpDownCounter(name string, _ ...metric.Int64ObservableUpDownCounterOption) (metric.Int64ObservableUpDownCounter, error) {
	return fakeUpDown{name: name}, o.check(name)
}

func (o fakeMeterOnly) Int64ObservableCounter(name string, _ ...metric.Int64ObservableCounterOption) (metric.Int64ObservableCounter, error) {
	return fakeRising{name: name}, o.check(name)
}

func (o fakeMeterOnly) RegisterCallback(f metric.Callback, _ ...metric.Observable) (metric.Registration, error) {
	if err := o.check("callback"); err != nil {
		return nil, err
	}
	o.m.mu.Lock()
	defer o.m.mu.Unlock()
	i := len(o.m.callbacks)
	o.m.callbacks = append(o.m.callbacks, f)
	return fakeRegistration{undo: func() {
		o.m.mu.Lock()
		defer o.m.mu.Unlock()
		o.m.callbacks[i] = nil
	}}, nil
}

type fakeRegistration struct {
	metricnoop.Registration
	undo func()
}

func (r fakeRegistration) Unregister() error { r.undo(); return nil }

type (
	fakeCounter struct {
		metricnoop.Int64Counter
		m    *fakeMeter
		name string
	}
	fakeHistogram struct {
		metricnoop.Float64Histogram
		m    *fakeMeter
		name string
	}
	fakeFloat struct {
		metricnoop.Float64ObservableGauge
		name string
	}
	fakeInt struct {
		metricnoop.Int64ObservableGauge
		name string
	}
	fakeUpDown struct {
		metricnoop.Int64ObservableUpDownCounter
		name string
	}
	fakeRising struct {
		metricnoop.Int64ObservableCounter
		name string
	}
)

func (f fakeFloat) is() string  { return f.name }
func (f fakeInt) is() string    { return f.name }
func (f fakeUpDown) is() string { return f.name }
func (f fakeRising) is() string { return f.name }

func (c fakeCounter) Add(_ context.Context, n int64, options ...metric.AddOption) {
	config := metric.NewAddConfig(options)
	c.m.add(c.name, config.Attributes(), float64(n))
}

// Record counts the values, and keeps the last.
func (h fakeHistogram) Record(_ context.Context, v float64, options ...metric.RecordOption) {
	config := metric.NewRecordConfig(options)
	h.m.add(h.name, config.Attributes(), 1)
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	h.m.last[h.name] = v
}

func (m *fakeMeter) add(name string, attributes attribute.Set, n float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sums[key(name, attributes)] += n
}

func key(name string, attributes attribute.Set) string {
	return name + " " + attributes.Encoded(attribute.DefaultEncoder())
}

type fakeObserver struct {
	metricnoop.Observer
	seen map[string]float64
}

func (o fakeObserver) ObserveFloat64(of metric.Float64Observable, v float64, options ...metric.ObserveOption) {
	o.see(of, v, options)
}

func (o fakeObserver) ObserveInt64(of metric.Int64Observable, v int64, options ...metric.ObserveOption) {
	o.see(of, float64(v), options)
}

func (o fakeObserver) see(of any, v float64, options []metric.ObserveOption) {
	config := metric.NewObserveConfig(options)
	named, _ := of.(interface{ is() string })
	o.seen[key(named.is(), config.Attributes())] = v
}

// collect reads the gauges.
func (m *fakeMeter) collect(t *testing.T) map[string]float64 {
	t.Helper()
	m.mu.Lock()
	callbacks := append([]metric.Callback{}, m.callbacks...)
	m.mu.Unlock()
	seen := make(map[string]float64)
	for _, f := range callbacks {
		if f == nil {
			continue
		}
		if err := f(context.Background(), fakeObserver{seen: seen}); err != nil {
			t.Error(err)
		}
	}
	return seen
}

func (m *fakeMeter) sum(name string) float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sums[name]
}

// fakeTracer keeps spans.
type fakeTracer struct {
	tracenoop.TracerProvider

	mu    sync.Mutex // guards spans
	spans []*fakeSpan
}

type fakeSpan struct {
	tracenoop.Span
	name       string
	parent, id trace.SpanContext
	start, end time.Time
	ended      int
	failed     bool
}

func (f *fakeTracer) Tracer(string, ...trace.TracerOption) trace.Tracer { return fakeTracing{of: f} }

type fakeTracing struct {
	tracenoop.Tracer
	of *fakeTracer
}

func (f fakeTracing) Start(ctx context.Context, name string, options ...trace.SpanStartOption) (context.Context, trace.Span) {
	config := trace.NewSpanStartConfig(options...)
	f.of.mu.Lock()
	defer f.of.mu.Unlock()
	id := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{byte(len(f.of.spans) + 1)}})
	span := &fakeSpan{name: name, parent: trace.SpanContextFromContext(ctx), id: id, start: config.Timestamp()}
	f.of.spans = append(f.of.spans, span)
	return trace.ContextWithSpan(ctx, span), span
}

func (s *fakeSpan) SpanContext() trace.SpanContext { return s.id }
func (s *fakeSpan) SetStatus(c codes.Code, _ string) {
	s.failed = c == codes.Error
}

func (s *fakeSpan) End(options ...trace.SpanEndOption) {
	config := trace.NewSpanEndConfig(options...)
	s.end = config.Timestamp()
	s.ended++
}

func (f *fakeTracer) of(name string) (found []*fakeSpan) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.spans {
		if s.name == name {
			found = append(found, s)
		}
	}
	return found
}
