package mysqlvault

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/vaultpool/vaultpool/rotation"
)

// The server goes on with a statement when its socket is closed, and with the rest of
// the session when its user is dropped. So sessions are ended by KILL, which their own
// user may.

// erNoSuchThread is what KILL says of a session that is gone.
const erNoSuchThread = 1094

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

func (t *target) kill(ctx context.Context, g *rotation.Generation, sockets []*socket) error {
	servers := make(map[string]map[uint64]bool)
	addrs := make(map[string]net.Addr)
	for _, s := range sockets {
		addr := s.RemoteAddr()
		key := addr.Network() + " " + addr.String()
		if servers[key] == nil {
			servers[key], addrs[key] = make(map[uint64]bool), addr
		}
		servers[key][uint64(s.id)] = true
	}
	errs := make(chan error, len(servers))
	for key, ids := range servers { // at once: one that does not answer costs the others nothing
		go func() { errs <- t.killAt(ctx, g, addrs[key], ids) }()
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

// killAt ends sessions at one server, logged in as the user that they are of.
func (t *target) killAt(ctx context.Context, g *rotation.Generation, addr net.Addr, ids map[uint64]bool) error {
	s, err := t.connectOnce(ctx, g, (*rotation.Conn).BindToEnd, addr)
	if err == nil {
		err = s.killAndWait(ctx, ids)
		_ = s.close()
	}
	if err != nil {
		return fmt.Errorf("could not see %d sessions of %s end at %s; their statements may run on: %w",
			len(ids), g.Credential().Username(), addr, err)
	}
	return nil
}

// connectOnce logs in with g outside the pool; at, if not nil, is the server to dial.
func (t *target) connectOnce(ctx context.Context, g *rotation.Generation, bind func(*rotation.Conn, *rotation.Generation) error, at net.Addr) (*session, error) {
	l, err := t.newLogin(g, bind, at)
	if err != nil {
		return nil, err
	}
	return l.connect(ctx, true)
}

func (s *session) killAndWait(ctx context.Context, ids map[uint64]bool) error {
	for _, id := range slices.Sorted(maps.Keys(ids)) {
		if _, err := s.ExecContext(ctx, "KILL "+strconv.FormatUint(id, 10), nil); err != nil && codeOf(err) != erNoSuchThread {
			return err
		}
	}
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		left, err := s.countAlive(ctx, ids)
		if err != nil || left == 0 {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return fmt.Errorf("%d still there: %w", left, ctx.Err())
		}
	}
}

// countAlive counts those that the server lists: a session that was killed is there
// until it has rolled back.
func (s *session) countAlive(ctx context.Context, ids map[uint64]bool) (n int, err error) {
	rows, err := s.QueryContext(ctx, "SHOW PROCESSLIST", nil)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	row := make([]driver.Value, len(rows.Columns()))
	for {
		switch err := rows.Next(row); {
		case errors.Is(err, io.EOF):
			return n, nil
		case err != nil:
			return 0, err
		}
		id, err := toID(row[0])
		if err != nil {
			return 0, err
		}
		if ids[id] {
			n++
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
		return 0, fmt.Errorf("SHOW PROCESSLIST: the first column is a %T", v)
	}
}

// abandoned remembers the sessions whose sockets were closed while the server may
// have been at work for them, the last of each generation: what is older is over.
type abandoned struct {
	mu sync.Mutex // guards what follows
	by map[*rotation.Generation][]*socket
}

const (
	abandonedSessions    = 4096
	abandonedGenerations = 8
)

func (a *abandoned) add(g *rotation.Generation, s *socket) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.by == nil {
		a.by = make(map[*rotation.Generation][]*socket)
	}
	if len(a.by) >= abandonedGenerations && a.by[g] == nil {
		oldest := slices.MinFunc(slices.Collect(maps.Keys(a.by)), func(x, y *rotation.Generation) int {
			return int(x.ID()) - int(y.ID()) //nolint:gosec // far from 2^63
		})
		delete(a.by, oldest)
	}
	list := append(a.by[g], s)
	if len(list) > abandonedSessions {
		list = slices.Clone(list[abandonedSessions/2:])
	}
	a.by[g] = list
}

func (a *abandoned) of(g *rotation.Generation) []*socket {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.by[g])
}

func (a *abandoned) forget(g *rotation.Generation) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.by, g)
}
