package rotation

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// secretMark is in every password, and nowhere else.
const secretMark = "hunter2-"

// hourLease is what most tests are granted. Where jitter is 0 it is renewed
// after 37 minutes (2/3 less 1/20) and, where it is not renewable, replaced after
// 55 (DrainTimeout before its end).
var hourLease = Lease{TTL: time.Hour, Renewable: true, Revocable: true}

// rig is an engine in a bubble, with fakes all round it. Its cleanup closes the
// engine and checks what must hold after every test.
type rig struct {
	jitter float64 // what every die shows
	t      *testing.T
	w      *world
	source *fakeSource
	r      *Rotator
	pools  []*fakePool
	t0     time.Time
	skew   atomic.Int64 // what the wall clock was moved by
	reads  atomic.Int64 // rounds of the owner goroutine, about

	closeMayFail bool // the test knows why Close reports something

	mu     sync.Mutex // guards what follows
	events []Event
}

// newRig makes the fakes; start makes the engine.
func newRig(t *testing.T, lease Lease) *rig {
	t.Helper()
	g := &rig{t: t, t0: time.Now()}
	g.w = &world{t: t, rig: g, bad: make(map[string]bool)}
	g.source = &fakeSource{w: g.w, lease: lease}
	return g
}

// startRig is newRig and start.
func startRig(t *testing.T, lease Lease, c Config) *rig {
	t.Helper()
	g := newRig(t, lease)
	g.start(c)
	return g
}

func (g *rig) start(c Config) {
	g.t.Helper()
	if err := g.tryStart(context.Background(), g.source, c); err != nil {
		g.t.Fatalf("starting: %v", err)
	}
}

// tryStart is New with the clock and the dice in our hands.
func (g *rig) tryStart(ctx context.Context, source Source, c Config) error {
	g.t.Helper()
	r, err := newRotator(source, c)
	if err != nil {
		g.t.Fatalf("newRotator: %v", err)
	}
	g.r, g.w.max = r, r.config.MaxUnrevoked
	r.now = func() instant {
		g.reads.Add(1)
		return instant{time.Now(), time.Duration(g.skew.Load())}
	}
	r.random = func() float64 { return g.jitter }
	r.Subscribe(g.record)
	g.t.Cleanup(g.check)
	return r.start(ctx)
}

func (g *rig) record(e Event) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.events = append(g.events, e)
}

// pool attaches one.
func (g *rig) pool(name string) *fakePool {
	g.t.Helper()
	p := &fakePool{w: g.w, name: name}
	if _, err := g.r.Attach(p); err != nil {
		g.t.Fatalf("Attach: %v", err)
	}
	g.pools = append(g.pools, p)
	return p
}

// at lets time pass until d after the start, and everything that is due happen.
func (g *rig) at(d time.Duration) {
	g.t.Helper()
	rest := time.Until(g.t0.Add(d))
	if rest < 0 {
		g.t.Fatalf("at(%v): that was %v ago", d, -rest)
	}
	time.Sleep(rest)
	synctest.Wait()
}

// pass lets d pass.
func (g *rig) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// rotate rotates on demand and lets what follows happen.
func (g *rig) rotate() {
	g.t.Helper()
	if err := g.r.Rotate(context.Background()); err != nil {
		g.t.Fatalf("Rotate: %v", err)
	}
	synctest.Wait()
}

// current is the current generation's number, 0 if there is none to log in with.
func (g *rig) current() uint64 {
	gen, err := g.r.usable()
	if err != nil {
		return 0
	}
	return gen.ID()
}

func (g *rig) recorded() []Event {
	synctest.Wait() // they are handed over on another goroutine
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]Event(nil), g.events...)
}

// count is how many events of a kind there were.
func (g *rig) count(kind EventKind) (n int) {
	for _, e := range g.recorded() {
		if e.Kind == kind {
			n++
		}
	}
	return n
}

// last is the newest event of a kind.
func (g *rig) last(kind EventKind) Event {
	g.t.Helper()
	events := g.recorded()
	for i := len(events) - 1; i >= 0; i-- {
		if events[i].Kind == kind {
			return events[i]
		}
	}
	g.t.Fatalf("no event %q", kind)
	return Event{}
}

// wantEvents checks how many events of each kind there were so far.
func (g *rig) wantEvents(want map[EventKind]int) {
	g.t.Helper()
	for kind, n := range want {
		if got := g.count(kind); got != n {
			g.t.Errorf("%d events %q, want %d: %v", got, kind, n, g.story())
		}
	}
}

// story is the kinds of all events, in order.
func (g *rig) story() (kinds []EventKind) {
	for _, e := range g.recorded() {
		kinds = append(kinds, e.Kind)
	}
	return kinds
}

// wantCalls checks how often the source was asked.
func (g *rig) wantCalls(issues, renewals, revokes int) {
	g.t.Helper()
	i, n, v := g.source.counts()
	if i != issues || n != renewals || v != revokes {
		g.t.Errorf("after %v: %d issues, %d renewals, %d revocations; want %d, %d, %d",
			time.Since(g.t0), i, n, v, issues, renewals, revokes)
	}
}

// wantCurrent checks which generation one logs in with.
func (g *rig) wantCurrent(id uint64) {
	g.t.Helper()
	if got := g.current(); got != id {
		g.t.Errorf("after %v: generation %d is current, want %d", time.Since(g.t0), got, id)
	}
}

// noCredential checks that a login fails at once, and returns how.
func (g *rig) noCredential() *NoCredentialError {
	g.t.Helper()
	_, err := g.r.usable()
	var none *NoCredentialError
	if !errors.As(err, &none) {
		g.t.Fatalf("a login is answered %v, want a *NoCredentialError", err)
	}
	return none
}

// check is every test's cleanup.
func (g *rig) check() {
	for _, p := range g.pools {
		p.closeAll()
	}
	if err := g.r.Close(context.Background()); err != nil && !g.closeMayFail {
		g.t.Errorf("Close: %v", err)
	}
	synctest.Wait()
	if left := engineGoroutines(); left != "" {
		g.t.Errorf("goroutines are left after Close:\n%s", left)
	}
	g.w.settle()
	g.checkSpin()
	for _, e := range g.recorded() {
		if e.Err != nil && strings.Contains(e.Err.Error(), secretMark) {
			g.t.Errorf("a password in an event: %v", e.Err) // hazard 45
		}
	}
}

// checkSpin sees that the owner goroutine slept: it may look at the clock for
// what happened, and every 30 seconds.
func (g *rig) checkSpin() {
	issues, renewals, revokes := g.source.counts()
	happened := len(g.recorded()) + issues + renewals + revokes
	idle := int(time.Since(g.t0) / lookAgain)
	if n := int(g.reads.Load()); n > 200+20*happened+3*idle {
		g.t.Errorf("the clock was read %d times in %v with %d things happening: a busy loop", n, time.Since(g.t0), happened)
	}
}

// engineGoroutines returns the stacks of goroutines that the engine started.
func engineGoroutines() string {
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	var left []string
	for stack := range strings.SplitSeq(string(buf), "\n\n") {
		const pkg = "created by github.com/vaultpool/vaultpool/rotation."
		if i := strings.Index(stack, pkg); i >= 0 && !strings.HasPrefix(stack[i+len(pkg):], "Test") {
			left = append(left, stack)
		}
	}
	return strings.Join(left, "\n\n")
}
