package model

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vaultpool/vaultpool/rotation"
)

// driver lives one history through.
type driver struct {
	w      *world
	src    *source
	r      *rotation.Rotator
	first  *pool
	second *pool // nil while there is none
	tasks  sync.WaitGroup

	resumes  []func()
	shutting bool
	newest   uint64 // the newest generation that was current

	closed   time.Time // guarded by the world's mutex, like what follows
	closeErr error
	finished bool
}

// live is what runs in the bubble.
func (w *world) live(t *testing.T) {
	t.Helper()
	d := &driver{w: w, src: &source{w: w}}
	var src rotation.Source = full{d.src}
	if w.h.shape.bare {
		src = rotation.SourceFunc(d.src.issue)
	}
	r, err := rotation.Start(src, w.h.config)
	if err != nil {
		t.Fatalf("Start: %v", err)
	}
	d.r = r
	r.Subscribe(w.event) // no issue is answered within no time
	d.first = d.attach("primary")
	for _, s := range w.h.steps {
		w.do(func() { w.note("-- %v", s) })
		d.step(s)
		d.settle()
	}
	if d.w.h.late && !d.shutting {
		d.resume()
		d.w.do(func() { d.src.issues = script{{fine, time.Minute}} })
		d.rotate(time.Second)
		d.pass(d.w.h.config.IssueInterval)
	}
	healthy := !d.shutting && !d.w.h.abrupt && d.calm()
	d.finish(healthy)
}

func (d *driver) attach(name string) *pool {
	p := &pool{w: d.w, name: name, proofs: make(map[uint64]rotation.ProbeResult)}
	var target rotation.Target = p
	if d.w.h.shape.sweeps {
		target = sweeper{p}
	}
	if _, err := d.r.Attach(target); err != nil {
		return nil
	}
	d.w.do(func() { d.w.pools = append(d.w.pools, p) })
	return p
}

// pool is the nth; there are one or two.
func (d *driver) pool(n int) *pool {
	if n%2 == 1 && d.second != nil {
		return d.second
	}
	return d.first
}

func (d *driver) step(s step) {
	switch s.do {
	case pass:
		d.pass(s.d)
	case connect, hold:
		_ = d.pool(s.n).connect(s.do == hold)
	case release:
		d.pool(s.n).release(s.n / 2)
	case refuse:
		if g, err := d.first.a.Current(); err == nil {
			d.pool(s.n).refused(g)
		}
	case suspect:
		if g, err := d.first.a.Current(); err == nil {
			d.pool(s.n).a.Suspect(g, errDenied)
		}
	case rotate:
		d.rotate(s.d)
	case pause:
		d.resumes = append(d.resumes, d.r.Pause())
	case resume:
		d.resume()
	case attach:
		if d.second == nil && !d.shutting {
			d.second = d.attach("replica")
		}
	case detach:
		d.detach()
	case shut:
		d.shut(s.d)
	default:
		d.faulty(s)
	}
}

// faulty changes what goes wrong outside.
func (d *driver) faulty(s step) {
	var changed func()
	d.w.do(func() {
		switch s.do {
		case kill:
			if l := d.w.events.current; l != nil {
				l.gone = true
			}
		case change, notify:
			if l := d.w.events.current; l != nil && d.w.h.shape.static && s.do == change {
				l.gone = true
			}
			changed, d.w.news = d.src.changed, time.Now()
		case down, up:
			d.w.down = s.do == down
		case issueFault:
			d.src.issues.add(s)
		case renewFault:
			d.src.renewals.add(s)
		case dropFault:
			d.src.revokes.add(s)
		case checkFault:
			d.src.checks.add(s)
		case probeFault, endFault:
			for _, p := range d.w.pools {
				if s.do == probeFault {
					p.probes.add(s)
				} else {
					p.ends.add(s)
				}
			}
		case heal:
			d.w.heal(d.src)
		default:
			panic("no such step: " + s.do)
		}
	})
	if changed != nil {
		changed()
	}
}

// heal ends all faults; mu is held.
func (w *world) heal(src *source) {
	w.down = false
	src.issues, src.renewals, src.revokes, src.checks = nil, nil, nil, nil
	for _, p := range w.pools {
		p.probes, p.ends = nil, nil
	}
}

func (d *driver) rotate(within time.Duration) {
	d.tasks.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), within)
		defer cancel()
		began := time.Now()
		err := d.r.Rotate(ctx)
		d.w.do(func() {
			d.w.note("Rotate: %v", err)
			if took := time.Since(began); took > within {
				d.w.wrong(neverRest, "Rotate took %v, and had %v", took, within)
			}
		})
	})
}

func (d *driver) resume() {
	for _, f := range d.resumes {
		f()
	}
	d.resumes = nil
}

func (d *driver) detach() {
	if p := d.second; p != nil {
		d.second = nil
		d.tasks.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			p.close(ctx, true)
		})
	}
}

