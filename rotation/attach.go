package rotation

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Target is a pool, as the engine sees it: what an adapter gives to
// [Rotator.Attach]. The engine calls it from goroutines that it starts for the
// purpose; a panic counts as a failure of the step, and so does a call that does not
// return when its context is done.
type Target interface {
	// Attached is called by Attach, before any other method but Name and before
	// Attach returns.
	Attached(a *Attachment)
	// Name says which pool this is in status and events, "db.internal:5432/app".
	// It holds no secret.
	Name() string
	// Probe logs in with g's credential on every host that the pool may dial, with
	// the pool's whole configuration, binding its connections to g, and closes
	// them again.
	Probe(ctx context.Context, g *Generation) ProbeResult
	// Replace replaces the pool's connections of old by connections of the current
	// generation, idle ones first, none that is in use, paced so that it is done by
	// the given time. Once old.Dead() there is nothing to spare: at once. It
	// returns when Connections(old) is 0 or ctx is done.
	Replace(ctx context.Context, old *Generation, by time.Time)
	// End ends the sessions of conns at the server, where closing our socket does
	// not do it, and returns nil when they are known to be gone. Their sockets are
	// closed already. It may log in with g, binding to it.
	End(ctx context.Context, g *Generation, conns []*Conn) error
}

// Sweeper is a Target whose server goes on with a statement after the socket it
// came by is closed, as MySQL and MariaDB do.
type Sweeper interface {
	// Sweep ends those sessions of g at the server that have no socket any more,
	// and returns nil when they are known to be gone. It is called when the last
	// connection of g is gone, before its lease is revoked, and when the attachment
	// is closed; not where there is no lease to revoke, and the user may be shared. It may log in with g, by [Conn.BindToEnd]; where there is nothing
	// to end it should not.
	Sweep(ctx context.Context, g *Generation) error
}

// ProbeResult counts what hosts answered to a login.
type ProbeResult struct {
	Accepted int
	Refused  int   // the login itself was refused: speaks against the credential
	Unknown  int   // unreachable, full, broken: says nothing about it
	Err      error // why, for those not accepted; wraps ErrRefused where one refused
}

// Attachment is one pool's place at a Rotator.
type Attachment struct {
	r      *Rotator
	target Target
	name   string          // asked for once: the owner goroutine calls nobody's code
	ctx    context.Context // done once Close begins
	cancel context.CancelFunc
	once   sync.Once
	err    error
}

// Attach adds a pool. Its connections are those that it passes through
// [Attachment.Track]; no lease is revoked while one of them is open, but for the
// drain deadline. The only error is ErrClosed.
func (r *Rotator) Attach(target Target) (*Attachment, error) {
	a := &Attachment{r: r, target: target, name: target.Name()}
	a.ctx, a.cancel = context.WithCancel(r.ctx)
	target.Attached(a)
	closing := false
	if !r.do(func() {
		if closing = r.loop.closing; !closing {
			r.loop.attached = append(r.loop.attached, a)
		}
	}) || closing {
		a.cancel()
		return nil, fmt.Errorf("attaching %s: %w", a.name, ErrClosed)
	}
	return a, nil
}

// Track wraps a socket that was just dialled. It is counted from
// [Conn.Bind] on; call that before the login, with what Current returns.
func (a *Attachment) Track(raw net.Conn) net.Conn { return track(a, raw) }

// Current returns the generation to log in with, or a *[NoCredentialError] at
// once if no login is possible for now, or ErrClosed.
func (a *Attachment) Current() (*Generation, error) { return a.r.usable() }

// BindCurrent binds c to whatever generation is current and returns it. It fails
// as Current does.
func (a *Attachment) BindCurrent(c *Conn) (*Generation, error) {
	for {
		g, err := a.r.usable()
		if err != nil {
			return nil, err
		}
		switch err := c.Bind(g); {
		case err == nil:
			return g, nil
		case c.Generation() != nil || !errors.Is(err, ErrStale):
			return nil, fmt.Errorf("binding a connection of %s: %w", a.name, err)
		}
		// g went out of date between the two and is never current again, so this
		// ends.
	}
}

// Connections returns how many connections of g this attachment has open.
func (a *Attachment) Connections(g *Generation) int { return g.countOf(a) }

// Settled reports that no connection is of a generation that is being replaced: all
// that are open may serve. It costs one atomic load. While it is false,
// [Generation.Serving] and [Generation.Dead] tell for each.
func (a *Attachment) Settled() bool { return a.r.quiet.Load() }

// Refused reports that the database refused a login with g. However many report
// it, one rotation follows; of a generation that is not current it says nothing
// new, nor of one that a host of this pool was seen to refuse while another host, of this
// pool or another, accepted it: no rotation would help that host. The login can be tried
// again when Await returns nil.
func (a *Attachment) Refused(g *Generation, err error) {
	a.r.do(func() { a.r.loop.refusedAt(a, g, err) })
}

// PaidLogin reports that a caller made, and waited for, a login that succeeded because a
// rotation had taken away the connection that it would have had. It is counted in
// Status.PaidLogins. What a pool opens in the background, or because it grows, is none.
func (a *Attachment) PaidLogin() { a.r.paid.Add(1) }

// Await is [Rotator.Await].
func (a *Attachment) Await(ctx context.Context) error { return a.r.Await(ctx) }

