package rotationotel

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/vaultpool/vaultpool/rotation"
	"github.com/vaultpool/vaultpool/rotation/internal/asker"
)

// gauges are read from a rotator's status whenever somebody collects.
type gauges struct {
	ask  *asker.Asker
	base attribute.Set

	timeLeft, ttl, rotationLeft, age, stalled metric.Float64ObservableGauge
	usable                                    metric.Int64ObservableGauge
	connections, unrevoked, limit             metric.Int64ObservableUpDownCounter
	paid                                      metric.Int64ObservableCounter

	mu        sync.Mutex           // guards databases
	databases map[string]time.Time // and when each was last there
}

// observe creates the gauges and has them read.
func observe(meter metric.Meter, ask *asker.Asker, base []attribute.KeyValue) (metric.Registration, error) {
	g := &gauges{ask: ask, base: attribute.NewSet(base...), databases: make(map[string]time.Time)}
	if err := g.create(meter); err != nil {
		return nil, err
	}
	registration, err := meter.RegisterCallback(g.read, g.timeLeft, g.ttl, g.rotationLeft, g.age, g.stalled,
		g.usable, g.connections, g.unrevoked, g.limit, g.paid)
	if err != nil {
		return nil, fmt.Errorf("registering the callback of the gauges: %w", err)
	}
	return registration, nil
}

func (g *gauges) create(meter metric.Meter) (err error) {
	for _, gauge := range []struct {
		to          *metric.Float64ObservableGauge
		name, about string
	}{
		{&g.timeLeft, nameTimeLeft, "Time until the current credential ends; 0 or less once it has. Absent where no end is known."},
		{&g.ttl, nameTTL, "Time to live that was granted last, at the issue or by a renewal. Absent where no end is known."},
		{&g.rotationLeft, nameRotationLeft, "Time until the current credential is replaced by schedule, unless a renewal moves that; less than 0 while that is overdue. Absent where no end is known."},
		{&g.age, nameAge, "Age of the current credential. Absent before the first."},
		{&g.stalled, nameStalled, "Time since the rotator's loop was asked something that it has not answered; 0 while it answers."},
	} {
		if *gauge.to, err = meter.Float64ObservableGauge(gauge.name, metric.WithUnit("s"), metric.WithDescription(gauge.about)); err != nil {
			return fmt.Errorf("creating %s: %w", gauge.name, err)
		}
	}
	// No unit: exporters to Prometheus would make a ratio of "1".
	if g.usable, err = meter.Int64ObservableGauge(nameUsable, metric.WithDescription("1 if a login is possible now, else 0.")); err != nil {
		return fmt.Errorf("creating %s: %w", nameUsable, err)
	}
	for _, counter := range []struct {
		to                *metric.Int64ObservableUpDownCounter
		name, unit, about string
	}{
		{&g.connections, nameConnections, "{connection}", "Open connections, by the state of the credential that they logged in with."},
		{&g.unrevoked, nameUnrevoked, "{lease}", "Leases issued and not known to be gone, the current one included."},
		{&g.limit, nameLimit, "{lease}", "How many such leases there may be: at that number none is issued."},
	} {
		if *counter.to, err = meter.Int64ObservableUpDownCounter(counter.name, metric.WithUnit(counter.unit), metric.WithDescription(counter.about)); err != nil {
			return fmt.Errorf("creating %s: %w", counter.name, err)
		}
	}
	if g.paid, err = meter.Int64ObservableCounter(namePaid, metric.WithUnit("{login}"),
		metric.WithDescription("Logins that callers waited for because a rotation took their connection.")); err != nil {
		return fmt.Errorf("creating %s: %w", namePaid, err)
	}
	return nil
}

// read is the callback. While the loop does not answer, what it said last goes on being told,
// with the time that has passed since.
func (g *gauges) read(_ context.Context, o metric.Observer) error {
	snap, now := g.ask.Ask(), time.Now()
	base := metric.WithAttributeSet(g.base)
	if !snap.Stalled {
		o.ObserveFloat64(g.stalled, 0, base)
	} else {
		o.ObserveFloat64(g.stalled, now.Sub(snap.Since).Seconds(), base)
	}
	if snap.At.IsZero() { // it has never answered
		return nil
	}
	s, passed := snap.Status, now.Sub(snap.At)
	if !s.Expires.IsZero() {
		o.ObserveFloat64(g.timeLeft, (s.LeaseLeft - passed).Seconds(), base)
		o.ObserveFloat64(g.ttl, s.Granted.Seconds(), base)
		o.ObserveFloat64(g.rotationLeft, s.RotateAt.Sub(now).Seconds(), base)
	}
	if s.Generation != 0 {
		o.ObserveFloat64(g.age, (s.Age + passed).Seconds(), base)
	}
	o.ObserveInt64(g.usable, oneIf(s.Usable), base)
	o.ObserveInt64(g.unrevoked, int64(s.Unrevoked), base)
	o.ObserveInt64(g.limit, int64(s.Cap), base)
	o.ObserveInt64(g.paid, int64(s.PaidLogins), base) //nolint:gosec // not that many
	g.observeConnections(o, s)
	return nil
}

func oneIf(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// inUse are the states in which a generation can have connections.
var inUse = []rotation.State{rotation.StateIssued, rotation.StateCurrent, rotation.StateDraining, rotation.StateEnding}

// observeConnections reports every state of every database that there has been, also where
// there is none: a series that comes and goes is hard to read.
func (g *gauges) observeConnections(o metric.Observer, s rotation.Status) {
	counts := make(map[string]map[rotation.State]int64)
	for _, generation := range s.Generations {
		for database, n := range generation.ByAttachment {
			if counts[database] == nil {
				counts[database] = make(map[rotation.State]int64)
			}
			counts[database][generation.State] += int64(n)
		}
	}
	for _, database := range g.known(counts) {
		for _, state := range inUse {
			o.ObserveInt64(g.connections, counts[database][state], metric.WithAttributeSet(g.base),
				metric.WithAttributes(keyDatabase.String(database), keyState.String(string(state))))
		}
	}
}

// forgetAfter is how long a database without connections is reported as such.
const forgetAfter = time.Hour

// known returns the databases that there are, those of counts included.
func (g *gauges) known(counts map[string]map[rotation.State]int64) []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	for database := range counts {
		g.databases[database] = now
	}
	maps.DeleteFunc(g.databases, func(_ string, last time.Time) bool { return now.Sub(last) > forgetAfter })
	return slices.Collect(maps.Keys(g.databases))
}
