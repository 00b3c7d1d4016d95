package rotationhttp

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/vaultpool/vaultpool/rotation"
)

// fakeRotator says what a test wants it to say.
type fakeRotator struct {
	mu        sync.Mutex // guards what follows
	s         rotation.Status
	asked     int
	stall     chan struct{} // Status waits for its close, if not nil
	subscribe []func(rotation.Event)
	onRotate  func(context.Context) error
	rotations int
}

func (f *fakeRotator) Status() rotation.Status {
	f.mu.Lock()
	f.asked++
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
	f.subscribe = append(f.subscribe, to)
	return func() {}
}

func (f *fakeRotator) Rotate(ctx context.Context) error {
	f.mu.Lock()
	f.rotations++
	onRotate := f.onRotate
	f.mu.Unlock()
	if onRotate != nil {
		return onRotate(ctx)
	}
	return nil
}

func (f *fakeRotator) set(change func(*fakeRotator)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func (f *fakeRotator) emit(events ...rotation.Event) {
	for _, e := range events {
		if e.Time.IsZero() {
			e.Time = time.Now()
		}
		for _, to := range f.subscribe {
			to(e)
		}
	}
}

// healthy is the status of a rotator whose first credential, of an hour, was just issued.
func healthy() rotation.Status {
	now := time.Now()
	return rotation.Status{
		Generation: 1, User: "v-app-1", LeaseLeft: time.Hour, Granted: time.Hour, Expires: now.Add(time.Hour),
		RotateAt: now.Add(55 * time.Minute), Usable: true, Unrevoked: 1,
		Next: "renew", NextAt: now.Add(40 * time.Minute),
		Generations: []rotation.GenerationStatus{{
			Generation: 1, User: "v-app-1", State: rotation.StateCurrent, Connections: 5,
			ByAttachment: map[string]int{"db:5432/app": 3, "replica:5432/app": 2}, Issued: now, Expires: now.Add(time.Hour),
		}},
	}
}

func request(h http.Handler, method, target string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequestWithContext(context.Background(), method, target, http.NoBody)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func get(h http.Handler, target string, header ...string) *httptest.ResponseRecorder {
	return request(h, http.MethodGet, target, header...)
}

func reportOf(t *testing.T, h http.Handler) Report {
	t.Helper()
	w := get(h, "/status")
	if w.Code != http.StatusOK || w.Header().Get("Content-Type") != "application/json" {
		t.Fatalf("/status answers %d, %s", w.Code, w.Header().Get("Content-Type"))
	}
	var r Report
	if err := json.Unmarshal(w.Body.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	return r
}

func is(t *testing.T, w *httptest.ResponseRecorder, code int, body string) {
	t.Helper()
	if w.Code != code || w.Body.String() != body {
		t.Errorf("answer is %d %q, want %d %q", w.Code, w.Body.String(), code, body)
	}
}

// scriptedSource issues what a test wants; the password is in none of what is shown.
type scriptedSource struct {
	mu     sync.Mutex // guards what follows
	ttl    time.Duration
	issues int
	fails  error
}

const password = "correct-horse-battery-staple"

func (s *scriptedSource) set(ttl time.Duration, fails error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ttl, s.fails = ttl, fails
}

func (s *scriptedSource) Issue(context.Context) (rotation.Credential, rotation.Lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fails != nil {
		return rotation.Credential{}, rotation.Lease{}, s.fails
	}
	s.issues++
	c := rotation.NewCredential(fmt.Sprintf("v-app-%d", s.issues), password)
	return c, rotation.Lease{ID: fmt.Sprintf("lease-%d", s.issues), TTL: s.ttl, Renewable: true, Revocable: true}, nil
}

func (s *scriptedSource) Renew(_ context.Context, l rotation.Lease, _ time.Duration) (rotation.Lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.TTL = s.ttl
	return l, s.fails
}

func (s *scriptedSource) Revoke(context.Context, rotation.Lease) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fails
}
