package main

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vaultpool/vaultpool/integration/testbed"
)

// recipe is one pool whose connections log in with whatever is current.
type recipe struct {
	pool
	e       *env
	current atomic.Pointer[testbed.Credential]
	old     *testbed.Credential // the one before, nil if it is revoked
	replace func(ctx context.Context) error
}

// newRecipe has a login, and is yet to be given its pool and its way to replace connections.
func newRecipe(ctx context.Context, e *env) (*recipe, error) {
	r := &recipe{e: e, replace: func(context.Context) error { return nil }}
	login, err := e.role.Issue(ctx)
	r.current.Store(login)
	return r, err
}

// rotate revokes at last what was replaced a whole interval ago, puts a new login in place, and has connections
// replaced in the recipe's way.
func (r *recipe) rotate(ctx context.Context) error {
	if err := r.revokeOld(ctx); err != nil {
		return err
	}
	login, err := r.e.role.Issue(ctx)
	if err != nil {
		return err
	}
	r.old = r.current.Swap(login)
	return r.replace(ctx)
}

func (r *recipe) revokeOld(ctx context.Context) error {
	if r.old == nil {
		return nil
	}
	old := r.old
	r.old = nil
	return r.e.revoke(ctx, old)
}

func (r *recipe) close(ctx context.Context) error {
	return errors.Join(r.shut(), r.revokeOld(ctx), r.e.revoke(ctx, r.current.Load()))
}

// pacer has the callers of a recipe replace its connections, one now and then, at the rate at which ours does it.
type pacer struct {
	r        *recipe
	every    time.Duration
	previous atomic.Pointer[testbed.Credential]
	next     atomic.Int64 // when the next one may be rejected
}

func newPacer(r *recipe) *pacer {
	p := &pacer{r: r, every: r.e.drainTimeout() / 2 / time.Duration(r.e.conns)}
	p.previous.Store(r.current.Load())
	r.replace = func(context.Context) error { p.previous.Store(r.old); return nil }
	return p
}

// keeps reports whether a caller may have a connection of that user.
func (p *pacer) keeps(user string) bool {
	switch user {
	case p.r.current.Load().User:
		return true
	case p.previous.Load().User:
		now, due := time.Now(), p.next.Load()
		return now.UnixNano() < due || !p.next.CompareAndSwap(due, now.Add(p.every).UnixNano())
	default:
		return false // its login is revoked
	}
}

// swap opens a new pool for every login, and closes the old one when its callers are done, or as its pool does that.
type swap struct {
	e *env
	l *logins

	mu    sync.RWMutex // guards what follows
	pool  pool
	login *testbed.Credential

	closing sync.WaitGroup
	errs    chan error
}

func openSwap(ctx context.Context, e *env, l *logins) (subject, error) {
	s := &swap{e: e, l: l, errs: make(chan error, 100)}
	return s, s.rotate(ctx)
}

func (s *swap) rotate(ctx context.Context) error {
	login, err := s.e.role.Issue(ctx)
	if err != nil {
		return err
	}
	pool, err := s.e.db.open(ctx, s.e, s.l, s.e.form(), func() *testbed.Credential { return login })
	if err != nil {
		return err
	}
	if err := pool.query(ctx, 1); err != nil { // it works
		return err
	}
	s.mu.Lock()
	oldPool, oldLogin := s.pool, s.login
	s.pool, s.login = pool, login
	s.mu.Unlock()
	if oldPool != nil {
		s.closing.Go(func() { s.retire(context.WithoutCancel(ctx), oldPool, oldLogin) })
	}
	return nil
}

func (s *swap) retire(ctx context.Context, pool pool, login *testbed.Credential) {
	if err := errors.Join(pool.shut(), s.e.revoke(ctx, login)); err != nil {
		s.errs <- err
	}
}

func (s *swap) get() pool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.pool
}

func (s *swap) query(ctx context.Context, id int) error { return s.get().query(ctx, id) }
func (s *swap) begin(ctx context.Context) (tx, error)   { return s.get().begin(ctx) }
func (s *swap) fill(ctx context.Context, n int) error   { return s.get().fill(ctx, n) }
func (s *swap) idle() int                               { return s.get().idle() }
func (s *swap) shut() error                             { return s.get().shut() }

func (s *swap) close(ctx context.Context) error {
	s.retire(ctx, s.pool, s.login)
	s.closing.Wait()
	close(s.errs)
	var errs []error
	for err := range s.errs {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
