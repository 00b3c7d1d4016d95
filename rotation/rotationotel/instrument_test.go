package rotationotel

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/vaultpool/vaultpool/rotation"
)

// rig is a fake rotator that is instrumented.
type rig struct {
	*fakeRotator
	meter  *fakeMeter
	tracer *fakeTracer
	stop   func()
}

func newRig(t *testing.T, s rotation.Status) *rig {
	t.Helper()
	g := &rig{fakeRotator: &fakeRotator{s: s}, meter: newFakeMeter(), tracer: &fakeTracer{}}
	var err error
	g.stop, err = instrument(g.fakeRotator, Config{
		MeterProvider: g.meter.provider(), TracerProvider: g.tracer,
		Pool: "p", Attributes: []attribute.KeyValue{attribute.String("zone", "z")},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.stop)
	return g
}

// base is what every attribute set has.
const base = "vaultpool.pool=p,zone=z"

func (g *rig) counts(t *testing.T, want float64, name, attributes string) {
	t.Helper()
	if got := g.meter.sum(name + " " + attributes); got != want {
		t.Errorf("%s %s is %v, want %v", name, attributes, got, want)
	}
}

// Each event is counted as what it is.
func TestEventsAreCounted(t *testing.T) {
	g := newRig(t, rotation.Status{})
	failed := errors.New("failed")
	g.emit(
		rotation.Event{Kind: rotation.Issued, Generation: 2, Reason: "lease ceiling", Took: time.Second},
		rotation.Event{Kind: rotation.IssueFailed, Took: time.Second, Err: failed},
		rotation.Event{Kind: rotation.SameLease, Took: time.Second, Err: failed},
		rotation.Event{Kind: rotation.Refreshed, Generation: 1, Took: time.Second},
		rotation.Event{Kind: rotation.ProbeFailed, Generation: 2, Took: time.Second, Err: failed},
		rotation.Event{Kind: rotation.Published, Generation: 2, Reason: "lease ceiling", Took: time.Second, Missed: 3},
		rotation.Event{Kind: rotation.Rejected, Generation: 3, Err: failed, Took: time.Second},
		rotation.Event{Kind: rotation.Rejected, Generation: 4, Err: failed}, // without a proof
		rotation.Event{Kind: rotation.Rejected, Generation: 5, Err: fmt.Errorf("closing: %w", rotation.ErrClosed)},
		rotation.Event{Kind: rotation.Published, Generation: 6, Reason: "a reason that nobody knows"},
		rotation.Event{Kind: rotation.Renewed, Generation: 2},
		rotation.Event{Kind: rotation.RenewFailed, Generation: 2, Err: failed},
		rotation.Event{Kind: rotation.RevokeFailed, Generation: 1, Err: failed},
		rotation.Event{Kind: rotation.Revoked, Generation: 1},
		rotation.Event{Kind: rotation.RevokeAbandoned, Generation: 2, Err: failed},
		rotation.Event{Kind: rotation.SessionsEnded, Generation: 2},
		rotation.Event{Kind: rotation.SessionsEnded, Generation: 2, Err: failed},
		rotation.Event{Kind: rotation.EventsMissed, Missed: 2},
		rotation.Event{Kind: rotation.LeaseChecked, Generation: 2, Err: failed}, // no step of ours
	)
	g.counts(t, 2, nameIssueDuration, "vaultpool.outcome=ok,"+base)
	g.counts(t, 2, nameIssueDuration, "vaultpool.outcome=failed,"+base)
	g.counts(t, 2, nameProbeDuration, "vaultpool.outcome=ok,"+base)
	g.counts(t, 2, nameProbeDuration, "vaultpool.outcome=failed,"+base)
	g.counts(t, 1, nameRotations, base[:len("vaultpool.pool=p")]+",vaultpool.reason=lease_ceiling,zone=z")
	g.counts(t, 1, nameRotations, base[:len("vaultpool.pool=p")]+",vaultpool.reason=other,zone=z")
	g.counts(t, 1, nameRenewals, base)
	g.counts(t, 5, nameMissed, base)
	for outcome, want := range map[string]float64{outcomeOK: 1, outcomeFailed: 1, outcomeAbandoned: 1} {
		g.counts(t, want, nameRevocations, "vaultpool.outcome="+outcome+","+base)
	}
	for kind, want := range map[rotation.EventKind]float64{
		rotation.IssueFailed: 1, rotation.SameLease: 1, rotation.ProbeFailed: 1, rotation.Rejected: 2, rotation.RenewFailed: 1,
		rotation.RevokeFailed: 1, rotation.RevokeAbandoned: 1, rotation.SessionsEnded: 1, rotation.LeaseChecked: 0,
	} {
		g.counts(t, want, nameFailures, "vaultpool.failure="+value(kind)+","+base)
	}
}

// A drain is timed from its first event to its last, and a rejected credential's is none.
func TestDrainsAreTimed(t *testing.T) {
	g := newRig(t, rotation.Status{})
	t0 := time.Now()
	at := func(d time.Duration, e rotation.Event) { e.Time = t0.Add(d); g.emit(e) }
	at(0, rotation.Event{Kind: rotation.Draining, Generation: 1, Reason: "requested", Connections: 2})
	at(time.Second, rotation.Event{Kind: rotation.Draining, Generation: 2, Reason: "rejected"})
	at(2*time.Second, rotation.Event{Kind: rotation.Drained, Generation: 2})
	at(3*time.Second, rotation.Event{Kind: rotation.Drained, Generation: 1})
	at(3*time.Second, rotation.Event{Kind: rotation.Drained, Generation: 7}) // whose beginning was missed
	g.counts(t, 1, nameDrainDuration, "vaultpool.outcome=ok,"+base)
	if took := g.meter.last[nameDrainDuration]; took != 3 {
		t.Errorf("it took %v s, want 3", took)
	}
	at(4*time.Second, rotation.Event{Kind: rotation.Draining, Generation: 3, Reason: "requested", Connections: 1})
	at(9*time.Second, rotation.Event{Kind: rotation.DrainDeadline, Generation: 3, Connections: 1})
	at(9*time.Second, rotation.Event{Kind: rotation.SessionsEnded, Generation: 3, Connections: 1})
	at(9*time.Second, rotation.Event{Kind: rotation.Drained, Generation: 3})
	g.counts(t, 1, nameDrainDuration, "vaultpool.outcome=deadline,"+base)
	if drains := g.tracer.of(spanDrain); len(drains) != 2 || drains[0].failed || !drains[1].failed ||
		drains[1].end.Sub(drains[1].start) != 5*time.Second {
		t.Errorf("the spans are %+v", drains)
	}
}

// Where events are missed nothing is remembered for ever.
func TestWhatIsMissedIsForgotten(t *testing.T) {
	g := &fakeRotator{}
	meter := newFakeMeter()
	config := Config{MeterProvider: meter.provider(), TracerProvider: &fakeTracer{}}.withDefaults()
	r, err := newRecorder(config.MeterProvider.Meter(""), config)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Subscribe(r.add)()
	for id := range uint64(1000) {
		g.emit(
			rotation.Event{Kind: rotation.Issued, Generation: id + 2, Reason: "requested"},
			rotation.Event{Kind: rotation.Published, Generation: id + 2, Reason: "requested"},
			rotation.Event{Kind: rotation.Draining, Generation: id + 1, Reason: "requested"},
		)
	}
	if d, s := len(r.drains), len(r.spans.replacing); d > remembered+1 || s > remembered+1 || d == 0 || s == 0 {
		t.Errorf("%d drains and %d rotations are remembered, want %d at most", d, s, remembered)
	}
}

// A rotation's span is the parent of its steps, and of what becomes of the old credential; one that has no end is ended by stop.
func TestSpansOfRotations(t *testing.T) {
	g := newRig(t, rotation.Status{})
	t0 := time.Now()
	g.emit(
		rotation.Event{Time: t0.Add(2 * time.Second), Kind: rotation.Issued, Generation: 2, Reason: "requested", Took: 2 * time.Second},
		rotation.Event{Time: t0.Add(3 * time.Second), Kind: rotation.ProbeFailed, Generation: 2, Took: time.Second, Err: rotation.ErrRefused},
		rotation.Event{Time: t0.Add(5 * time.Second), Kind: rotation.Published, Generation: 2, Reason: "requested", Took: time.Second},
		rotation.Event{Time: t0.Add(5 * time.Second), Kind: rotation.Draining, Generation: 1, Reason: "requested", Connections: 1},
		rotation.Event{Time: t0.Add(6 * time.Second), Kind: rotation.Drained, Generation: 1},
		rotation.Event{Time: t0.Add(7 * time.Second), Kind: rotation.Revoked, Generation: 1, Took: time.Second},
		rotation.Event{Time: t0.Add(8 * time.Second), Kind: rotation.Draining, Generation: 2, Reason: "closed"},
		rotation.Event{Time: t0.Add(9 * time.Second), Kind: rotation.Revoked, Generation: 2, Took: time.Second},
	)
	root := g.tracer.of(spanRotate)[0]
	if !root.start.Equal(t0) || !root.end.Equal(t0.Add(5*time.Second)) || root.failed || root.ended != 1 {
		t.Errorf("the rotation is %+v", root)
	}
	for name, failed := range map[string][]bool{spanIssue: {false}, spanProbe: {true, false}, spanDrain: {false}, spanRevoke: {false, false}} {
		spans := g.tracer.of(name)
		if len(spans) != len(failed) {
			t.Fatalf("%d spans %s, want %d", len(spans), name, len(failed))
		}
		for i, span := range spans {
			alone := name == spanRevoke && i == 1 // nothing replaced that one
			if span.failed != failed[i] || (span.parent.SpanID() == root.id.SpanID()) == alone || span.ended != 1 {
				t.Errorf("%s %d is %+v", name, i, span)
			}
		}
	}
	g.emit(rotation.Event{Kind: rotation.Issued, Generation: 3, Reason: "requested"})
	g.stop()
	g.emit(rotation.Event{Kind: rotation.Published, Generation: 3, Reason: "requested"})
	if second := g.tracer.of(spanRotate)[1]; second.ended != 1 {
		t.Errorf("the rotation that was under way is %+v", second)
	}
	g.counts(t, 1, nameRotations, "vaultpool.pool=p,vaultpool.reason=requested,zone=z")
}

// Gauges tell what the status says, with every state of every database that was seen.
func TestGauges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		g := newRig(t, rotation.Status{
			Generation: 3, Age: time.Minute, LeaseLeft: time.Hour, Expires: now.Add(time.Hour), Granted: 2 * time.Hour,
			RotateAt: now.Add(50 * time.Minute), Usable: true, Unrevoked: 2, Cap: 5, PaidLogins: 4,
			Generations: []rotation.GenerationStatus{
				{State: rotation.StateDraining, ByAttachment: map[string]int{"a": 1}},
				{State: rotation.StateDraining, ByAttachment: map[string]int{"a": 2}},
				{State: rotation.StateCurrent, ByAttachment: map[string]int{"a": 4, "b": 5}},
			},
		})
		want := map[string]float64{
			nameTimeLeft: 3600, nameTTL: 7200, nameRotationLeft: 3000, nameAge: 60, nameUsable: 1, nameUnrevoked: 2, nameLimit: 5, nameStalled: 0, namePaid: 4,
		}
		got := g.meter.collect(t)
		for name, v := range want {
			if got[name+" "+base] != v {
				t.Errorf("%s is %v, want %v", name, got[name+" "+base], v)
			}
		}
		connections := func(database string, state rotation.State) float64 {
			v, seen := got[fmt.Sprintf("%s vaultpool.database=%s,vaultpool.generation.state=%s,%s", nameConnections, database, state, base)]
			if !seen {
				t.Errorf("no connections of %s %s", database, state)
			}
			return v
		}
		if connections("a", rotation.StateDraining) != 3 || connections("a", rotation.StateCurrent) != 4 || connections("b", rotation.StateCurrent) != 5 ||
			connections("b", rotation.StateDraining) != 0 || connections("b", rotation.StateEnding) != 0 {
			t.Errorf("the gauges are %v", got)
		}
		g.set(func(f *fakeRotator) { f.s = rotation.Status{} }) // nothing is known any more
		got = g.meter.collect(t)
		for _, name := range []string{nameTimeLeft, nameTTL, nameRotationLeft, nameAge} {
			if _, seen := got[name+" "+base]; seen {
				t.Errorf("%s is told though it is not known", name)
			}
		}
		if connections("a", rotation.StateCurrent) != 0 || got[nameUsable+" "+base] != 0 {
			t.Errorf("the gauges are %v", got)
		}
	})
}

