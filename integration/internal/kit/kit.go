// Package kit is what tests on real servers have in common.
package kit

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vaultpool/vaultpool/rotation"
)

// Patience is how long a test waits for what must come. It says nothing about how fast it has to be.
const Patience = 60 * time.Second

// Check ends the test if there is an error.
func Check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Eventually waits until the condition holds, which something else brings about.
func Eventually(t *testing.T, what string, condition func(context.Context) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), Patience)
	defer cancel()
	for !condition(ctx) {
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not within %v", what, Patience)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Within fails the test unless f returns by the end of a bound that its caller was promised, with wide
// slack for a busy machine.
func Within(t *testing.T, promised time.Duration, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(promised + 20*time.Second):
		t.Fatalf("%s did not return within %v and 20 s more", what, promised)
	}
}

// Receive waits for a value, or for a channel's close.
func Receive[T any](t *testing.T, what string, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(Patience):
		t.Fatalf("%s: not within %v", what, Patience)
		panic("not reached")
	}
}

// Recorder remembers the events of one pool.
type Recorder struct {
	mu      sync.Mutex // guards what follows
	events  []rotation.Event
	changed chan struct{} // closed and replaced with every event
}

// NewRecorder returns one whose Add is for Rotator.Subscribe.
func NewRecorder() *Recorder { return &Recorder{changed: make(chan struct{})} }

// Add remembers an event.
func (r *Recorder) Add(e rotation.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
	Heard(e, e.Err)
	close(r.changed)
	r.changed = make(chan struct{})
}

// All returns the events so far, and a channel that is closed with the next one.
func (r *Recorder) All() ([]rotation.Event, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]rotation.Event(nil), r.events...), r.changed
}

// Of returns the events of a kind, of all generations if generation is 0.
func (r *Recorder) Of(kind rotation.EventKind, generation uint64) (found []rotation.Event) {
	events, _ := r.All()
	for _, e := range events {
		if e.Kind == kind && (generation == 0 || e.Generation == generation) {
			found = append(found, e)
		}
	}
	return found
}

// Wait returns the first event of a kind, of any generation if generation is 0, once there is one.
func (r *Recorder) Wait(t *testing.T, kind rotation.EventKind, generation uint64) rotation.Event {
	t.Helper()
	return r.WaitN(t, kind, generation, 1)[0]
}

// WaitN waits for n of them.
func (r *Recorder) WaitN(t *testing.T, kind rotation.EventKind, generation uint64, n int) []rotation.Event {
	t.Helper()
	timeout := time.After(Patience)
	for {
		events, changed := r.All()
		if found := r.Of(kind, generation); len(found) >= n {
			return found
		}
		select {
		case <-changed:
		case <-timeout:
			t.Fatalf("no %d events %q of generation %d within %v, but\n%s", n, kind, generation, Patience, List(events))
		}
	}
}

// None fails the test if there was an event of one of these kinds.
func (r *Recorder) None(t *testing.T, kinds ...rotation.EventKind) {
	t.Helper()
	for _, kind := range kinds {
		if found := r.Of(kind, 0); len(found) > 0 {
			t.Errorf("%d unexpected events:\n%s", len(found), List(found))
		}
	}
}

// List shows events, one a line.
func List(events []rotation.Event) string {
	var b strings.Builder
	for _, e := range events {
		fmt.Fprintf(&b, "  %s %v\n", e.Time.Format("15:04:05.000"), e.LogValue())
	}
	return b.String()
}

// Logs keeps everything that is logged, as text with every detail that fmt finds.
type Logs struct {
	mu   sync.Mutex // guards text
	text strings.Builder
}

// Enabled makes Logs a slog.Handler.
func (l *Logs) Enabled(context.Context, slog.Level) bool { return true }

// Handle makes Logs a slog.Handler.
func (l *Logs) Handle(_ context.Context, r slog.Record) error {
	var line strings.Builder
	fmt.Fprintf(&line, "%s %s", r.Level, r.Message)
	r.Attrs(func(a slog.Attr) bool {
		fmt.Fprintf(&line, " %s=%v %+v %#v", a.Key, a.Value, a.Value.Any(), a.Value.Any())
		return true
	})
	line.WriteByte('\n')
	Heard(line.String())
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.WriteString(line.String())
	return nil
}

// WithAttrs makes Logs a slog.Handler.
func (l *Logs) WithAttrs([]slog.Attr) slog.Handler { return l }

// WithGroup makes Logs a slog.Handler.
func (l *Logs) WithGroup(string) slog.Handler { return l }

// String returns everything.
func (l *Logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Gate lets everybody pass, but for when it is shut.
type Gate struct {
	mu      sync.Mutex    // guards what follows
	opened  chan struct{} // nil while open
	skips   int           // how many pass before that
	holds   int           // how many more it stops
	waiting int
}

// Shut makes all who come next wait.
func (g *Gate) Shut() { g.ShutAfter(0, math.MaxInt) }

// ShutFor makes the next n wait, and lets those pass who come later.
func (g *Gate) ShutFor(n int) { g.ShutAfter(0, n) }

// ShutAfter is shutFor after so many have passed.
func (g *Gate) ShutAfter(passed, n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.opened == nil {
		g.opened = make(chan struct{})
	}
	g.skips, g.holds = passed, n
}

// Open lets all who wait pass. Idempotent.
func (g *Gate) Open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.opened != nil {
		close(g.opened)
		g.opened = nil
	}
}

// Enter is the first half of pass: it returns nil if there is nothing to wait for.
func (g *Gate) Enter() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.opened == nil, g.holds == 0:
		return nil
	case g.skips > 0:
		g.skips--
		return nil
	}
	g.holds--
	g.waiting++
	return g.opened
}

// Pass waits at a shut gate.
func (g *Gate) Pass(ctx context.Context) error {
	opened := g.Enter()
	if opened == nil {
		return nil
	}
	defer func() {
		g.mu.Lock()
		g.waiting--
		g.mu.Unlock()
	}()
	select {
	case <-opened:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Queue waits until n stand before the gate.
func (g *Gate) Queue(t *testing.T, n int) {
	t.Helper()
	Eventually(t, fmt.Sprintf("%d waiting at the gate", n), func(context.Context) bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.waiting >= n
	})
}
