package mysqlvault

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/go-sql-driver/mysql"

	"github.com/vaultpool/vaultpool/rotation"
)

// target is the connections of one connector, as the engine sees them:
// rotation.Target.
type target struct {
	user      *mysql.Config // as the user gave it
	att       *rotation.Attachment
	login     atomic.Pointer[login] // of the generation that was current when it was last asked for
	abandoned abandoned

	closing   atomic.Bool                 // no more logins
	loggingIn atomic.Int32                // logins that are under way
	replacers atomic.Pointer[[]*replacer] // one for each generation that is being replaced

	mu    sync.Mutex // guards what follows, and is held to change replacers
	conns map[*conn]struct{}
}

func newTarget(user *mysql.Config) *target {
	return &target{user: user, conns: make(map[*conn]struct{})}
}

// Attached is called before any other method.
func (t *target) Attached(a *rotation.Attachment) { t.att = a }

// Name is address/database.
func (t *target) Name() string {
	addr := t.user.Addr
	switch { // the driver's defaults
	case addr == "" && t.user.Net == "unix":
		addr = "/tmp/mysql.sock"
	case addr == "":
		addr = "127.0.0.1:3306"
	}
	return fmt.Sprintf("%s/%s", addr, t.user.DBName)
}

// adopt makes a connection of database/sql's of a session.
func (t *target) adopt(s *session) *conn {
	c := &conn{t: t, s: s}
	c.idle.Store(true) // until somebody uses it
	t.mu.Lock()
	t.conns[c] = struct{}{}
	t.mu.Unlock()
	return c
}

func (t *target) remove(c *conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.conns, c)
}

// closeIdle closes the sessions of idle connections, and returns how many are in use.
func (t *target) closeIdle() (inUse int) {
	for _, c := range t.open() {
		if s := c.vacate(func(*session) bool { return true }); s != nil {
			_ = s.close()
		}
		if !c.idle.Load() {
			inUse++
		}
	}
	return inUse
}

// open returns the connections there are.
func (t *target) open() []*conn {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Collect(maps.Keys(t.conns))
}

// Probe logs in outside the pool and closes the connection again.
func (t *target) Probe(ctx context.Context, g *rotation.Generation) rotation.ProbeResult {
	s, err := t.connectOnce(ctx, g, (*rotation.Conn).BindToProbe, nil)
	if err == nil {
		s.retire()
	}
	return rotation.Probed(err)
}
