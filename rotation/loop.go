package rotation

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// lookAgain is how long the owner goroutine sleeps at most: timers stand still
// while the machine is suspended.
const lookAgain = 30 * time.Second

// sourceChanged is why there is a rotation when a Watcher asks for one.
const sourceChanged = "source changed"

// noneYet is why there is no credential at the start: none was lost.
const noneYet = "none issued yet"

// loop is the state of a Rotator. One goroutine owns it, which calls nobody's
// code: sources, targets and subscribers run in goroutines of their own and hand
// their results back through Rotator.do.
type loop struct {
	r        *Rotator
	attached []*Attachment
	gens     []*Generation // those not retired, oldest first
	current  *Generation   // nil before the first
	seq      uint64

	op        *operation // the one issue or proof in flight
	want      string     // why a rotation is due whatever the schedule says
	waiters   []chan error
	lastIssue instant
	issued    bool    // lastIssue is set
	early     int     // credentials in a row that died before their time
	failures  int     // attempts to get a credential that failed in a row
	failure   error   // the last of them
	retryAt   instant // not before
	notBefore instant // the source has asked to be left alone until then
	capped    bool    // MaxUnrevoked was reported

	dispersed bool          // the moment at which the current credential was issued is not shared with others
	life      time.Duration // of a credential that was renewed up to its ceiling; 0: none was yet

	lost    *NoCredentialError // no login is possible, and why
	lastErr error
	errAt   time.Time
	errStep string
	errs    int

	paused    int
	closing   bool
	abandoned bool
	orphan    bool    // nobody waits for the issue in flight
	closeBy   instant // its deadline
	closeErrs []error
}

// owned is what a Generation's owner knows of it.
type owned struct {
	state   State
	lease   Lease
	term    term
	born    instant
	reason  string // why it was replaced
	drainBy instant
	early   time.Duration // the age at which it is replaced though it need not be; 0: never

	refused bool // the database refused it
	denied  bool // the source refused to renew it
	gone    bool // its lease is known to be gone
	swept   bool // the targets have ended what had no socket any more
	stays   bool // its sessions are as good as those of its successor

	refusing []*Attachment // pools with a host that refuses it, where another accepts it
	looking  bool          // whether that is still so
	looks    int
	lookAt   instant // not before

	checking bool // whether its lease exists
	alive    int  // checks in a row that did not find it gone

	renewing       bool
	renewFailures  int
	renewAt        instant
	revoking       bool
	revokeFailures int
	revokeFailure  error
	revokeAt       instant
}

// run is the owner goroutine.
func (l *loop) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for !l.finished() {
		timer.Reset(max(0, min(l.step(l.r.now()), lookAgain)))
		select {
		case f := <-l.r.inbox:
			f()
		case <-l.r.wake:
		case <-timer.C:
		}
	}
	l.finish()
}

// step does what is due and returns how long until something else is.
func (l *loop) step(now instant) time.Duration {
	wait := time.Duration(math.MaxInt64)
	for _, g := range slices.Clone(l.gens) {
		wait = min(wait, l.stepGeneration(now, g))
	}
	if !l.closing && (l.op == nil || l.op.gen == nil) {
		wait = min(wait, l.stepRenewal(now))
	}
	if l.op != nil {
		wait = min(wait, l.stepOperation(now))
	} else if !l.closing {
		wait = min(wait, l.stepSchedule(now))
	}
	return wait
}

// stepGeneration moves one generation towards its end.
func (l *loop) stepGeneration(now instant, g *Generation) time.Duration {
	switch g.state {
	case StateCurrent:
		return l.stepCurrent(now, g)
	case StateDraining:
		return l.stepDraining(now, g)
	case StateRevoking:
		return l.stepRevoking(now, g)
	default:
		return math.MaxInt64
	}
}

// stepCurrent notices the end of the current credential.
func (l *loop) stepCurrent(now instant, g *Generation) time.Duration {
	left := g.term.left(now)
	if left <= 0 && l.lost == nil {
		l.lose("its lease has ended")
	}
	if left <= 0 {
		return math.MaxInt64
	}
	return left
}

