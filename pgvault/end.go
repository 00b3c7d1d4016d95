package pgvault

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/vaultpool/vaultpool/rotation"
)

// End ends sessions at the server. Their sockets are closed; a backend that is
// idle notices, one that is executing does not before it has finished.
func (t *target) End(ctx context.Context, g *rotation.Generation, conns []*rotation.Conn) error {
	servers := make(map[string][]*session)
	addrs := make(map[string]net.Addr)
	for _, c := range conns {
		if s := sessionOf(c); s != nil { // nil: it never logged in
			addr := c.RemoteAddr()
			key := addr.Network() + " " + addr.String()
			servers[key], addrs[key] = append(servers[key], s), addr
		}
	}
	var errs []error
	for key, sessions := range servers {
		err := t.terminate(ctx, g, addrs[key], sessions)
		if err != nil {
			cancelAll(ctx, sessions)
			err = fmt.Errorf("could not see %d sessions of %s end at %s; their statements were asked to cancel: %w",
				len(sessions), g.Credential().Username(), addrs[key], err)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// terminate logs in to the very server that the sessions are on, with their own
// user, whose sessions it may end.
func (t *target) terminate(ctx context.Context, g *rotation.Generation, addr net.Addr, sessions []*session) error {
	pids := make([]int32, len(sessions))
	for i, s := range sessions {
		pids[i] = int32(s.pg.PID()) //nolint:gosec // PostgreSQL's pid is an int4, which the protocol sends as 32 bits
	}
	var errs []error
	for _, h := range t.hosts { // which of them it was decides only about TLS
		dial := t.user.ConnConfig.DialFunc
		if addr.Network() != "unix" {
			inner := dial
			dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
				return inner(ctx, addr.Network(), addr.String())
			}
		}
		conn, err := t.connect(ctx, g, h, dial)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		err = terminateAndWait(ctx, conn, pids)
		_ = conn.Close(ctx)
		return err
	}
	return errors.Join(errs...)
}

func terminateAndWait(ctx context.Context, conn *pgx.Conn, pids []int32) error {
	const ours = ` FROM pg_catalog.pg_stat_activity WHERE usename = current_user AND pid = ANY($1::int4[])`
	if _, err := conn.Exec(ctx, `SELECT pg_catalog.pg_terminate_backend(pid)`+ours, pgx.QueryExecModeExec, pids); err != nil {
		return err
	}
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		var left int
		if err := conn.QueryRow(ctx, `SELECT count(*)`+ours, pgx.QueryExecModeExec, pids).Scan(&left); err != nil {
			return err
		}
		if left == 0 {
			return nil
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return fmt.Errorf("%d still there: %w", left, ctx.Err())
		}
	}
}

// cancelAll is what can be done without a login: each session's running statement
// is cancelled, upon which the backend finds its socket closed.
func cancelAll(ctx context.Context, sessions []*session) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for _, s := range sessions {
		wg.Go(func() { _ = s.pg.CancelRequest(ctx) })
	}
	wg.Wait()
}
