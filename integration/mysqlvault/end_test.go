package mysqlvault_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/mysqlvault"
	"github.com/vaultpool/vaultpool/rotation"
)

// runBlocked starts a statement that does not end by itself, and returns its user and a channel for its error.
func (s *service) runBlocked(t *testing.T) (user string, failed <-chan error) {
	t.Helper()
	statement, answer := blocked(t), make(chan error, 1)
	user = s.user()
	go func() {
		_, err := s.ExecContext(context.WithoutCancel(t.Context()), statement, t.Name())
		answer <- err
	}()
	kit.Eventually(t, "the statement runs", func(context.Context) bool { return s.isBlocked(t, user) })
	return user, answer
}

// hazard 49: hundreds of calls were given up long ago, whose sessions have ended by themselves. They do not
// keep us from ending, in time, the one statement that runs.
func TestHazard49_ManyAbandonedBefore(t *testing.T) {
	t.Parallel()
	var slow atomic.Bool
	s := open(t, setup{configure: func(c *mysqlvault.Config) {
		c.Rotation.DrainTimeout = 300 * time.Millisecond
		c.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
			if err == nil && slow.Load() {
				return &slowConn{conn}, nil
			}
			return conn, err
		}
	}})
	s.SetMaxIdleConns(0)
	for range 300 {
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Millisecond)
		_, _ = s.ExecContext(ctx, "DO SLEEP(0.01)")
		cancel()
	}
	old, failed := s.runBlocked(t)
	slow.Store(true) // so that one KILL for each would take too long
	s.rotate(t)
	if e := s.events.Wait(t, rotation.SessionsEnded, 1); e.Err != nil {
		t.Errorf("ended: %v", e.Err)
	}
	s.waitRevoked(t, 1, old)
	slow.Store(false)
	_ = kit.Receive(t, "the statement ends", failed)
}

// slowConn takes a quarter of a second for every packet.
type slowConn struct{ net.Conn }

func (c *slowConn) Write(b []byte) (int, error) {
	time.Sleep(250 * time.Millisecond)
	return c.Conn.Write(b)
}

// otherID is a socket whose server greets with another session's id, as one that we remember is after the
// server's restart.
type otherID struct {
	net.Conn
	id   uint32
	done bool
}

func (c *otherID) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if !c.done && n > 10 && b[4] == 10 {
		c.done = true
		if i := bytes.IndexByte(b[5:n], 0); i >= 0 {
			binary.LittleEndian.PutUint32(b[5+i+1:], c.id)
		}
	}
	return n, err
}

// lyingDialer dials; the next socket after lie is set has that id.
func lyingDialer(lie *atomic.Uint32) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if id := lie.Swap(0); err == nil && id != 0 {
			return &otherID{Conn: conn, id: id}, nil
		}
		return conn, err
	}
}

// A session id that is another user's by now: that one is left alone, and ours are ended all the same.
func TestIDOfAnotherUser(t *testing.T) {
	t.Parallel()
	root, err := shared.MariaDB.Root.Conn(t.Context())
	kit.Check(t, err)
	defer func() { kit.Check(t, root.Close()) }()
	var lie atomic.Uint32
	s := open(t, setup{configure: func(c *mysqlvault.Config) {
		c.Rotation.DrainTimeout, c.DialFunc = 300*time.Millisecond, lyingDialer(&lie)
	}})
	lie.Store(uint32(sessionID(t, root)))
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := s.ExecContext(ctx, "DO SLEEP(1)"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("the call that is given up: %v", err)
	}
	kit.Eventually(t, "it ends at the server", func(ctx context.Context) bool { return len(s.sessions(ctx, t)) == 0 })
	old, failed := s.runBlocked(t)
	s.rotate(t)
	if e := s.events.Wait(t, rotation.SessionsEnded, 1); e.Err != nil {
		t.Errorf("ended: %v", e.Err)
	}
	s.waitRevoked(t, 1, old)
	_ = kit.Receive(t, "the statement ends", failed)
	if err := root.PingContext(t.Context()); err != nil {
		t.Errorf("the other user's session was ended: %v", err)
	}
}

// staticUser makes a user that no lease stands for, and a config for it.
func staticUser(t *testing.T, name string) *mysqlvault.Config {
	t.Helper()
	execute(t, "CREATE USER '%s'@'%%' IDENTIFIED BY 'static'", name)
	execute(t, "GRANT ALL ON %s.* TO '%s'@'%%'", shared.MariaDB.Database, name)
	t.Cleanup(func() {
		kit.Check(t, shared.MariaDB.Exec(context.WithoutCancel(t.Context()), "DROP USER '"+name+"'@'%'"))
	})
	plain, err := mysql.ParseDSN(shared.MariaDB.DSN("app"))
	kit.Check(t, err)
	plain.User, plain.Passwd = "", ""
	return &mysqlvault.Config{Config: plain, Source: rotation.SourceFunc(
		func(context.Context) (rotation.Credential, rotation.Lease, error) {
			return rotation.NewCredential(name, "static"), rotation.Lease{}, nil
		})}
}