// While the loop hangs that is told, within a bound, and the rest goes on as time does.
func TestStalledLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		g := newRig(t, rotation.Status{Generation: 1, LeaseLeft: time.Hour, Expires: now.Add(time.Hour), RotateAt: now.Add(50 * time.Minute), Usable: true})
		stall := make(chan struct{})
		g.set(func(f *fakeRotator) { f.stall = stall })
		got := g.meter.collect(t)
		if time.Since(now) != 500*time.Millisecond || got[nameStalled+" "+base] != 0.5 {
			t.Errorf("after %v it has stalled for %v s, want 0.5", time.Since(now), got[nameStalled+" "+base])
		}
		time.Sleep(time.Minute)
		got = g.meter.collect(t)
		passed := time.Since(now).Seconds() // 61
		if got[nameStalled+" "+base] != passed || got[nameTimeLeft+" "+base] != 3600-passed || got[nameRotationLeft+" "+base] != 3000-passed ||
			got[nameAge+" "+base] != passed || got[nameUsable+" "+base] != 1 {
			t.Errorf("after %v s the gauges are %v", passed, got)
		}
		close(stall)
		synctest.Wait()
		if got = g.meter.collect(t); got[nameStalled+" "+base] != 0 {
			t.Errorf("it answers again and has stalled for %v s", got[nameStalled+" "+base])
		}
	})
}

