package mysqlvault

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"strconv"
	"time"

	"github.com/vaultpool/vaultpool/rotation"
)

// The server goes on with a statement when its socket is closed, and with the rest of
// the session when its user is dropped. So sessions are ended by KILL, which their own
// user may.

// What KILL says of a session that is gone, and of one that is somebody else's by now.
const (
	erNoSuchThread = 1094
	erKillDenied   = 1095
)

// End ends sessions at the server. Their sockets are closed.
func (t *target) End(ctx context.Context, g *rotation.Generation, conns []*rotation.Conn) error {
	sockets := t.abandoned.of(g)
	for _, c := range conns {
		if s, ok := c.Session().(*socket); ok { // otherwise it never logged in
			sockets = append(sockets, s)
		}
	}
	return t.kill(ctx, g, sockets)
}

// Sweep ends the sessions whose sockets were closed in the middle of something, by
// a caller whose context was done.
func (t *target) Sweep(ctx context.Context, g *rotation.Generation) error {
	return t.kill(ctx, g, t.abandoned.of(g))
}

// server is a server that has sessions to be ended.
type server struct {
	addr net.Addr
	ids  map[uint64]time.Time // and when they were dialled
}

func (t *target) kill(ctx context.Context, g *rotation.Generation, sockets []*socket) error {
	servers := make(map[string]server)
	for _, s := range sockets {
		addr := s.RemoteAddr()
		key := addr.Network() + " " + addr.String()
		if _, ok := servers[key]; !ok {
			servers[key] = server{addr, make(map[uint64]time.Time)}
		}
		if ids := servers[key].ids; ids[uint64(s.id)].Before(s.dialled) {
			ids[uint64(s.id)] = s.dialled
		}
	}
	errs := make(chan error, len(servers))
	for _, s := range servers { // at once: one that does not answer costs the others nothing
		go func() { errs <- t.killAt(ctx, g, s) }()
	}
	var all []error
	for range servers {
		all = append(all, <-errs)
	}
	if err := errors.Join(all...); err != nil {
		return err
	}
	t.abandoned.forget(g)
	return nil
}

// killAt ends sessions at one server, logged in as the user that they are of, and
// waits until they are gone.
func (t *target) killAt(ctx context.Context, g *rotation.Generation, at server) (err error) {
	defer recovered("a hook", &err)
	defer func() {
		if err != nil {
			err = fmt.Errorf("could not see %d sessions of %s end at %s; their statements may run on: %w",
				len(at.ids), g.Credential().Username(), at.addr, err)
		}
	}()
	watch, err := whileFull(ctx, func() (*session, error) { // the sockets just closed are about to make room
		return t.connectOnce(ctx, g, (*rotation.Conn).BindToEnd, at.addr)
	})
	if err != nil {
		return err
	}
	defer func() { _ = watch.close() }()
	started, err := watch.serverStart(ctx)
	if err != nil {
		return err
	}
	maps.DeleteFunc(at.ids, func(_ uint64, dialled time.Time) bool { return dialled.Before(started) })
	alive, err := watch.alive(ctx, at.ids)
	if err != nil {
		return err
	}
	if err := t.killAll(ctx, g, at.addr, watch, alive); err != nil {
		return err
	}
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		if alive, err = watch.alive(ctx, at.ids); err != nil || len(alive) == 0 {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return fmt.Errorf("%d still there: %w", len(alive), ctx.Err())
		}
	}
}

// killers is how many logins share the work, if they are to be had: MariaDB sometimes
// takes two seconds for the KILL of a session that sleeps.
const killers = 8

func (t *target) killAll(ctx context.Context, g *rotation.Generation, at net.Addr, watch *session, ids []uint64) error {
	queue := make(chan uint64, len(ids))
	for _, id := range ids {
		queue <- id
	}
	close(queue)
	for range min(killers, len(ids)) - 1 {
		go t.help(ctx, g, at, queue)
	}
	return watch.killEach(ctx, queue)
}

// help takes its share. What it cannot do shows in what stays alive.
func (t *target) help(ctx context.Context, g *rotation.Generation, at net.Addr, queue <-chan uint64) {
	var err error
	defer recovered("a hook", &err)
	s, err := t.connectOnce(ctx, g, (*rotation.Conn).BindToEnd, at)
	if err != nil {
		return
	}
	defer func() { _ = s.close() }()
	_ = s.killEach(ctx, queue)
}

func (s *session) killEach(ctx context.Context, queue <-chan uint64) error {
	for id := range queue {
		_, err := s.ExecContext(ctx, "KILL "+strconv.FormatUint(id, 10), nil)
		if code := codeOf(err); err != nil && code != erNoSuchThread && code != erKillDenied {
			return err
		}
	}
	return nil
}

// recovered makes an error of a panic in the user's dialer or hook, which would end the
// process on a goroutine of ours.
func recovered(what string, err *error) {
	if v := recover(); v != nil {
		*err = fmt.Errorf("mysqlvault: %s panicked: %v", what, v)
	}
}

// connectOnce logs in with g outside the pool; at, if not nil, is the server to dial.
func (t *target) connectOnce(ctx context.Context, g *rotation.Generation, bind binder, at net.Addr) (*session, error) {
	l, err := t.newLogin(g, bind, at)
	if err != nil {
		return nil, err
	}
	return l.connect(ctx, true)
}

// serverStart is about when the server was started, by our clock. Sessions that are older
// ended with the one before, and their ids may be somebody else's by now.
func (s *session) serverStart(ctx context.Context) (started time.Time, err error) {
	rows, err := s.QueryContext(ctx, "SHOW GLOBAL STATUS LIKE 'Uptime'", nil)
	if err != nil {
		return started, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	row := make([]driver.Value, len(rows.Columns()))
	if err := rows.Next(row); err != nil || len(row) < 2 {
		return started, nil // the server does not say: all may be alive
	}
	seconds, err := toID(row[1])
	return time.Now().Add(-time.Duration(seconds)*time.Second - 2*time.Second), err //nolint:gosec // seconds since a start
}

// alive returns those of ids that the server lists as sessions of this one's user, but
// for this one: an id may be somebody else's by now. A session that was killed
// is there until it has rolled back.
func (s *session) alive(ctx context.Context, ids map[uint64]time.Time) (alive []uint64, err error) {
	rows, err := s.QueryContext(ctx, "SHOW PROCESSLIST", nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	row := make([]driver.Value, len(rows.Columns()))
	if len(row) < 2 {
		return nil, fmt.Errorf("SHOW PROCESSLIST: %d columns, not an id and a user", len(row))
	}
	for {
		switch err := rows.Next(row); {
		case errors.Is(err, io.EOF):
			return alive, nil
		case err != nil:
			return nil, err
		}
		id, err := toID(row[0])
		if err != nil {
			return nil, err
		}
		user, _ := row[1].([]byte)
		if _, ours := ids[id]; ours && id != uint64(s.socket.id) && string(user) == s.g.Credential().Username() {
			alive = append(alive, id)
		}
	}
}

func toID(v driver.Value) (uint64, error) {
	switch v := v.(type) {
	case int64:
		return uint64(v), nil //nolint:gosec // a session's id is not negative
	case uint64:
		return v, nil
	case []byte:
		return strconv.ParseUint(string(v), 10, 64)
	default:
		return 0, fmt.Errorf("a number of the server's is a %T", v)
	}
}
