package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	// healBound is how long after a fault all may take to be well again. The longest wait by design is that between
	// two attempts to replace a credential that has ended: 30 s. The rest is for a busy machine.
	healBound = 45 * time.Second

	// quiet is how long there must have been no failure before all counts as well.
	quiet = 1500 * time.Millisecond

	lookInterval = 50 * time.Millisecond
	liftTimeout  = time.Minute // for a server to start again
	readyTimeout = time.Minute
	shownTexts   = 12 // different texts of failures in excess
)

// runner runs the suite on a site.
type runner struct {
	site     *site
	ledger   *ledger
	screen   *screen
	schedule *schedule
	record   *record
	began    time.Time
	ends     time.Time
	patience time.Duration // for the healing of an episode
	settle   time.Duration // for the servers to be in order afterwards; 0: settleBound
}

// run injects faults until the time is over or ctx ends.
func (r *runner) run(ctx context.Context) error {
	live, stop := context.WithCancel(ctx)
	defer stop()
	go r.draw(live)
	if !pause(ctx, min(3*time.Second, time.Until(r.ends)/4)) { // the pools fill
		return nil
	}
	for ctx.Err() == nil {
		e := r.schedule.next()
		if time.Now().Add(e.gap + e.length() + 4*quiet).After(r.ends) {
			if time.Until(r.ends) < 15*time.Second {
				break
			}
			continue // a shorter one
		}
		if !pause(ctx, e.gap) {
			break
		}
		if err := r.episode(ctx, e); err != nil {
			return fmt.Errorf("episode %d, %s: %w", e.number, e, err)
		}
	}
	pause(ctx, time.Until(r.ends))
	r.peace()
	return nil
}

// peace judges what has failed since the last episode: nothing may.
func (r *runner) peace() {
	for _, f := range r.ledger.take() {
		r.record.inPeace(f)
		r.screen.printf("%s FAILED in peace: %s", f.Ended.Format(timeFormat), describe(f))
	}
}

const timeFormat = "15:04:05.000"

// episode injects the faults, lifts them, waits until all is well, and judges.
func (r *runner) episode(ctx context.Context, e *episode) error {
	r.peace()
	before := make(map[lane]uint64)
	for _, l := range ours {
		if s := r.ledger.now(l); s != nil {
			before[l] = s.Generation
		}
	}
	w := window{faults: e.faults, began: time.Now()}
	if err := r.act(ctx, e); err != nil {
		return err
	}
	lifted := lastLifted(e.faults)
	healed := r.heal(e, lifted, before)
	w.over, w.healed = time.Now(), healed.trouble == ""
	r.judge(e, w, healed)
	if !w.healed {
		r.record.broken(fmt.Sprintf("after %s, %v later: %s", e, r.patience, healed.trouble))
		return errors.New("it has not healed, so that nothing after it would mean anything: " + healed.trouble)
	}
	r.inspect(e)
	r.ledger.forget(time.Now().Add(-10 * time.Minute))
	return nil
}

func lastLifted(faults []*planned) (last time.Time) {
	for _, p := range faults {
		if p.lifted.After(last) {
			last = p.lifted
		}
	}
	return last
}

// act carries out the steps of an episode. When ctx ends it lifts at once what was injected.
func (r *runner) act(ctx context.Context, e *episode) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	began := time.Now()
	var errs []error
	for _, a := range e.actions() {
		hurry := !pause(ctx, time.Until(began.Add(a.at)))
		if hurry && !a.lift {
			a.of.hold = -1 // it does not come any more
			continue
		}
		if a.of.hold < 0 {
			continue
		}
		if err := r.step(ctx, e, a); err != nil {
			errs = append(errs, err)
			stop() // what was injected is lifted, and nothing else is
		}
	}
	e.faults = slices.DeleteFunc(e.faults, func(p *planned) bool { return p.injected.IsZero() })
	return errors.Join(errs...)
}