// next is what the schedule and the requests together ask for.
func (l *loop) next(now instant) (do action, in time.Duration, why string) {
	if l.want != "" {
		return actRotate, 0, l.want
	}
	if l.current == nil {
		return actRotate, 0, "start"
	}
	g := l.current
	do, in, why = plan(now, g.term, l.r.config)
	if do == actRenew && !l.renewable(g) {
		do, in, why = actRotate, g.term.left(now)-g.term.lead(l.r.config), leaseEnd
	}
	if do == actRenew && g.renewFailures > 0 {
		in = max(in, now.until(g.renewAt))
	}
	if rest := g.early - now.since(g.born); l.mayDisperse(g) && in > 0 && rest < in {
		return actRotate, rest, dispersal
	}
	return do, in, why
}

// untilRotation is how long until the schedule replaces g, the current one, whose end is known,
// if nothing prolongs it before.
func (l *loop) untilRotation(now instant, g *Generation) time.Duration {
	in := g.term.untilRotation(now, l.r.config)
	if l.mayDisperse(g) {
		in = min(in, g.early-now.since(g.born))
	}
	return in
}

func (l *loop) renewable(g *Generation) bool { return l.r.renewer != nil && !g.refused && !g.gone }

// stepRenewal prolongs the current lease when that is due: also while a successor
// is wanted that cannot be had yet, because the old one has to serve until then.
func (l *loop) stepRenewal(now instant) time.Duration {
	g := l.current
	if g == nil || g.renewing || !l.renewable(g) {
		return math.MaxInt64
	}
	do, in, _ := plan(now, g.term, l.r.config)
	if do != actRenew {
		return math.MaxInt64
	}
	if g.renewFailures > 0 {
		in = max(in, now.until(g.renewAt))
	}
	if in > 0 {
		return in
	}
	l.renew(now, g)
	return math.MaxInt64
}

// stepSchedule issues a credential when that is due.
func (l *loop) stepSchedule(now instant) time.Duration {
	do, in, why := l.next(now)
	if do == actRenew { // not here; but if it keeps failing we rotate
		return l.current.term.left(now) - l.current.term.lead(l.r.config)
	}
	if in = max(in, l.gate(now)); in > 0 {
		return in
	}
	if !l.mayIssue() {
		return math.MaxInt64 // whatever changes that wakes us
	}
	l.issue(now, why, do == actRefresh)
	return 0
}

// gate is how long an issue has to wait for the sake of the source.
func (l *loop) gate(now instant) time.Duration {
	var wait time.Duration
	if l.failures > 0 {
		wait = now.until(l.retryAt)
	}
	if l.issued && l.current != nil {
		rest := floor(l.r.config.IssueInterval, l.early, l.current.term.full)
		wait = max(wait, rest-now.since(l.lastIssue))
	}
	return wait
}

// mayIssue holds while not paused and below the cap on unrevoked leases.
func (l *loop) mayIssue() bool {
	if l.paused > 0 {
		l.hold(ErrPaused)
		return false
	}
	n := l.unrevoked()
	reached := n >= l.r.config.MaxUnrevoked
	if reached {
		err := fmt.Errorf("%d leases are not revoked yet; none is issued until one of them is gone", n)
		if !l.capped {
			l.emit(Event{Kind: CapReached, Err: err})
		}
		l.hold(err)
	}
	l.capped = reached
	return !reached
}

// hold tells those who wait, for a rotation or for a login, why none comes.
func (l *loop) hold(why error) {
	if l.answer(why); l.want == "requested" {
		l.want = ""
	}
	if l.lost == nil || l.lost.held {
		return
	}
	l.lost.held = true
	if l.lost.Err == nil {
		l.lost.Err = why
	}
	l.show()
}

func (l *loop) unrevoked() (n int) {
	for _, g := range l.gens {
		if g.lease.Revocable && !g.gone {
			n++
		}
	}
	return n
}

// requested is Rotate.
func (l *loop) requested(answer chan error) {
	switch {
	case l.closing:
		answer <- ErrClosed
	case l.paused > 0:
		answer <- ErrPaused
	default:
		l.waiters = append(l.waiters, answer)
		if l.want == "" && l.op == nil {
			l.want = "requested"
		}
	}
}