// shut closes the Rotator while all else goes on.
func (d *driver) shut(within time.Duration) {
	if d.shutting {
		return
	}
	d.shutting = true
	d.w.do(func() { d.w.closing, d.w.calm = true, false })
	d.tasks.Go(func() {
		ctx, bound := context.Background(), 10*time.Second
		if within > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, within)
			defer cancel()
			bound = within
		}
		began := time.Now()
		err := d.r.Close(ctx)
		d.w.do(func() {
			d.w.note("Close: %v", err)
			d.closed, d.closeErr, d.finished = time.Now(), err, true
			if took := time.Since(began); took > bound {
				d.w.wrong(nothing, "Close took %v, and had %v", took, bound)
			}
			if n := d.w.unrevoked(time.Now()); err == nil && (n > 0 || d.src.inFlight) {
				d.w.wrong(nothing, "Close returns nil with %d leases unrevoked, an issue in flight: %v", n, d.src.inFlight)
			}
		})
	})
}

// settle lets everything happen that happens now, and looks.
func (d *driver) settle() {
	synctest.Wait()
	d.look()
}

// pass lets time pass, and looks whenever something should happen.
func (d *driver) pass(span time.Duration) {
	const closely = 200
	end := time.Now().Add(span)
	for stops := 0; time.Now().Before(end); stops++ {
		next := end
		if stops < closely {
			for _, at := range d.soon() {
				if at.After(time.Now()) && at.Before(next) {
					next = at
				}
			}
		}
		time.Sleep(time.Until(next))
		d.settle()
	}
}

// soon is when something should happen.
func (d *driver) soon() []time.Time {
	s := d.r.Status()
	times := []time.Time{s.NextAt, s.Expires}
	for _, g := range s.Generations {
		times = append(times, g.Expires, g.DrainBy)
	}
	return times
}

// calm ends all faults, waits until all is well, and sees that it stays so.
func (d *driver) calm() bool {
	d.resume()
	d.w.do(func() {
		d.w.note("-- calm")
		d.w.heal(d.src)
	})
	unit := d.w.h.shape.unit()
	// The longest waits: revocations 5 minutes, Retry-After 2, a call 2, issues 1.
	bound := d.w.h.config.DrainTimeout + 15*time.Minute
	began := time.Now()
	for why := d.unwell(); why != ""; why = d.unwell() {
		if time.Since(began) > bound {
			d.w.do(func() { d.w.wrong(neverRest, "%v after the last fault: %s", bound, why) })
			return false
		}
		d.pass(min(unit/4, time.Second))
	}
	if !d.heard() {
		return false
	}
	issues := 0
	d.w.do(func() {
		d.w.note("-- all is well")
		d.w.calm, issues = true, d.w.events.issues
	})
	d.pass(3 * unit)
	d.w.do(func() {
		// A lease serves for most of its time; a refresh comes when it is due.
		most := 7
		if refresh := d.w.h.shape.refresh; refresh > 0 {
			most += int(3 * unit / refresh)
		}
		if n := d.w.events.issues - issues; n > most {
			d.w.wrong(rateBound, "%d issues in %v with no fault around", n, 3*unit)
		}
	})
	return true
}

// heard has the source say that it changed, and sees that the engine looks.
func (d *driver) heard() (ok bool) {
	began := time.Now()
	d.faulty(step{do: notify})
	if d.w.h.shape.bare {
		return true
	}
	d.pass(2*time.Minute + d.w.h.config.IssueInterval)
	d.w.do(func() {
		if ok = !d.src.lastIssue.Before(began); !ok {
			d.w.wrong(neverRest, "the source changed %v ago, and nobody looked", time.Since(began))
		}
	})
	return ok
}

// unwell is what is not yet as it should be; "" if all is. A login tells the engine
// of a credential that is dead.
func (d *driver) unwell() (why string) {
	err := d.first.connect(false)
	d.settle()
	if err != nil {
		return fmt.Sprintf("a login fails: %v", err)
	}
	d.first.release(d.first.connections() - 1)
	if n := len(d.r.Status().Generations); n > 1 && !d.w.h.shape.sameUser {
		return fmt.Sprintf("there are %d generations", n)
	}
	d.w.do(func() {
		now := time.Now()
		switch {
		case d.w.slow > 0:
			why = "a call is under way"
		case now.Before(d.src.notBefore):
			why = "Retry-After is not over"
		case d.src.inFlight:
			why = "an issue is under way"
		}
		for _, l := range d.w.leases {
			if l.revocable && !l.gone && !l.over(now) && l != d.w.events.current {
				why = l.user + " is not revoked"
			}
		}
	})
	return why
}

// finish closes everything, and looks what is left.
func (d *driver) finish(healthy bool) {
	d.resume()
	if d.w.h.held {
		_ = d.first.connect(true)
	} else if healthy {
		d.first.close(context.Background(), false)
	}
	d.detach()
	synctest.Wait()
	d.shut(0)
	for finished := false; !finished; d.w.do(func() { finished = d.finished }) {
		time.Sleep(time.Second)
	}
	d.w.do(func() { d.w.heal(d.src) })
	d.first.close(context.Background(), false)
	time.Sleep(5 * time.Minute) // for a late answer, and its revocation
	synctest.Wait()
	d.tasks.Wait()
	d.look()
	d.w.do(func() {
		if healthy && d.closeErr != nil {
			d.w.wrong(nothing, "Close with no fault around: %v", d.closeErr)
		}
		d.w.checkLeft(d.closed, func(user string) bool {
			return d.closeErr != nil && strings.Contains(d.closeErr.Error(), "(user "+user+")")
		})
	})
}
