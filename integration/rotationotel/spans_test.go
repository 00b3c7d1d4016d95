package rotationotel_test

import (
	"context"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/rotation"
)

// spansOf waits for n spans of a name.
func (s *service) spansOf(t *testing.T, name string, n int) (found tracetest.SpanStubs) {
	t.Helper()
	kit.Eventually(t, "spans "+name, func(context.Context) bool {
		found = nil
		for _, span := range s.spans.GetSpans() {
			if span.Name == name {
				found = append(found, span)
			}
		}
		return len(found) >= n
	})
	return found
}

func attributeOf(span tracetest.SpanStub, key attribute.Key) attribute.Value {
	for _, a := range span.Attributes {
		if a.Key == key {
			return a.Value
		}
	}
	return attribute.Value{}
}

// A rotation is one trace, from the issue to the revocation of what was replaced, with the times that it had.
func TestSpansOfARotation(t *testing.T) {
	t.Parallel()
	s := open(t, testbed.RoleOptions{DefaultTTL: time.Hour}, rotation.Config{})
	began := time.Now()
	release := s.hold(t)
	s.rotate(t)
	inPlace := time.Now()
	release()
	s.events.Wait(t, rotation.Revoked, 1)
	root := s.spansOf(t, "vaultpool.rotate", 1)[0]
	if root.Parent.IsValid() || root.Status.Code != codes.Unset || attributeOf(root, "vaultpool.reason").AsString() != "requested" ||
		attributeOf(root, "vaultpool.pool").AsString() != "orders" || attributeOf(root, "vaultpool.generation").AsInt64() != 2 {
		t.Errorf("the rotation's span is %+v", root)
	}
	if root.StartTime.Before(began.Add(-time.Second)) || root.EndTime.After(inPlace) || !root.StartTime.Before(root.EndTime) {
		t.Errorf("it lasts from %v to %v; it was asked for at %v and done at %v", root.StartTime, root.EndTime, began, inPlace)
	}
	for name, generation := range map[string]int64{"vaultpool.issue": 2, "vaultpool.probe": 2, "vaultpool.drain": 1, "vaultpool.revoke": 1} {
		span := s.spansOf(t, name, 1)[0]
		if span.Parent.SpanID() != root.SpanContext.SpanID() || span.SpanContext.TraceID() != root.SpanContext.TraceID() {
			t.Errorf("%s is not below the rotation", name)
		}
		if got := attributeOf(span, "vaultpool.generation").AsInt64(); got != generation {
			t.Errorf("%s is of generation %d, want %d", name, got, generation)
		}
		if span.Status.Code != codes.Unset || !span.StartTime.Before(span.EndTime) {
			t.Errorf("%s has status %v and lasts from %v to %v", name, span.Status, span.StartTime, span.EndTime)
		}
	}
	issue, probe := s.spansOf(t, "vaultpool.issue", 1)[0], s.spansOf(t, "vaultpool.probe", 1)[0]
	revoke := s.spansOf(t, "vaultpool.revoke", 1)[0]
	if issue.StartTime.Before(root.StartTime) || probe.EndTime.After(root.EndTime) || revoke.StartTime.Before(root.EndTime) {
		t.Errorf("not in order: %v to %v, issue from %v, probe until %v, revoke from %v",
			root.StartTime, root.EndTime, issue.StartTime, probe.EndTime, revoke.StartTime)
	}
}

// What failed has the status Error, says why, and stands beside what succeeded afterwards.
func TestSpansOfFailures(t *testing.T) {
	t.Parallel()
	s := open(t, short, rotation.Config{})
	s.vault.Lose("sys/leases/renew", 1)
	s.events.Wait(t, rotation.RenewFailed, 0)
	s.events.Wait(t, rotation.Renewed, 0)
	renewals := s.spansOf(t, "vaultpool.renew", 2)
	failedWith(t, renewals[0])
	if renewals[1].Status.Code != codes.Unset || renewals[0].Parent.IsValid() || renewals[0].StartTime.After(renewals[0].EndTime) {
		t.Errorf("the renewals are %+v", renewals)
	}

	s.vault.Lose("sys/leases/revoke", 1000)
	s.rotate(t)
	s.events.Wait(t, rotation.RevokeFailed, 1)
	s.vault.Heal()
	s.events.Wait(t, rotation.Revoked, 1)
	revocations := s.spansOf(t, "vaultpool.revoke", 2)
	failedWith(t, revocations[0])
	last := revocations[len(revocations)-1]
	if last.Status.Code != codes.Unset || last.Parent.SpanID() != s.spansOf(t, "vaultpool.rotate", 1)[0].SpanContext.SpanID() {
		t.Errorf("the last revocation is %+v", last)
	}

	s.vault.Lose(s.role.CredsPath, 1)
	if err := s.Rotate(t.Context()); err == nil {
		t.Error("a rotation without an answer succeeded")
	}
	s.events.Wait(t, rotation.IssueFailed, 0)
	kit.Eventually(t, "a span of the issue that failed", func(context.Context) bool {
		for _, span := range s.spansOf(t, "vaultpool.issue", 1) {
			if span.Status.Code == codes.Error {
				failedWith(t, span)
				return true
			}
		}
		return false
	})
}

// A drain whose deadline passes has failed.
func TestSpanOfADrainDeadline(t *testing.T) {
	t.Parallel()
	s := open(t, testbed.RoleOptions{DefaultTTL: time.Hour}, rotation.Config{DrainTimeout: 300 * time.Millisecond})
	s.hold(t)
	s.rotate(t)
	s.events.Wait(t, rotation.Revoked, 1)
	drain := s.spansOf(t, "vaultpool.drain", 1)[0]
	if drain.Status.Code != codes.Error || attributeOf(drain, "error.type").AsString() != "drain_deadline" ||
		attributeOf(drain, "vaultpool.connections").AsInt64() != 1 || drain.EndTime.Sub(drain.StartTime) < 300*time.Millisecond {
		t.Errorf("the drain's span is %+v", drain)
	}
}

func failedWith(t *testing.T, span tracetest.SpanStub) {
	t.Helper()
	if span.Status.Code != codes.Error || span.Status.Description == "" || attributeOf(span, "error.type").AsString() == "" ||
		len(span.Events) != 1 || span.Events[0].Name != "exception" {
		t.Errorf("a failed %s is %+v", span.Name, span)
	}
}
