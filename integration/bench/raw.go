package main

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// raw is pgxpool with a login that never changes.
type raw struct{ *pgxpool.Pool }

func openRaw(ctx context.Context, e *env, l *logins) (subject, error) {
	r, err := newRaw(ctx, e, l)
	return r, err
}

func newRaw(ctx context.Context, e *env, l *logins) (*raw, error) {
	c, err := e.poolConfig(e.static.User, e.static.Password)
	if err != nil {
		return nil, err
	}
	r := &raw{}
	c.BeforeConnect = l.hook(r.idle)
	r.Pool, err = pgxpool.NewWithConfig(ctx, c)
	return r, err
}

func (r *raw) rotate(context.Context) error { return nil }

func (r *raw) close(context.Context) error {
	r.Close()
	return nil
}

func (r *raw) idle() int { return int(r.Stat().IdleConns()) }

// beside is raw, and beside it, outside the pool, as many logins as a rotation of pgvault makes, as far apart; and as
// an option what a rotation makes Vault do. Whoever rotates cannot cost less.
type beside struct {
	*raw
	e     *env
	l     *logins
	vault bool
}

func openFloor(ctx context.Context, e *env, l *logins) (subject, error) {
	r, err := newRaw(ctx, e, l)
	return &beside{raw: r, e: e, l: l}, err
}

func openFloorVault(ctx context.Context, e *env, l *logins) (subject, error) {
	r, err := newRaw(ctx, e, l)
	return &beside{raw: r, e: e, l: l, vault: true}, err
}

// rotate logs in once to prove the credential, and once for each connection during the first half of the drain window.
func (b *beside) rotate(ctx context.Context) error {
	login := b.e.static
	if b.vault {
		var err error
		if login, err = b.e.role.Issue(ctx); err != nil {
			return err
		}
	}
	config := b.Config().ConnConfig
	config.User, config.Password = login.User, login.Password
	every := time.NewTicker(b.e.drainTimeout() / 2 / time.Duration(b.e.conns))
	defer every.Stop()
	for range 1 + b.e.conns {
		b.l.count(false, false)
		conn, err := pgx.ConnectConfig(ctx, config)
		if err != nil {
			return err
		}
		if err := conn.Close(ctx); err != nil {
			return err
		}
		select {
		case <-every.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if b.vault {
		return b.e.revoke(ctx, login)
	}
	return nil
}

// drainTimeout is how long the connections of an old credential may take.
func (e *env) drainTimeout() time.Duration { return e.interval * 5 / 6 }