func (l *loop) answer(err error) {
	for _, w := range l.waiters {
		w <- err
	}
	l.waiters = nil
}

func (l *loop) sourceChanged() {
	switch {
	case l.op != nil:
		l.op.stale = true
	case l.closing:
	default:
		if l.want == "" {
			l.want = sourceChanged
		}
		l.soon()
	}
}

// soon lets an attempt that waits for its turn after a failure be made at once: the source
// has something new, or was seen to answer, or callers have to wait from now on. It is no
// oftener than the least interval between two.
func (l *loop) soon() {
	soonest := l.lastIssue.add(l.r.config.IssueInterval)
	if soonest.until(l.notBefore) > 0 {
		soonest = l.notBefore
	}
	if now := l.r.now(); l.failures > 0 && now.until(l.retryAt) > now.until(soonest) {
		l.retryAt = soonest
		l.show()
	}
}

func (l *loop) pause(by int) {
	l.paused += by
	switch {
	case l.paused == 1 && by > 0:
		l.emit(Event{Kind: Paused})
	case l.paused == 0:
		l.emit(Event{Kind: Resumed})
	}
}

// leaseGone records that the credential of g has no lease any more. One that is current has
// to be replaced; of one that is draining nothing may be handed out.
func (l *loop) leaseGone(g *Generation) {
	g.gone = true
	g.lapsed.Store(true)
	if g != l.current {
		g.phase.Store(phaseDead)
		return
	}
	l.urgent("lease is gone")
	l.soon() // the source has just answered
}

// urgent asks for a rotation before the schedule does. A credential that had
// served half its time is not counted against the source.
func (l *loop) urgent(why string) {
	if l.want == "" || l.want == "requested" {
		l.want = why
	}
}

// lose records that no login is possible and shows it.
func (l *loop) lose(why string) {
	if l.lost == nil {
		l.lost = &NoCredentialError{Since: time.Now(), Reason: why}
		if l.failures > 0 && l.r.now().until(l.retryAt) > 0 {
			l.lost.Err = l.failure          // there has been an attempt already, and there is none now
			l.failures = min(l.failures, 2) // from here on callers wait: the pauses grow anew
			l.soon()
		}
		l.emit(Event{Kind: CredentialLost, Generation: l.current.id, Reason: why})
	}
	l.show()
}

// regain undoes lose.
func (l *loop) regain() {
	if l.lost != nil {
		if l.lost.Reason != noneYet {
			l.emit(Event{Kind: CredentialBack, Generation: l.current.id, Took: time.Since(l.lost.Since)})
		}
		l.lost = nil
	}
	l.show()
}

// show publishes what everybody may see. The error is a copy: readers keep it.
func (l *loop) show() {
	v := &view{gen: l.current, changed: make(chan struct{})}
	switch {
	case l.closing:
		v.gen, v.err, v.settled = nil, ErrClosed, true
	case l.lost != nil:
		e := *l.lost
		if l.op == nil && !e.held {
			now := l.r.now()
			e.RetryAt = now.t.Add(max(0, l.gate(now)))
		}
		// One passing fault is no reason to give up a call.
		v.gen, v.err = nil, &e
		v.settled = e.Err != nil && (e.held || l.failures > 1 || hopeless(e.Err) || l.op != nil && l.op.slow)
	}
	if old := l.r.view.Swap(v); old != nil {
		close(old.changed)
	}
}

func (l *loop) emit(e Event) {
	e.Time = time.Now()
	l.r.events.publish(e)
}

// failed remembers an error for Status.
func (l *loop) failed(step string, n int, err error) {
	l.lastErr, l.errAt, l.errStep, l.errs = err, time.Now(), step, n
}

func (l *loop) succeeded(step string) {
	if l.errStep == step {
		l.lastErr, l.errAt, l.errStep, l.errs = nil, time.Time{}, "", 0
	}
}

func (l *loop) liveGenerations() []*Generation { return slices.Clone(l.gens) }

func (l *loop) detach(a *Attachment) {
	l.attached = slices.DeleteFunc(l.attached, func(b *Attachment) bool { return a == b })
}