// Prove logs in with the current credential, as is right before a new pool is
// handed to its user. It fails only if the login is refused by every host that
// answers, and goes on trying for up to two seconds, since a user that was just
// made may not have reached a replica. That no host can be reached is no failure,
// as it is none for the pools themselves.
func (a *Attachment) Prove(ctx context.Context) error {
	const patience = 2 * time.Second
	start := readClocks()
	for attempt := 1; ; attempt++ {
		g, err := a.r.usable()
		if err != nil {
			return err
		}
		p := a.probe(ctx, g)
		if p.Accepted > 0 || p.Refused == 0 {
			return nil
		}
		if readClocks().since(start) >= patience || ctx.Err() != nil {
			return fmt.Errorf("logging in to %s with a newly issued credential (user %s): %w",
				a.name, g.cred.Username(), p.Err)
		}
		select {
		case <-time.After(backoff(attempt, 50*time.Millisecond, 500*time.Millisecond, 0, a.r.random())):
		case <-ctx.Done():
		}
	}
}

func (a *Attachment) probe(ctx context.Context, g *Generation) ProbeResult {
	ctx, cancel := context.WithTimeout(ctx, a.r.config.ProbeTimeout)
	defer cancel()
	var p ProbeResult
	if err := bounded(ctx, "probe of "+a.name, func() error { p = a.target.Probe(ctx, g); return nil }); err != nil {
		return ProbeResult{Unknown: 1, Err: err}
	}
	return p
}

// bounded calls f, which is somebody's code, in a goroutine of its own. It returns
// f's error, or an error of its own if f panics, or has not returned shortly after
// ctx is done: a hook may be deaf to it. Then f goes on by itself.
func bounded(ctx context.Context, what string, f func() error) error {
	const grace = 500 * time.Millisecond
	done := make(chan error, 1)
	go func() {
		defer func() {
			if v := recover(); v != nil {
				done <- fmt.Errorf("%s panicked: %v", what, v)
			}
		}()
		done <- f()
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-done:
		return err
	case <-time.After(grace):
		return fmt.Errorf("%s does not return: %w", what, context.Cause(ctx))
	}
}

// replace runs the target's Replace: until old has no connection left here, and what the
// target makes up for is made up for.
func (a *Attachment) replace(old *Generation, by time.Time) {
	defer func() {
		if v := recover(); v != nil {
			a.r.events.publish(Event{
				Time: time.Now(), Kind: ReplaceFailed, Generation: old.id, Reason: a.name,
				Err: fmt.Errorf("replacing connections panicked, what is left is ended at the drain deadline: %v", v),
			})
		}
	}()
	a.target.Replace(a.ctx, old, by)
}

// end closes the sockets of g that belong to a, has their sessions ended at the
// server, and only then uncounts them. It returns how many were in use.
func (a *Attachment) end(ctx context.Context, g *Generation, cause error) (int, error) {
	conns := g.beginEnding(a)
	defer g.endEnding(conns)
	if len(conns) == 0 {
		return 0, nil
	}
	used := 0
	for _, c := range conns {
		if !c.unused.Load() {
			used++
		}
		c.interrupt(cause)
	}
	if used == 0 && g.lapsed.Load() {
		return 0, nil // nobody can log in to look, and there is nothing that would go on
	}
	return used, bounded(ctx, "ending sessions of "+a.name, func() error { return a.target.End(ctx, g, conns) })
}

func (a *Attachment) sweeps() bool {
	_, ok := a.target.(Sweeper)
	return ok
}

// sweep is the target's Sweep, if it has one and g's credential is not known to be
// dead: then nobody can log in with it.
func (a *Attachment) sweep(ctx context.Context, g *Generation) error {
	target, ok := a.target.(Sweeper)
	if !ok || !g.beginSweep() {
		return nil
	}
	defer g.endEnding(nil)
	return bounded(ctx, "sweep of "+a.name, func() error { return target.Sweep(ctx, g) })
}

// Close ends what this attachment still has open, of every generation, at the
// server too, and detaches it. Close the pool first: then only what callers leaked
// or hijacked is left. It returns how that went; what it could not end at the
// server is left to the server. Other attachments are not touched. Idempotent.
func (a *Attachment) Close(ctx context.Context) error {
	a.once.Do(func() { a.err = a.close(ctx) })
	return a.err
}

func (a *Attachment) close(ctx context.Context) error {
	a.cancel()
	var gens []*Generation
	revocable := make(map[*Generation]bool)
	a.r.do(func() {
		gens = a.r.loop.liveGenerations()
		for _, g := range gens {
			revocable[g] = g.lease.Revocable
		}
		a.r.loop.detach(a)
	})
	cause := fmt.Errorf("%w: its pool %s was closed", ErrEnded, a.name)
	var errs []error
	total := 0
	for _, g := range gens {
		n, err := a.end(ctx, g, cause)
		if total += n; err != nil {
			errs = append(errs, fmt.Errorf("ending %d sessions of generation %d at %s: %w", n, g.id, a.name, err))
		}
		if !revocable[g] || ctx.Err() != nil { // others may log in as the same user
			continue
		}
		if err := a.sweep(ctx, g); err != nil {
			errs = append(errs, fmt.Errorf("ending sessions of generation %d at %s that have no socket any more: %w", g.id, a.name, err))
		}
	}
	if total > 0 {
		errs = append(errs, fmt.Errorf("closing %s: %d connections were still in use and have been ended", a.name, total))
	}
	return errors.Join(errs...)
}