// It ends with the rotator.
func TestEndsWithTheRotator(t *testing.T) {
	g := newRig(t, rotation.Status{})
	g.emit(rotation.Event{Kind: rotation.Closed})
	if seen := g.meter.collect(t); g.subscribed() != 0 || len(seen) != 0 {
		t.Errorf("%d subscribers are left, and the gauges %v", g.subscribed(), seen)
	}
	g.stop()
}

// Whatever fails, nothing is left behind.
func TestInstrumentFails(t *testing.T) {
	for name, fails := range map[string]string{
		"a counter": nameRotations, "a histogram": nameDrainDuration, "a gauge": nameTimeLeft, "a state": nameUsable,
		"a sum": nameConnections, "a total": namePaid, "the callback": "callback",
	} {
		r, meter := &fakeRotator{}, newFakeMeter()
		meter.fails = fails
		stop, err := instrument(r, Config{MeterProvider: meter.provider(), TracerProvider: &fakeTracer{}, Pool: "orders"})
		if !errors.Is(err, errNoInstrument) || stop != nil || !strings.Contains(err.Error(), `"orders"`) {
			t.Errorf("%s: the error is %v", name, err)
		}
		if r.subscribed() != 0 || len(meter.collect(t)) != 0 {
			t.Errorf("%s: something is left", name)
		}
	}
	r, meter := &fakeRotator{s: rotation.Status{Closed: true}}, newFakeMeter()
	if _, err := instrument(r, Config{MeterProvider: meter.provider(), TracerProvider: &fakeTracer{}}); !errors.Is(err, rotation.ErrClosed) {
		t.Errorf("a closed rotator: the error is %v", err)
	}
	if r.subscribed() != 0 || len(meter.collect(t)) != 0 {
		t.Error("a closed rotator: something is left")
	}
}