// A user that several processes share: closing ours ends nothing of theirs, though an id that we remember is
// one of theirs by now.
func TestIDOfAnotherProcess(t *testing.T) {
	t.Parallel()
	var lie atomic.Uint32
	config := staticUser(t, "shared_static")
	theirs := config.Config.Clone()
	theirs.User, theirs.Passwd = "shared_static", "static"
	connector, err := mysql.NewConnector(theirs)
	kit.Check(t, err)
	other := sql.OpenDB(connector)
	defer func() { _ = other.Close() }()
	tx, err := other.BeginTx(t.Context(), nil)
	kit.Check(t, err)
	config.DialFunc = lyingDialer(&lie)
	ours, err := mysqlvault.NewConnector(t.Context(), config)
	kit.Check(t, err)
	db := sql.OpenDB(ours)
	lie.Store(uint32(sessionID(t, tx)))
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := db.ExecContext(ctx, "DO SLEEP(1)"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("the call that is given up: %v", err)
	}
	kit.Check(t, db.Close())
	if _, err := tx.ExecContext(t.Context(), "DO 1"); err != nil {
		t.Errorf("the other process's transaction was ended: %v", err)
	}
	kit.Check(t, tx.Rollback())
}

// A call that was given up just before Close is no connection in use: Close has nothing to report.
func TestCloseAfterGivingUp(t *testing.T) {
	t.Parallel()
	config := staticUser(t, "closing_static")
	for range 30 {
		c, err := mysqlvault.NewConnector(t.Context(), config)
		kit.Check(t, err)
		db := sql.OpenDB(c)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		_, _ = db.ExecContext(ctx, "DO SLEEP(1)")
		cancel()
		kit.Check(t, db.Close())
	}
}

// Shutdown alone, before DB.Close: what is idle is closed and not reported, what is in use is waited for,
// and nothing is opened any more.
func TestShutdownFirst(t *testing.T) {
	t.Parallel()
	s := open(t, setup{})
	s.fill(t, 3)
	used, err := s.Conn(t.Context())
	kit.Check(t, err)
	kit.Check(t, used.PingContext(t.Context()))
	done := make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), kit.Patience)
	defer cancel()
	go func() { done <- s.connector.Shutdown(ctx) }()
	kit.Eventually(t, "what is idle is closed", func(ctx context.Context) bool { return len(s.sessions(ctx, t)) == 1 })
	kit.Check(t, used.PingContext(t.Context()))
	if err := s.PingContext(t.Context()); !errors.Is(err, rotation.ErrClosed) {
		t.Errorf("a call meanwhile: %v", err)
	}
	kit.Check(t, used.Close())
	kit.Check(t, kit.Receive(t, "Shutdown", done))
}

// hazard 55: a dialer that panics while sessions are being ended does not end the process.
func TestHazard55_DialerPanics(t *testing.T) {
	t.Parallel()
	var bad atomic.Bool
	s := open(t, setup{configure: func(c *mysqlvault.Config) {
		c.Rotation.DrainTimeout = 300 * time.Millisecond
		c.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if bad.Load() {
				panic("a dialer of the user's")
			}
			return (&net.Dialer{}).DialContext(ctx, network, addr)
		}
	}})
	tx, err := s.BeginTx(t.Context(), nil)
	kit.Check(t, err)
	s.rotate(t)
	bad.Store(true)
	if e := s.events.Wait(t, rotation.SessionsEnded, 1); e.Err == nil || !strings.Contains(e.Err.Error(), "panicked") {
		t.Errorf("ended: %v", e.Err)
	}
	s.events.Wait(t, rotation.Revoked, 1)
	bad.Store(false)
	_ = tx.Rollback()
	kit.Check(t, s.PingContext(t.Context()))
}

// A dialer that knows names only gets the configured one when sessions are to be ended.
func TestDialerByName(t *testing.T) {
	t.Parallel()
	const name = "project:region:instance"
	s := open(t, setup{configure: func(c *mysqlvault.Config) {
		addr := c.Addr
		c.Rotation.DrainTimeout = 300 * time.Millisecond
		c.Net, c.Addr = "tunnel", name
		c.DialFunc = func(ctx context.Context, _, asked string) (net.Conn, error) {
			if asked != name {
				return nil, errors.New("no such instance: " + asked)
			}
			return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		}
	}})
	old, failed := s.runBlocked(t)
	s.rotate(t)
	if e := s.events.Wait(t, rotation.SessionsEnded, 1); e.Err != nil {
		t.Errorf("ended: %v", e.Err)
	}
	s.waitRevoked(t, 1, old)
	_ = kit.Receive(t, "the statement ends", failed)
}
