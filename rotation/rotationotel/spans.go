package rotationotel

import (
	"context"
	"errors"
	"sync/atomic"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/vaultpool/vaultpool/rotation"
)

// spans makes spans of events. Each step is over when it is heard of, so its span is made
// at once, with the times that it had. A rotation is one trace: from the issue to the moment
// at which the new credential is in place, and below it what becomes of the old one.
type spans struct {
	tracer trace.Tracer
	base   []attribute.KeyValue

	rotating atomic.Pointer[rotating]

	// add's:
	last      trace.SpanContext // the rotation that ended last
	lastWhy   string
	replacing map[uint64]trace.SpanContext // by generation, the rotation that replaced it
}

// rotating is a rotation under way.
type rotating struct {
	generation uint64
	ctx        context.Context //nolint:containedctx // it is the span's
	span       trace.Span
}

func newSpans(tracer trace.Tracer, base []attribute.KeyValue) *spans {
	return &spans{tracer: tracer, base: base, replacing: make(map[uint64]trace.SpanContext)}
}

// stop ends a rotation's span whose end will not be heard.
func (s *spans) stop() {
	if r := s.rotating.Swap(nil); r != nil {
		r.span.End()
	}
}

func (s *spans) add(e rotation.Event) {
	switch e.Kind {
	case rotation.Issued:
		s.beginRotation(e)
	case rotation.Refreshed, rotation.IssueFailed, rotation.SameLease:
		s.step(context.Background(), spanIssue, e)
	case rotation.ProbeFailed:
		s.step(s.rotationOf(e.Generation), spanProbe, e)
	case rotation.Published, rotation.Rejected:
		s.endRotation(e)
	case rotation.Renewed, rotation.RenewFailed:
		s.step(context.Background(), spanRenew, e)
	case rotation.Draining:
		if e.Reason == s.lastWhy {
			s.replacing[e.Generation] = s.last
		}
	case rotation.Revoked, rotation.RevokeFailed:
		s.step(s.replacementOf(e.Generation), spanRevoke, e)
	default: // no step of its own
	}
	s.forget(e)
}

// beginRotation is for a credential that was issued.
func (s *spans) beginRotation(e rotation.Event) {
	s.stop() // in case the end of one was missed

	began := trace.WithTimestamp(e.Time.Add(-e.Took))
	ctx, span := s.tracer.Start(context.Background(), spanRotate, began, //nolint:spancheck // endRotation or stop ends it
		trace.WithAttributes(s.attributes(e)...))
	s.step(ctx, spanIssue, e)
	s.rotating.Store(&rotating{e.Generation, ctx, span})
} //nolint:spancheck // see above

// endRotation is for a credential that is in place, or given up.
func (s *spans) endRotation(e rotation.Event) {
	if e.Kind == rotation.Published || e.Took > 0 {
		s.step(s.rotationOf(e.Generation), spanProbe, e)
	}
	r := s.rotating.Load()
	if r == nil || r.generation != e.Generation || !s.rotating.CompareAndSwap(r, nil) {
		s.last, s.lastWhy = trace.SpanContext{}, ""
		return
	}
	s.last, s.lastWhy = r.span.SpanContext(), e.Reason
	if e.Kind == rotation.Rejected {
		s.lastWhy = rejected
	}
	fail(r.span, e)
	r.span.End(trace.WithTimestamp(e.Time))
}

// rotationOf is the context of the rotation to a generation, if that is under way.
func (s *spans) rotationOf(generation uint64) context.Context {
	if r := s.rotating.Load(); r != nil && r.generation == generation {
		return r.ctx
	}
	return context.Background()
}

// replacementOf is the context of the rotation that replaced a generation.
func (s *spans) replacementOf(generation uint64) context.Context {
	return trace.ContextWithSpanContext(context.Background(), s.replacing[generation])
}

func (s *spans) forget(e rotation.Event) {
	if e.Kind == rotation.Revoked || e.Kind == rotation.RevokeAbandoned {
		delete(s.replacing, e.Generation)
	}
	for oldest := range s.replacing {
		if len(s.replacing) > remembered && oldest+remembered <= e.Generation {
			delete(s.replacing, oldest)
		}
	}
}

// step makes the span of a step that took e.Took and has just ended.
func (s *spans) step(ctx context.Context, name string, e rotation.Event) {
	_, span := s.tracer.Start(ctx, name, trace.WithTimestamp(e.Time.Add(-e.Took)), trace.WithAttributes(s.attributes(e)...))
	fail(span, e)
	span.End(trace.WithTimestamp(e.Time))
}

// drained makes the span of a drain that has just ended.
func (s *spans) drained(e rotation.Event, d *draining) {
	attributes := append(s.attributes(e), keyReason.String(known(d.reason)), keyConnections.Int(d.left))
	_, span := s.tracer.Start(s.replacementOf(e.Generation), spanDrain, trace.WithTimestamp(d.began), trace.WithAttributes(attributes...))
	if d.deadline {
		err := d.err
		if err == nil {
			err = errDeadline
		}
		e.Err = err
		fail(span, e)
	}
	span.End(trace.WithTimestamp(e.Time))
}

var errDeadline = errors.New("connections were still in use at the drain deadline and have been ended")

func (s *spans) attributes(e rotation.Event) []attribute.KeyValue {
	attributes := append([]attribute.KeyValue{}, s.base...)
	if e.Generation != 0 {
		attributes = append(attributes, keyGeneration.Int64(int64(e.Generation))) //nolint:gosec // not that many
	}
	switch e.Kind {
	case rotation.Issued, rotation.IssueFailed, rotation.Published, rotation.Rejected:
		attributes = append(attributes, keyReason.String(known(e.Reason)))
	default: // it has none, or the name of a pool
	}
	return attributes
}

// fail marks the span of a step that failed. What a rotator reports as an error holds no secret.
func fail(span trace.Span, e rotation.Event) {
	if e.Err == nil || e.Kind == rotation.Rejected && errors.Is(e.Err, rotation.ErrClosed) {
		return
	}
	span.SetAttributes(keyErrorType.String(errorType(e.Err)))
	span.RecordError(e.Err, trace.WithTimestamp(e.Time))
	span.SetStatus(codes.Error, e.Err.Error())
}

// errorType is a word for what went wrong, one of few.
func errorType(err error) string {
	var timeout interface{ Timeout() bool }
	switch {
	case errors.Is(err, rotation.ErrDenied):
		return "denied"
	case errors.Is(err, rotation.ErrInvalid):
		return "invalid"
	case errors.Is(err, rotation.ErrLeaseGone):
		return "lease_gone"
	case errors.Is(err, rotation.ErrRefused):
		return "login_refused"
	case errors.Is(err, errDeadline):
		return "drain_deadline"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	default:
		return "_OTHER"
	}
}
