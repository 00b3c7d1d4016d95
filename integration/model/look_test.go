package model

import (
	"errors"
	"time"

	"github.com/vaultpool/vaultpool/rotation"
)

// look compares what the engine shows with what is so. Nothing is left to happen
// now, so that all of it must fit, to the nanosecond.
func (d *driver) look() {
	s := d.r.Status()
	g, err := d.first.a.Current()
	d.w.mu.Lock()
	defer d.w.mu.Unlock()
	d.checkCurrent(s, g, err)
	d.checkNext(s)
	for _, gs := range s.Generations {
		d.checkGeneration(gs)
	}
	if s.Unrevoked > d.w.h.config.MaxUnrevoked {
		d.w.wrong(withinCap, "Status counts %d unrevoked leases", s.Unrevoked)
	}
}

// checkCurrent checks what a login is offered; mu is held, as below.
func (d *driver) checkCurrent(s rotation.Status, g *rotation.Generation, err error) {
	w, now := d.w, time.Now()
	if w.closing {
		if !errors.Is(err, rotation.ErrClosed) {
			w.wrong(nothing, "after Close a login is offered %v, %v", g, err)
		}
		return
	}
	l := w.events.current
	if s.Usable != (err == nil) {
		w.wrong(neverPast, "Status says usable: %v, and a login is told %v", s.Usable, err)
	}
	if err != nil {
		var none *rotation.NoCredentialError
		if !errors.As(err, &none) {
			w.wrong(reported, "a login is told %v", err)
		}
		if l != nil && l.live(now) && !l.over(now) && !l.doubted {
			w.wrong(keepsValid, "%s is valid, and a login is told %v", l.user, err)
		}
		return
	}
	offered := w.of(g)
	switch {
	case offered != l || g.ID() != w.events.published || g.ID() != s.Generation || l.user != s.User:
		w.wrong(keepsValid, "a login is offered %v, and %d was published, and Status says %d", g, w.events.published, s.Generation)
	case g.ID() < d.newest:
		w.wrong(keepsValid, "a login is offered generation %d after %d", g.ID(), d.newest)
	case g.Dead() || !g.Serving():
		w.wrong(keepsValid, "a login is offered %v, which is dead or draining", g)
	case offered.over(now):
		w.wrong(neverPast, "a login is offered %s, which ended %v ago", offered.user, now.Sub(offered.told))
	}
	d.newest = g.ID()
}

// checkNext checks that something comes next, and is not overdue.
func (d *driver) checkNext(s rotation.Status) {
	w, now := d.w, time.Now()
	if w.closing {
		return
	}
	l, shape := w.events.current, w.h.shape
	switch s.Next {
	case "nothing":
		if l == nil || !l.told.IsZero() || shape.refresh > 0 {
			w.wrong(neverRest, "nothing is next")
		}
	case "renew", "rotate", "refresh", "issue", "probe":
	default:
		w.wrong(neverRest, "Status.Next is %q", s.Next)
	}
	held := s.Paused || s.Unrevoked >= w.h.config.MaxUnrevoked
	if !s.NextAt.IsZero() && s.NextAt.Before(now) && !held {
		w.wrong(neverRest, "%q was due %v ago", s.Next, now.Sub(s.NextAt))
	}
}

// checkGeneration checks ends and deadlines.
func (d *driver) checkGeneration(g rotation.GenerationStatus) {
	w, now := d.w, time.Now()
	l := w.events.lease[g.Generation]
	if l == nil {
		w.wrong(reported, "generation %d of Status was not reported as issued", g.Generation)
		return
	}
	if g.Expires.After(l.told) || g.Expires.IsZero() != l.told.IsZero() {
		w.wrong(neverPast, "%s ends at %v, and Status says %v", l.user, l.told.Sub(w.start), g.Expires.Sub(w.start))
	}
	if w.closing || g.State != rotation.StateDraining || w.h.shape.sameUser {
		return
	}
	if latest := l.left; !latest.IsZero() && g.Reason != "rejected" {
		if l.drained.After(latest) {
			latest = l.drained
		}
		if g.DrainBy.After(latest.Add(5 * time.Second)) {
			w.wrong(neverPast, "%s ends at %v, and drains until %v", l.user, l.left.Sub(w.start), g.DrainBy.Sub(w.start))
		}
	}
	if late := now.Sub(l.drained.Add(w.h.config.DrainTimeout)); late > 10*time.Second && len(l.open) > 0 {
		w.wrong(drainFirst, "%d connections of %s are open %v after the drain deadline", len(l.open), l.user, late)
	}
}
