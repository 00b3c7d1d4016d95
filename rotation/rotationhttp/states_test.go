package rotationhttp

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vaultpool/vaultpool/rotation"
)

var errDown = errors.New("connection refused")

// Each state, as each endpoint says it.
func TestStates(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*rotation.Status)
		events []rotation.Event
		health string // its code and text
		ready  string // its code and first line
		reason string
	}{
		"healthy": {health: "200 alive", ready: "200 ready"},
		"starting": {
			change: func(s *rotation.Status) { *s = rotation.Status{Next: "issue"} },
			health: "200 alive", ready: "503 starting", reason: "no credential was issued yet",
		},
		"starting, and it fails": {
			change: func(s *rotation.Status) { *s = rotation.Status{Next: "issue"} },
			events: []rotation.Event{{Kind: rotation.IssueFailed, Attempt: 2, Err: errDown}},
			health: "200 alive", ready: "503 starting", reason: "issue failed, 2 times in a row: connection refused",
		},
		"draining": {
			change: func(s *rotation.Status) {
				s.Generation = 2
				s.Generations[0].State = rotation.StateDraining
				s.Generations = append(s.Generations, rotation.GenerationStatus{Generation: 2, State: rotation.StateCurrent})
			},
			events: []rotation.Event{{Kind: rotation.Draining, Generation: 1, Connections: 5}},
			health: "200 alive", ready: "200 ready",
		},
		"paused": {change: func(s *rotation.Status) { s.Paused = true }, health: "200 alive", ready: "200 ready"},
		"renewals fail": {
			events: []rotation.Event{{Kind: rotation.RenewFailed, Generation: 1, Attempt: 1, Err: errDown}},
			health: "200 alive", ready: "200 degraded", reason: "renew of generation 1 failed: connection refused",
		},
		"issues fail": {
			events: []rotation.Event{{Kind: rotation.IssueFailed, Generation: 1, Attempt: 3, Err: errDown}},
			health: "200 alive", ready: "200 degraded", reason: "issue of generation 1 failed, 3 times in a row: connection refused",
		},
		"revocations fail": {
			events: []rotation.Event{{Kind: rotation.RevokeFailed, Generation: 1, Attempt: 1, Err: errDown}},
			health: "200 alive", ready: "200 degraded", reason: "revoke of generation 1 failed",
		},
		"failed before anybody listened": {
			change: func(s *rotation.Status) {
				s.LastError, s.ErrorAt, s.Failures = errDown, time.Now().Add(-time.Minute), 4
			},
			health: "200 alive", ready: "200 degraded", reason: "last step of generation 1 failed, 4 times in a row: connection refused",
		},
		"about to end": {
			change: func(s *rotation.Status) {
				s.Expires, s.RotateAt = time.Now().Add(149*time.Second), time.Now().Add(149*time.Second-5*time.Minute)
			},
			events: []rotation.Event{{Kind: rotation.Renewed, Generation: 1, TTL: time.Hour, Time: time.Now().Add(149*time.Second - time.Hour)}},
			health: "200 alive", ready: "200 degraded", reason: "the credential is about to end",
		},
		"not about to end yet": {
			change: func(s *rotation.Status) {
				s.Expires, s.RotateAt = time.Now().Add(160*time.Second), time.Now().Add(160*time.Second-5*time.Minute)
			},
			events: []rotation.Event{{Kind: rotation.Renewed, Generation: 1, TTL: time.Hour, Time: time.Now().Add(160*time.Second - time.Hour)}},
			health: "200 alive", ready: "200 ready",
		},
		"not due yet, with a short drain timeout": {
			change: func(s *rotation.Status) {
				s.Expires, s.RotateAt = time.Now().Add(100*time.Second), time.Now().Add(40*time.Second)
			},
			events: []rotation.Event{{Kind: rotation.Renewed, Generation: 1, TTL: time.Hour, Time: time.Now().Add(100*time.Second - time.Hour)}},
			health: "200 alive", ready: "200 ready",
		},
		"no end": {
			change: func(s *rotation.Status) { s.Expires, s.LeaseLeft = time.Time{}, 0 },
			health: "200 alive", ready: "200 ready",
		},
		"lost": {
			change: func(s *rotation.Status) { s.Usable = false },
			events: []rotation.Event{{Kind: rotation.CredentialLost, Generation: 1}, {Kind: rotation.IssueFailed, Attempt: 1, Err: errDown}},
			health: "200 alive", ready: "503 lost", reason: "issue failed: connection refused",
		},
		"closed": {
			change: func(s *rotation.Status) { s.Usable, s.Closed, s.Next = false, true, "nothing" },
			health: "503 closed", ready: "503 closed", reason: "the rotator is closed",
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fakeRotator{s: healthy()}
			if test.change != nil {
				test.change(&f.s)
			}
			h := newHandler(f, Config{})
			f.emit(test.events...)
			code, text := split(test.health)
			is(t, get(h, "/healthz"), code, text+"\n")
			code, text = split(test.ready)
			w := get(h, "/readyz")
			first, rest, _ := strings.Cut(w.Body.String(), "\n")
			if w.Code != code || first != text || !strings.HasPrefix(rest, test.reason) || (test.reason == "") != (rest == "") {
				t.Errorf("/readyz answers %d %q, want %s and %q", w.Code, w.Body, test.ready, test.reason)
			}
			if r := reportOf(t, h); string(r.State) != text || r.Reasons == nil || strings.Join(append(r.Reasons, ""), "\n") != rest {
				t.Errorf("/status is %s with %q, /readyz %s with %q", r.State, r.Reasons, text, rest)
			}
		})
	}
}

