package main

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

func (p postgres) variants() []contender {
	return []contender{{
		p.ours() + ", rehearsed",
		"the same; AfterConnect runs the load's statements once, so that what the first use of a connection costs is paid where replacements are made, in the background",
		func(ctx context.Context, e *env, l *logins) (subject, error) {
			f := e.form()
			f.rehearse = true
			return p.openVault(ctx, e, l, f)
		},
	}}
}

func (postgres) recipes() []contender {
	return []contender{
		{"BeforeConnect + Reset()", "BeforeConnect sets the login, and a rotation calls Reset; the old login is revoked one rotation later", openReset},
		{"the same, revoked at once", howRevoked, openResetRevoke},
		{"new pool swapped under a mutex", howSwapped, openSwap},
		{"paced, callers pay", howPaced, openPaced},
		{"MaxConnLifetime tuned", howAged, openLifetime},
	}
}

// openPgxRecipe opens a pool whose BeforeConnect sets whatever login is current.
func openPgxRecipe(ctx context.Context, e *env, l *logins, change func(*recipe, *pgxPool, *pgxpool.Config)) (subject, error) {
	r, err := newRecipe(ctx, e)
	if err != nil {
		return nil, err
	}
	r.pool, err = openPgx(ctx, e, l, e.form(), r.current.Load, func(p *pgxPool, c *pgxpool.Config) { change(r, p, c) })
	return r, err
}

// openReset is what most people write.
func openReset(ctx context.Context, e *env, l *logins) (subject, error) {
	return openPgxRecipe(ctx, e, l, func(r *recipe, p *pgxPool, _ *pgxpool.Config) {
		r.replace = func(context.Context) error { p.Reset(); return nil }
	})
}

// openResetRevoke does not wait until the old login is out of use.
func openResetRevoke(ctx context.Context, e *env, l *logins) (subject, error) {
	return openPgxRecipe(ctx, e, l, func(r *recipe, p *pgxPool, _ *pgxpool.Config) {
		r.replace = func(ctx context.Context) error { p.Reset(); return r.revokeOld(ctx) }
	})
}

// openLifetime lets no connection live so long that a transaction which it gets at its end outlives an old login, and
// has pgxpool look for those that are too old often enough to replace most of them while they are idle.
func openLifetime(ctx context.Context, e *env, l *logins) (subject, error) {
	return openPgxRecipe(ctx, e, l, func(_ *recipe, _ *pgxPool, c *pgxpool.Config) {
		c.MaxConnLifetime = e.lifetime()
		c.HealthCheckPeriod = e.interval / 10
	})
}

// openPaced rejects old connections in PrepareConn, one now and then.
func openPaced(ctx context.Context, e *env, l *logins) (subject, error) {
	return openPgxRecipe(ctx, e, l, func(r *recipe, _ *pgxPool, c *pgxpool.Config) {
		p := newPacer(r)
		const user = "user"
		c.AfterConnect = func(_ context.Context, conn *pgx.Conn) error {
			conn.PgConn().CustomData()[user] = conn.Config().User
			return nil
		}
		c.PrepareConn = func(_ context.Context, conn *pgx.Conn) (bool, error) {
			name, _ := conn.PgConn().CustomData()[user].(string)
			return p.keeps(name), nil
		}
	})
}
