package main

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/rotation"
)

// database is all that differs between PostgreSQL with pgx and MariaDB with database/sql.
type database interface {
	raw() string  // what ours is compared with
	ours() string // the contender whose failures count as ours
	name() (name, file string)
	servers(o options) testbed.Options
	version(ctx context.Context, bed *testbed.Bed) (string, error)
	prepare(ctx context.Context, e *env) error // makes the rows that queries read, and room for all connections
	role(ctx context.Context, e *env, options testbed.RoleOptions) (*testbed.Role, error)

	// open opens a raw pool, whose connections each log in with what login returns then. All logins are counted by l.
	open(ctx context.Context, e *env, l *logins, f form, login func() *testbed.Credential) (pool, error)
	openVault(ctx context.Context, e *env, l *logins, f form) (*vaultPool, error)
	// logIn returns what logs in outside of any pool, and out again.
	logIn(e *env, login *testbed.Credential) (func(context.Context) error, error)
	// orphans returns how many sessions there are of users who have been revoked.
	orphans(ctx context.Context, e *env) (int, error)

	variants() []contender // of ours
	recipes() []contender  // the usual one first
	setups(e *env) []setup
}

// form is how large a pool is. The zero value is useless.
type form struct {
	conns, maxConns int  // that it keeps; 0 means that it keeps none idle
	interpolate     bool // the driver puts arguments into the text, where it can
	rehearse        bool // a new connection runs the load's statements once, in a hook, before it serves
}

// pool is a pool of connections under test.
type pool interface {
	query(ctx context.Context, id int) error // reads a row
	begin(ctx context.Context) (tx, error)
	// fill returns when n connections are idle.
	fill(ctx context.Context, n int) error
	// idle returns how many connections are idle.
	idle() int
	shut() error
}

// tx is a transaction.
type tx interface {
	read(ctx context.Context) error
	commit(ctx context.Context) error
	rollback(ctx context.Context) error
}

// subject is a pool with whatever replaces its credential.
type subject interface {
	pool
	// rotate replaces the credential as this contender does it. What follows in the background may go on.
	rotate(ctx context.Context) error
	// close leaves no connection and no lease.
	close(ctx context.Context) error
}

// contender opens subjects.
type contender struct {
	name string
	how  string
	open func(ctx context.Context, e *env, l *logins) (subject, error)
}

// floor is, beside the first contender, what ratios refer to.
const floor = "floor: raw, as many logins beside it"

// contenders are the raw pool, ours, and how others do it.
func contenders(db database) []contender {
	return slices.Concat([]contender{
		{baseline(db), "a pool whose login never changes", openRaw},
		{"raw again", "the same once more: what differs is noise", openRaw},
		{floor, "the raw pool, and as many logins outside of it as replacing its connections takes, as far apart: whoever rotates cannot cost less", openFloor},
		{"floor, and Vault's work as well", "the same, and Vault makes and removes a login each time", openFloorVault},
		{db.ours(), "this library", openOurs},
	}, db.variants(), db.recipes())
}

// plotted are the names of the contenders whose latencies are plotted.
func plotted(db database) []string {
	return []string{baseline(db), floor, db.ours(), db.recipes()[0].name}
}

// What databases' recipes have in common.
const (
	howRevoked = "the same, but the old login is revoked right away"
	howSwapped = "each login gets a pool of its own, which callers take from under a mutex; the old one is closed when its callers are done, and its login revoked"
	howPaced   = "callers who get an old connection have it rejected, one at a time, as far apart as this library replaces them, and log in anew"
	howAged    = "connections live so short that none outlives its login"
)

func baseline(db database) string { return db.raw() + ", no rotation" }

// vaultPool is ours.
type vaultPool struct {
	pool
	rotator  *rotation.Rotator
	shutdown func(context.Context) error
}

func openOurs(ctx context.Context, e *env, l *logins) (subject, error) {
	return e.db.openVault(ctx, e, l, e.form())
}

func (v *vaultPool) rotate(ctx context.Context) error { return v.rotator.Rotate(ctx) }
func (v *vaultPool) close(ctx context.Context) error  { return v.shutdown(ctx) }

// raw is a pool with a login that never changes.
type raw struct{ pool }

func openRaw(ctx context.Context, e *env, l *logins) (subject, error) {
	p, err := e.db.open(ctx, e, l, e.form(), e.staticLogin)
	return &raw{p}, err
}

func (*raw) rotate(context.Context) error  { return nil }
func (r *raw) close(context.Context) error { return r.shut() }

// beside is raw, and beside it, outside the pool, as many logins as a rotation of ours makes, as far apart; and as an
// option what a rotation makes Vault do. Whoever rotates cannot cost less.
type beside struct {
	subject
	e     *env
	l     *logins
	vault bool
}

func openFloor(ctx context.Context, e *env, l *logins) (subject, error) {
	r, err := openRaw(ctx, e, l)
	return &beside{subject: r, e: e, l: l}, err
}

func openFloorVault(ctx context.Context, e *env, l *logins) (subject, error) {
	r, err := openRaw(ctx, e, l)
	return &beside{subject: r, e: e, l: l, vault: true}, err
}

func (b *beside) rotate(ctx context.Context) (err error) {
	if !b.vault {
		return b.logIn(ctx, b.e.static)
	}
	login, err := b.e.role.Issue(ctx)
	if err != nil {
		return err
	}
	err = b.logIn(ctx, login)
	return errors.Join(err, b.e.revoke(context.WithoutCancel(ctx), login))
}

// logIn logs in once to prove the credential, and once for each connection during the first half of the drain window.
func (b *beside) logIn(ctx context.Context, login *testbed.Credential) error {
	logIn, err := b.e.db.logIn(b.e, login)
	if err != nil {
		return err
	}
	every := time.NewTicker(b.e.drainTimeout() / 2 / time.Duration(b.e.conns))
	defer every.Stop()
	for range 1 + b.e.conns {
		b.l.count(ctx, b.idle)
		if err := logIn(ctx); err != nil {
			return err
		}
		select {
		case <-every.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
