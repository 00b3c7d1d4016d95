package pgvault

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/vaultpool/vaultpool/rotation"
)

// End ends sessions at the server. Their sockets are closed; a backend that is
// idle notices, one that is executing does not before it has finished.
func (t *target) End(ctx context.Context, g *rotation.Generation, conns []*rotation.Conn) error {
	t.ended.Store(true)
	t.look.Store(true)
	servers := make(map[string][]*session)
	addrs := make(map[string]net.Addr)
	for _, c := range conns {
		if s := sessionOf(c); s != nil { // nil: it never logged in
			addr := c.RemoteAddr()
			key := addr.Network() + " " + addr.String()
			servers[key], addrs[key] = append(servers[key], s), addr
		}
	}
	errs := make(chan error, len(servers))
	for key, sessions := range servers { // at once: one that does not answer costs the others nothing
		go func() { errs <- t.endAt(ctx, g, addrs[key], sessions) }()
	}
	var all []error
	for range servers {
		all = append(all, <-errs)
	}
	return errors.Join(all...)
}

// endAt ends sessions at one server.
func (t *target) endAt(ctx context.Context, g *rotation.Generation, addr net.Addr, sessions []*session) (err error) {
	defer recovered("a hook", &err)
	if err = t.terminate(ctx, g, addr, sessions); err != nil {
		cancelAll(ctx, sessions)
		return fmt.Errorf("could not see %d sessions of %s end at %s; their statements were asked to cancel: %w",
			len(sessions), g.Credential().Username(), addr, err)
	}
	return nil
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
		var unreachable atomic.Bool // pgx dials once more, at any time, to cancel a statement
		dial := func(ctx context.Context, network, address string) (net.Conn, error) {
			if addr.Network() != "unix" { // whose address at our end says nothing
				network, address = addr.Network(), addr.String()
			}
			conn, err := t.user.ConnConfig.DialFunc(ctx, network, address)
			unreachable.Store(err != nil)
			return conn, err
		}
		conn, err := t.connectTo(ctx, login{g: g, ending: true}, h, dial)
		if err != nil {
			if errs = append(errs, err); unreachable.Load() {
				break
			}
			continue
		}
		err = terminateAndWait(ctx, conn, pids)
		_ = conn.Close(ctx)
		return err
	}
	return errors.Join(errs...)
}

func terminateAndWait(ctx context.Context, conn *pgx.Conn, pids []int32) error {
	const ours = ` FROM pg_catalog.pg_stat_activity WHERE usename = session_user AND pid = ANY($1::int4[])`
	// The user's settings, or the pool's, may have it take on another role, which may not end its sessions.
	if _, err := conn.Exec(ctx, `SET ROLE NONE`, pgx.QueryExecModeExec); err != nil {
		return err
	}
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