func (r *runner) step(ctx context.Context, e *episode, a action) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), liftTimeout)
	defer cancel()
	p := a.of
	if a.lift {
		if err := p.fault.lift(ctx, r.site, p); err != nil {
			return fmt.Errorf("lift %s: %w", p.fault.name, err)
		}
		p.lifted = time.Now()
		r.screen.printf("%s %3d lifted   %s", p.lifted.Format(timeFormat), e.number, p.fault.name)
		return nil
	}
	r.screen.printf("%s %3d inject   %s", time.Now().Format(timeFormat), e.number, p)
	p.injected = time.Now()
	p.lifted = p.injected.Add(p.hold)
	if err := p.fault.inject(ctx, r.site, p); err != nil {
		return fmt.Errorf("inject %s: %w", p.fault.name, err)
	}
	return nil
}

// healing is how long it took each lane until all was well, from the last lifting.
type healing struct {
	took    map[lane]time.Duration
	trouble string // why it has not healed
}

// heal waits until every lane works and has not failed for a while. It counts from the last failure or the last
// trouble that was seen.
func (r *runner) heal(e *episode, lifted time.Time, before map[lane]uint64) healing {
	bad := make(map[lane]time.Time)
	for _, l := range lanes {
		bad[l] = lifted
	}
	for bound := lifted.Add(r.patience); ; {
		now := time.Now()
		trouble := ""
		for _, l := range lanes {
			c := r.ledger.condition(l, now, revokedGeneration(e, l, before))
			if c.lastFailed.After(bad[l]) {
				bad[l] = c.lastFailed
			}
			if c.trouble != "" {
				bad[l], trouble = now, fmt.Sprintf("%s: %s", l, c.trouble)
			}
			if now.Sub(bad[l]) < quiet && trouble == "" {
				trouble = string(l) + ": operations go on failing"
			}
		}
		if trouble == "" || now.After(bound) {
			return healing{took: since(lifted, bad), trouble: trouble}
		}
		time.Sleep(lookInterval)
	}
}

// revokedGeneration is the one that must not be current any more, 0 if there is none.
func revokedGeneration(e *episode, l lane, before map[lane]uint64) uint64 {
	if slices.ContainsFunc(e.faults, func(p *planned) bool { return p.fault.revokes(l) }) {
		return before[l]
	}
	return 0
}

func since(start time.Time, ends map[lane]time.Time) map[lane]time.Duration {
	took := make(map[lane]time.Duration)
	for l, end := range ends {
		took[l] = end.Sub(start)
	}
	return took
}

// judge books what has failed in the episode, and shows it.
func (r *runner) judge(e *episode, w window, h healing) {
	failures := r.ledger.take()
	tallies := make(map[lane]tally)
	var line strings.Builder
	for _, l := range ours {
		t := judge(w, l, r.ledger.livesOf(l), failures)
		tallies[l] = t
		fmt.Fprintf(&line, "  %s %.2fs", l, h.took[l].Seconds())
		if t.ours+t.control > 0 {
			fmt.Fprintf(&line, " %d failed (control %d%s)%s", t.ours, t.control, verdicts(t), classesOf(l, failures))
		}
		for text, n := range t.texts {
			r.screen.printf("EXCESS %d× %s", n, text)
		}
	}
	r.record.add(e, w, h, tallies, failures)
	r.screen.printf("%s %3d healed   %s:%s", time.Now().Format(timeFormat), e.number, e, line.String())
}

func verdicts(t tally) (text string) {
	for _, v := range []verdict{byRevoked, byLapse, excess} {
		if t.by[v] > 0 {
			text += fmt.Sprintf(", %d %s", t.by[v], v)
		}
	}
	return text
}

// inspect looks at the servers from outside.
func (r *runner) inspect(e *episode) {
	ctx, cancel := context.WithTimeout(context.Background(), liftTimeout)
	defer cancel()
	for _, l := range ours {
		for _, problem := range r.settled(ctx, l) {
			r.record.broken(fmt.Sprintf("after episode %d, %s: %s: %s", e.number, e, l, problem))
			r.screen.printf("BROKEN %s: %s", l, problem)
		}
	}
}

// draw writes the live line every second.
func (r *runner) draw(ctx context.Context) {
	for pause(ctx, time.Second) {
		r.screen.live(liveLine(time.Since(r.began), r.ledger.snapshot()))
	}
}
