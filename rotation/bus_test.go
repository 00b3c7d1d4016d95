package rotation

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Everybody gets every event, in order, one at a time; the last is Closed.
func TestSubscribe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		var a, b []EventKind
		busy := false
		g.r.Subscribe(func(e Event) {
			if busy {
				t.Error("called while it runs")
			}
			busy = true
			time.Sleep(time.Millisecond)
			busy = false
			a = append(a, e.Kind)
			if e.Time.IsZero() {
				t.Errorf("no time: %+v", e)
			}
		})
		cancel := g.r.Subscribe(func(e Event) { b = append(b, e.Kind) })
		g.at(time.Minute)
		g.rotate()
		g.pass(time.Second)
		want := []EventKind{Issued, Published, Draining, Drained, Revoked}
		if fmt.Sprint(a) != fmt.Sprint(want) || fmt.Sprint(b) != fmt.Sprint(want) {
			t.Errorf("%v and %v, want %v", a, b, want)
		}
		cancel()
		cancel()
		g.rotate()
		if err := g.r.Close(context.Background()); err != nil {
			t.Error(err)
		}
		// Close returns when the last event is delivered.
		if a[len(a)-1] != Closed || len(a) != 5+5+4 {
			t.Errorf("%v", a)
		}
		if len(b) != 5 {
			t.Errorf("events after cancel: %v", b)
		}
		g.r.Subscribe(func(e Event) { t.Errorf("event after Close: %+v", e) })()
	})
}

// hazard 55: what a subscriber misses is counted, and the engine does not wait.
func TestHazard55MissedEventsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{})
		hold := make(chan struct{})
		var got []Event
		g.r.Subscribe(func(e Event) { <-hold; got = append(got, e) })
		const sent = 400
		for i := range sent {
			g.r.do(func() { g.r.loop.emit(Event{Kind: Renewed, Attempt: i}) })
			if i == 0 {
				synctest.Wait() // it is being delivered
			}
		}
		synctest.Wait()
		if time.Since(g.t0) != 0 {
			t.Error("the engine waited for a subscriber")
		}
		close(hold)
		synctest.Wait()
		// One was being delivered, 256 waited.
		if len(got) != 1+backlog+1 {
			t.Fatalf("%d events", len(got))
		}
		for i, e := range got[:1+backlog] {
			if e.Attempt != i || e.Missed != 0 {
				t.Fatalf("event %d is %+v", i, e)
			}
		}
		if e := got[1+backlog]; e.Kind != EventsMissed || e.Missed != sent-1-backlog || e.Time.IsZero() {
			t.Errorf("the last is %+v", e)
		}
		g.r.do(func() { g.r.loop.emit(Event{Kind: Renewed, Attempt: sent}) })
		synctest.Wait()
		if e := got[len(got)-1]; e.Attempt != sent || e.Missed != 0 {
			t.Errorf("afterwards %+v", e)
		}
	})
}

// Missed rides on the next event where there is one.
func TestMissedRidesOnTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bus
		b.init(nil)
		step := make(chan struct{})
		var got []Event
		b.subscribe(func(e Event) { <-step; got = append(got, e) })
		for i := range 1 + backlog + 7 {
			b.publish(Event{Attempt: i})
			synctest.Wait()
		}
		step <- struct{}{} // one more may wait
		synctest.Wait()
		b.publish(Event{Attempt: 1000})
		close(step)
		synctest.Wait()
		if e := got[len(got)-1]; e.Attempt != 1000 || e.Missed != 7 {
			t.Errorf("the last of %d is %+v", len(got), e)
		}
		b.close()
		b.serving.Wait()
	})
}

// Subscribing and cancelling from everywhere, while events fly.
func TestSubscribeConcurrently(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := startRig(t, hourLease, Config{IssueInterval: time.Millisecond})
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				for range 50 {
					cancel := g.r.Subscribe(func(Event) {})
					time.Sleep(100 * time.Microsecond)
					cancel()
				}
			})
		}
		all.Go(func() {
			for range 10 {
				_ = g.r.Rotate(context.Background())
			}
		})
		all.Wait()
		// A subscriber may cancel itself, ask for the status, and even close.
		var cancel func()
		var status Status
		known := make(chan struct{}) // cancel is
		cancel = g.r.Subscribe(func(Event) { <-known; status = g.r.Status(); cancel() })
		close(known)
		g.rotate()
		if !status.Usable {
			t.Errorf("status %+v", status)
		}
		closed := make(chan error, 1)
		g.r.Subscribe(func(e Event) {
			if e.Kind == Revoked {
				closed <- g.r.Close(context.Background())
			}
		})
		g.rotate()
		if err := <-closed; err != nil {
			t.Errorf("Close from a subscriber: %v", err)
		}
	})
}

// The log gets every event at its level.
func TestLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		handler := slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})
		g := startRig(t, hourLease, Config{Logger: slog.New(handler)})
		g.at(38 * time.Minute)
		g.source.set(func(s *fakeSource) { s.onRevoke = func(context.Context, int, Lease) error { return errSealed } })
		g.rotate()
		g.source.set(func(s *fakeSource) { s.onRevoke = nil })
		if err := g.r.Close(context.Background()); err != nil {
			t.Error(err)
		}
		for _, want := range []string{
			`level=INFO msg="vaultpool: published" generation=1 reason=start ttl=1h0m0s`,
			`level=DEBUG msg="vaultpool: renewed" generation=1 ttl=1h0m0s`,
			`level=WARN msg="vaultpool: revoke failed" generation=1 attempt=1 retry_at=`,
			`error="503: Vault is sealed"`,
			`level=INFO msg="vaultpool: closed"`,
		} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("the log has no %s:\n%s", want, out.String())
			}
		}
	})
}

func TestEventLogValue(t *testing.T) {
	e := Event{
		Kind: RenewFailed, Generation: 3, Reason: "r", TTL: time.Hour, Connections: 2, Took: time.Second,
		Attempt: 4, RetryAt: epoch, Missed: 5, Err: errors.New("no"),
	}
	got := e.LogValue().String()
	want := "[event=renew failed generation=3 reason=r ttl=1h0m0s connections=2 took=1s attempt=4 retry_at=2030-01-01 00:00:00 +0000 UTC missed=5 error=no]"
	if got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := (Event{Kind: Closed}).LogValue().String(); got != "[event=closed]" {
		t.Errorf("%s", got)
	}
}
