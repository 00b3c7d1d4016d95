package pgvault_test

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

// patience is how long a test waits for what must come. It says nothing about how fast it has to be.
const patience = 60 * time.Second

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits until the condition holds, which something else brings about.
func eventually(t *testing.T, what string, condition func(context.Context) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
	defer cancel()
	for !condition(ctx) {
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not within %v", what, patience)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// within fails the test unless f returns by the end of a bound that its caller was promised, with wide
// slack for a busy machine.
func within(t *testing.T, promised time.Duration, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(promised + 20*time.Second):
		t.Fatalf("%s did not return within %v and 20 s more", what, promised)
	}
}

// receive waits for a value, or for a channel's close.
func receive[T any](t *testing.T, what string, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatalf("%s: not within %v", what, patience)
		panic("not reached")
	}
}

// recorder remembers the events of one pool.
type recorder struct {
	mu      sync.Mutex // guards what follows
	events  []rotation.Event
	changed chan struct{} // closed and replaced with every event
}

func newRecorder() *recorder { return &recorder{changed: make(chan struct{})} }

func (r *recorder) add(e rotation.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *recorder) all() ([]rotation.Event, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]rotation.Event(nil), r.events...), r.changed
}

// of returns the events of a kind, of all generations if generation is 0.
func (r *recorder) of(kind rotation.EventKind, generation uint64) (found []rotation.Event) {
	events, _ := r.all()
	for _, e := range events {
		if e.Kind == kind && (generation == 0 || e.Generation == generation) {
			found = append(found, e)
		}
	}
	return found
}

// wait returns the first event of a kind, of any generation if generation is 0, once there is one.
func (r *recorder) wait(t *testing.T, kind rotation.EventKind, generation uint64) rotation.Event {
	t.Helper()
	return r.waitN(t, kind, generation, 1)[0]
}

// waitN waits for n of them.
func (r *recorder) waitN(t *testing.T, kind rotation.EventKind, generation uint64, n int) []rotation.Event {
	t.Helper()
	timeout := time.After(patience)
	for {
		events, changed := r.all()
		if found := r.of(kind, generation); len(found) >= n {
			return found
		}
		select {
		case <-changed:
		case <-timeout:
			t.Fatalf("no %d events %q of generation %d within %v, but\n%s", n, kind, generation, patience, list(events))
		}
	}
}

// none fails the test if there was an event of one of these kinds.
func (r *recorder) none(t *testing.T, kinds ...rotation.EventKind) {
	t.Helper()
	for _, kind := range kinds {
		if found := r.of(kind, 0); len(found) > 0 {
			t.Errorf("%d unexpected events:\n%s", len(found), list(found))
		}
	}
}

func list(events []rotation.Event) string {
	var b strings.Builder
	for _, e := range events {
		fmt.Fprintf(&b, "  %s %v\n", e.Time.Format("15:04:05.000"), e.LogValue())
	}
	return b.String()
}

// logs keeps everything that is logged, as text with every detail that fmt finds.
type logs struct {
	mu   sync.Mutex // guards text
	text strings.Builder
}

func (l *logs) Enabled(context.Context, slog.Level) bool { return true }

func (l *logs) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(&l.text, "%s %s", r.Level, r.Message)
	r.Attrs(func(a slog.Attr) bool {
		fmt.Fprintf(&l.text, " %s=%v %+v %#v", a.Key, a.Value, a.Value.Any(), a.Value.Any())
		return true
	})
	l.text.WriteByte('\n')
	return nil
}

func (l *logs) WithAttrs([]slog.Attr) slog.Handler { return l }
func (l *logs) WithGroup(string) slog.Handler      { return l }

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// gate lets everybody pass, but for when it is shut.
type gate struct {
	mu      sync.Mutex    // guards what follows
	opened  chan struct{} // nil while open
	skips   int           // how many pass before that
	holds   int           // how many more it stops
	waiting int
}

// shut makes all who come next wait.
func (g *gate) shut() { g.shutAfter(0, math.MaxInt) }

// shutFor makes the next n wait, and lets those pass who come later.
func (g *gate) shutFor(n int) { g.shutAfter(0, n) }

// shutAfter is shutFor after so many have passed.
func (g *gate) shutAfter(passed, n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.opened == nil {
		g.opened = make(chan struct{})
	}
	g.skips, g.holds = passed, n
}

// open lets all who wait pass. Idempotent.
func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.opened != nil {
		close(g.opened)
		g.opened = nil
	}
}

// enter is the first half of pass: it returns nil if there is nothing to wait for.
func (g *gate) enter() <-chan struct{} {
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

// pass waits at a shut gate.
func (g *gate) pass(ctx context.Context) error {
	opened := g.enter()
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

// queue waits until n stand before the gate.
func (g *gate) queue(t *testing.T, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d waiting at the gate", n), func(context.Context) bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.waiting >= n
	})
}
