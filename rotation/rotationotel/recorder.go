package rotationotel

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/vaultpool/vaultpool/rotation"
)

// recorder makes counts, durations and spans of events. add is called for one at a time.
type recorder struct {
	base attribute.Set

	renewals, rotations, revocations, failures, missed metric.Int64Counter
	issue, probe, drain                                metric.Float64Histogram

	spans  *spans
	drains map[uint64]*draining // by generation; add's

	stopped atomic.Bool
}

// draining is a generation that was replaced and has connections.
type draining struct {
	began    time.Time
	reason   string
	left     int  // connections that were there
	deadline bool // it passed
	err      error
}

func newRecorder(meter metric.Meter, config Config) (*recorder, error) {
	r := &recorder{
		base:   attribute.NewSet(config.Attributes...),
		spans:  newSpans(config.TracerProvider.Tracer(ScopeName), config.Attributes),
		drains: make(map[uint64]*draining),
	}
	if err := r.create(meter); err != nil {
		return nil, err
	}
	r.begin()
	return r, nil
}

// From a login in the same room to one that times out; and from idle connections that are replaced
// at once to long transactions.
var (
	callBuckets  = []float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30}
	drainBuckets = []float64{0.1, 0.5, 1, 5, 15, 30, 60, 120, 300, 600, 1800, 3600}
)

func (r *recorder) create(meter metric.Meter) (err error) {
	for _, counter := range []struct {
		to                *metric.Int64Counter
		name, unit, about string
	}{
		{&r.renewals, nameRenewals, "{renewal}", "Renewals that succeeded."},
		{&r.rotations, nameRotations, "{rotation}", "Credentials put in place, by why."},
		{&r.revocations, nameRevocations, "{revocation}", "Attempts to revoke a lease, by outcome; those given up are abandoned."},
		{&r.failures, nameFailures, "{failure}", "Steps that failed, by which event says so."},
		{&r.missed, nameMissed, "{event}", "Events lost because they were not taken in time: what was counted here is less than what happened."},
	} {
		if *counter.to, err = meter.Int64Counter(counter.name, metric.WithUnit(counter.unit), metric.WithDescription(counter.about)); err != nil {
			return fmt.Errorf("creating %s: %w", counter.name, err)
		}
	}
	for _, histogram := range []struct {
		to          *metric.Float64Histogram
		name, about string
		buckets     []float64
	}{
		{&r.issue, nameIssueDuration, "How long the source took to issue a credential, or to fail.", callBuckets},
		{&r.probe, nameProbeDuration, "How long it took to prove a new credential by a login on every host, or to see that refused.", callBuckets},
		{&r.drain, nameDrainDuration, "How long a replaced credential kept connections.", drainBuckets},
	} {
		*histogram.to, err = meter.Float64Histogram(histogram.name, metric.WithUnit("s"),
			metric.WithDescription(histogram.about), metric.WithExplicitBucketBoundaries(histogram.buckets...))
		if err != nil {
			return fmt.Errorf("creating %s: %w", histogram.name, err)
		}
	}
	return nil
}

// begin exports every counter as 0: of one that begins with 1 nobody can see that it rose.
func (r *recorder) begin() {
	r.count(r.renewals, 0)
	r.count(r.missed, 0)
	for _, reason := range reasons {
		r.count(r.rotations, 0, keyReason.String(value(reason)))
	}
	for _, outcome := range []string{outcomeOK, outcomeFailed, outcomeAbandoned} {
		r.count(r.revocations, 0, keyOutcome.String(outcome))
	}
	for _, kind := range failures {
		r.count(r.failures, 0, keyFailure.String(value(kind)))
	}
}

func (r *recorder) count(c metric.Int64Counter, n int64, with ...attribute.KeyValue) {
	c.Add(context.Background(), n, metric.WithAttributeSet(r.base), metric.WithAttributes(with...))
}

func (r *recorder) took(h metric.Float64Histogram, d time.Duration, outcome string) {
	h.Record(context.Background(), d.Seconds(), metric.WithAttributeSet(r.base), metric.WithAttributes(keyOutcome.String(outcome)))
}

// stop lets nothing be recorded from here on.
func (r *recorder) stop() {
	r.stopped.Store(true)
	r.spans.stop()
}

// add takes an event.
func (r *recorder) add(e rotation.Event) {
	if r.stopped.Load() {
		return
	}
	if e.Missed > 0 {
		r.count(r.missed, int64(e.Missed))
	}
	if failed(e) {
		r.count(r.failures, 1, keyFailure.String(value(e.Kind)))
	}
	r.measure(e)
	r.spans.add(e)
	r.follow(e)
}

// failed reports whether e is a failure. What ends because the rotator is closed is none, nor
// are connections that were ended as they should be.
func failed(e rotation.Event) bool {
	switch e.Kind {
	case rotation.Rejected:
		return !errors.Is(e.Err, rotation.ErrClosed)
	case rotation.SessionsEnded:
		return e.Err != nil
	default:
		return slices.Contains(failures, e.Kind)
	}
}

// measure counts what one event tells.
func (r *recorder) measure(e rotation.Event) {
	switch e.Kind {
	case rotation.Issued, rotation.Refreshed:
		r.took(r.issue, e.Took, outcomeOK)
	case rotation.IssueFailed, rotation.SameLease:
		r.took(r.issue, e.Took, outcomeFailed)
	case rotation.Published:
		r.took(r.probe, e.Took, outcomeOK)
		r.count(r.rotations, 1, keyReason.String(known(e.Reason)))
	case rotation.ProbeFailed, rotation.Rejected:
		if e.Took > 0 { // else there was no proof
			r.took(r.probe, e.Took, outcomeFailed)
		}
	case rotation.Renewed:
		r.count(r.renewals, 1)
	case rotation.Revoked:
		r.count(r.revocations, 1, keyOutcome.String(outcomeOK))
	case rotation.RevokeFailed:
		r.count(r.revocations, 1, keyOutcome.String(outcomeFailed))
	case rotation.RevokeAbandoned:
		r.count(r.revocations, 1, keyOutcome.String(outcomeAbandoned))
	default: // nothing that takes time
	}
}

// known is a reason as an attribute, "other" for one that is not in the list.
func known(reason string) string {
	if slices.Contains(reasons, reason) {
		return value(reason)
	}
	return "other"
}

// remembered bounds how many generations are followed, in case the event that would end
// one was missed.
const remembered = 64

// follow times the generations that were replaced, from one event to the other.
func (r *recorder) follow(e rotation.Event) {
	d := r.drains[e.Generation]
	if d == nil && e.Kind != rotation.Draining {
		return
	}
	switch e.Kind {
	case rotation.Draining:
		r.drains[e.Generation] = &draining{began: e.Time, reason: e.Reason, left: e.Connections}
		for oldest := range r.drains {
			if len(r.drains) > remembered && oldest+remembered <= e.Generation {
				delete(r.drains, oldest)
			}
		}
	case rotation.DrainDeadline:
		d.deadline = true
	case rotation.SessionsEnded:
		d.err = e.Err
	case rotation.Drained:
		delete(r.drains, e.Generation)
		if d.reason == rejected { // only its own proof logged in with it
			return
		}
		outcome := outcomeOK
		if d.deadline {
			outcome = outcomeDeadline
		}
		r.took(r.drain, e.Time.Sub(d.began), outcome)
		r.spans.drained(e, d)
	default: // not of a drain
	}
}

// rejected is why a generation drains that was never put in place.
const rejected = "rejected"