// The global providers, and a name, are what the zero value stands for.
func TestDefaults(t *testing.T) {
	c := Config{}.withDefaults()
	if c.MeterProvider == nil || c.TracerProvider == nil || c.Pool != "default" || c.StallTimeout != 500*time.Millisecond ||
		!slices.Equal(c.Attributes, []attribute.KeyValue{keyPool.String("default")}) {
		t.Errorf("the defaults are %+v", c)
	}
}

// Every reason that the engine has for a rotation is one that is counted as such.
func TestReasonsAreTheEngines(t *testing.T) {
	found := engineReasons(t)
	found = append(found, "start") // in an expression
	for _, reason := range found {
		if !slices.Contains(reasons, reason) {
			t.Errorf("the engine rotates because of %q", reason)
		}
	}
	for _, reason := range reasons {
		if !slices.Contains(found, reason) {
			t.Errorf("the engine never rotates because of %q", reason)
		}
	}
}

// engineReasons reads them from the engine's source: constants whose comment says that they are why there is a rotation or
// a replacement, and what is given to urgent, or wanted.
func engineReasons(t *testing.T) (found []string) {
	t.Helper()
	add := func(e ast.Expr) {
		if literal, ok := e.(*ast.BasicLit); ok && literal.Kind == token.STRING {
			if text, err := strconv.Unquote(literal.Value); err == nil && text != "" {
				found = append(found, text)
			}
		}
	}
	entries, err := os.ReadDir("..")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), ".go") || strings.HasSuffix(entry.Name(), "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), "../"+entry.Name(), nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GenDecl:
				about := n.Doc.Text()
				if n.Tok == token.CONST && (strings.Contains(about, "is why there is a rotation") || strings.HasPrefix(about, "Why the schedule replaces")) {
					for _, spec := range n.Specs {
						for _, v := range spec.(*ast.ValueSpec).Values {
							add(v)
						}
					}
				}
			case *ast.CallExpr:
				if f, ok := n.Fun.(*ast.SelectorExpr); ok && f.Sel.Name == "urgent" {
					add(n.Args[0])
				}
			case *ast.AssignStmt:
				if to, ok := n.Lhs[0].(*ast.SelectorExpr); ok && to.Sel.Name == "want" {
					add(n.Rhs[0])
				}
			}
			return true
		})
	}
	return found
}