func split(want string) (code int, text string) {
	if text, ok := strings.CutPrefix(want, "503 "); ok {
		return http.StatusServiceUnavailable, text
	}
	return http.StatusOK, strings.TrimPrefix(want, "200 ")
}

// Checks answer in JSON to whoever accepts it.
func TestChecksInJSON(t *testing.T) {
	f := &fakeRotator{s: healthy()}
	h := newHandler(f, Config{})
	is(t, get(h, "/healthz", "Accept", "application/json"), 200, "{\n  \"status\": \"alive\"\n}\n")
	is(t, get(h, "/readyz", "Accept", "application/json"), 200, "{\n  \"status\": \"ready\"\n}\n")
	f.emit(rotation.Event{Kind: rotation.RenewFailed, Generation: 1, Err: errDown})
	is(t, get(h, "/readyz", "Accept", "application/json"), 200,
		"{\n  \"status\": \"degraded\",\n  \"reasons\": [\n    \"renew of generation 1 failed: connection refused\"\n  ]\n}\n")
}

// A failure is over when the step works again, and each for itself.
func TestFailuresEnd(t *testing.T) {
	for _, test := range []struct{ fails, works rotation.EventKind }{
		{rotation.IssueFailed, rotation.Issued},
		{rotation.IssueFailed, rotation.Refreshed},
		{rotation.IssueFailed, rotation.Published},
		{rotation.CapReached, rotation.Revoked},
		{rotation.CapReached, rotation.Issued},
		{rotation.RenewFailed, rotation.Renewed},
		{rotation.RenewFailed, rotation.Published},
		{rotation.RenewFailed, rotation.CredentialLost},
		{rotation.ProbeFailed, rotation.Published},
		{rotation.Rejected, rotation.Published},
		{rotation.RevokeFailed, rotation.Revoked},
		{rotation.RevokeFailed, rotation.RevokeAbandoned},
	} {
		f := &fakeRotator{s: healthy()}
		h := newHandler(f, Config{})
		f.emit(rotation.Event{Kind: test.fails, Generation: 2, Err: errDown})
		if r := reportOf(t, h); r.State != Degraded || len(r.Failures) != 1 {
			t.Errorf("after %q it is %s: %+v", test.fails, r.State, r.Failures)
		}
		f.emit(rotation.Event{Kind: rotation.Drained, Generation: 1})
		if test.fails == rotation.RevokeFailed {
			f.emit(rotation.Event{Kind: test.works, Generation: 1})
		}
		if r := reportOf(t, h); r.State != Degraded {
			t.Errorf("after %q and something else it is %s", test.fails, r.State)
		}
		f.emit(rotation.Event{Kind: test.works, Generation: 2})
		if r := reportOf(t, h); r.State != Ready || r.LastError == nil || r.LastError.Error != "connection refused" {
			t.Errorf("after %q and %q it is %s: %+v, the last error %+v", test.fails, test.works, r.State, r.Failures, r.LastError)
		}
	}
}

// A host that refused the current credential is not held against it for ever.
func TestOldProbeFailureOfCurrent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeRotator{s: healthy()}
		h := newHandler(f, Config{})
		f.emit(rotation.Event{Kind: rotation.ProbeFailed, Generation: 1, Err: errDown})
		time.Sleep(time.Minute)
		if r := reportOf(t, h); r.State != Degraded {
			t.Errorf("after a minute it is %s", r.State)
		}
		time.Sleep(time.Millisecond)
		if r := reportOf(t, h); r.State != Ready {
			t.Errorf("later it is %s", r.State)
		}
	})
}

// A rotator that does not answer: one goroutine waits for it, however many ask, and
// what was known is shown.
func TestStalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeRotator{s: healthy()}
		h := newHandler(f, Config{AllowRotate: true})
		known := reportOf(t, h)
		f.set(func(f *fakeRotator) { f.stall = make(chan struct{}) })
		start := time.Now()
		for range 20 {
			is(t, get(h, "/healthz"), 503, "stalled\n")
		}
		if took := time.Since(start); took != 20*500*time.Millisecond {
			t.Errorf("20 checks took %v", took)
		}
		is(t, get(h, "/readyz"), 503, "stalled\nthe rotator has not answered for 500ms\n")
		if w := request(h, http.MethodPost, "/rotate"); w.Code != 503 || f.rotations != 0 {
			t.Errorf("POST /rotate answers %d", w.Code)
		}
		r := reportOf(t, h)
		if r.State != Stalled || r.User != "v-app-1" || !r.AsOf.Equal(known.AsOf) || !r.Now.After(r.AsOf) {
			t.Errorf("the status is %+v", r)
		}
		f.set(func(f *fakeRotator) {
			if f.asked != 2 {
				t.Errorf("the rotator was asked %d times, want 2", f.asked)
			}
			close(f.stall)
			f.stall = nil
		})
		synctest.Wait()
		is(t, get(h, "/healthz"), 200, "alive\n")
		if r := reportOf(t, h); r.State != Ready || !r.AsOf.Equal(r.Now) {
			t.Errorf("afterwards it is %s as of %v", r.State, r.AsOf)
		}
	})
}

// One that never answered has nothing to show.
func TestStalledFromTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeRotator{stall: make(chan struct{})}
		h := newHandler(f, Config{StallTimeout: time.Second})
		if r := reportOf(t, h); r.State != Stalled || !r.AsOf.IsZero() || r.Generation != 0 || r.Generations == nil || r.Events == nil {
			t.Errorf("the status is %+v", r)
		}
		close(f.stall)
	})
}
