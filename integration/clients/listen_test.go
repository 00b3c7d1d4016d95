package clients_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/pgvault"
	"github.com/vaultpool/vaultpool/rotation"
)

// isEnded tells whether an error says that the connection was ended for its credential's sake: ours, or what the
// server says to those whose session is terminated.
func isEnded(err error) bool {
	var pgErr *pgconn.PgError
	return errors.Is(err, rotation.ErrEnded) || errors.As(err, &pgErr) && pgErr.Code == "57P01"
}

// hears sends a notification through the pool and returns what the connection says to that.
func hears(t *testing.T, p *pool, conn *pgx.Conn, channel, payload string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), kit.Patience)
	defer cancel()
	_, err := p.Exec(ctx, "SELECT pg_notify($1, $2)", channel, payload)
	kit.Check(t, err)
	got, err := conn.WaitForNotification(ctx)
	if err == nil && (got.Channel != channel || got.Payload != payload) {
		err = fmt.Errorf("%w: %+v", errWrong, got)
	}
	return err
}

func userOf(t *testing.T, q interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
},
) (user string) {
	t.Helper()
	kit.Check(t, q.QueryRow(t.Context(), "SELECT session_user").Scan(&user))
	return user
}

// A hijacked connection that listens is the user's own: it is not replaced, hears on while it drains, and is ended
// at the drain deadline. Whoever waits on it is told at once, and why.
func TestListenHijacked(t *testing.T) {
	t.Parallel()
	p := openPool(t, drainTimeout(4*time.Second))
	acquired, err := p.Acquire(t.Context())
	kit.Check(t, err)
	conn := acquired.Hijack()
	_, err = conn.Exec(t.Context(), "LISTEN hijacked")
	kit.Check(t, err)
	old := userOf(t, conn)
	number, user := p.rotate(t)
	kit.Check(t, hears(t, p, conn, "hijacked", "while it drains"))
	if now := userOf(t, p); now != user {
		t.Errorf("the pool logs in as %s, not as %s", now, user)
	}

	_, err = conn.WaitForNotification(t.Context())
	if !isEnded(err) {
		t.Errorf("at the drain deadline it returned %v, which does not say why", err)
	}
	if !conn.IsClosed() {
		t.Error("the connection does not know that it is closed")
	}
	deadline := p.events.Wait(t, rotation.DrainDeadline, number)
	if deadline.Connections != 1 {
		t.Errorf("%d connections were ended", deadline.Connections)
	}
	p.events.Wait(t, rotation.Revoked, number)
	if n := p.sessions(t, old); n != 0 {
		t.Errorf("%d sessions of the old user are left", n)
	}
	p.checkMoved(t)
}

// The same for one that is acquired and not given back. Released afterwards, it does not go back to the pool.
func TestListenAcquired(t *testing.T) {
	t.Parallel()
	p := openPool(t, drainTimeout(4*time.Second))
	conn, err := p.Acquire(t.Context())
	kit.Check(t, err)
	_, err = conn.Exec(t.Context(), "LISTEN acquired")
	kit.Check(t, err)
	number, user := p.rotate(t)
	kit.Check(t, hears(t, p, conn.Conn(), "acquired", "while it drains"))
	if _, err = conn.Conn().WaitForNotification(t.Context()); !isEnded(err) {
		t.Errorf("at the drain deadline it returned %v, which does not say why", err)
	}
	conn.Release()
	p.events.Wait(t, rotation.Revoked, number)
	for range size {
		if now := userOf(t, p); now != user {
			t.Errorf("the pool hands out a connection of %s", now)
		}
	}
	p.checkMoved(t)
}

// listen calls handle for every notification on a channel until ctx is done. It has a connection of its own, and
// takes a new one as soon as there is a new credential, so that it is never cut at a drain deadline; and also when
// the connection ends for any other reason. Since notifications that are sent between two connections are lost,
// resync is called on each new one once it listens, to read what has been missed from where it is kept.
func listen(ctx context.Context, pool *pgvault.Pool, channel string,
	resync func(context.Context, *pgx.Conn) error, handle func(context.Context, *pgconn.Notification) error,
) error {
	published := make(chan struct{}, 1)
	unsubscribe := pool.Rotator().Subscribe(func(e rotation.Event) {
		if e.Kind == rotation.Published {
			select {
			case published <- struct{}{}:
			default:
			}
		}
	})
	defer unsubscribe()
	for ctx.Err() == nil {
		once, cancel := context.WithCancel(ctx)
		stop := make(chan struct{})
		go func() {
			select {
			case <-published:
				cancel()
			case <-stop:
			}
		}()
		err := listenOnce(once, pool, channel, resync, handle)
		moving := once.Err() != nil
		close(stop)
		cancel()
		if err != nil && !moving {
			select { // log err here: a connection is gone, or none can be had
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}
	return ctx.Err()
}

var errReplaced = errors.New("the connection is of a credential that has been replaced")

// listenOnce listens on one connection until it ends.
func listenOnce(ctx context.Context, pool *pgvault.Pool, channel string,
	resync func(context.Context, *pgx.Conn) error, handle func(context.Context, *pgconn.Notification) error,
) error {
	acquired, err := pool.Acquire(ctx)
	if err != nil {
		return err
	}
	// Hijacked, so that it can be closed: given back, it would still listen.
	conn := acquired.Hijack()
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closing)
	}()
	if conn.Config().User != pool.Rotator().Status().User {
		return errReplaced // while idle ones of the last credential are replaced, they serve, but not for long
	}
	if _, err := conn.Exec(ctx, "LISTEN "+pgx.Identifier{channel}.Sanitize()); err != nil {
		return err
	}
	if err := resync(ctx, conn); err != nil {
		return err
	}
	for {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			return err
		}
		if err := handle(ctx, n); err != nil {
			return err
		}
	}
}

// listen through rotations, and through the end of its session: every row that was notified of is read once, in
// order, and no drain deadline is reached.
func TestListenResumes(t *testing.T) {
	t.Parallel()
	p := openPool(t, nil)
	_, err := p.Exec(t.Context(), "CREATE TABLE outbox (id bigserial PRIMARY KEY, word text NOT NULL)")
	kit.Check(t, err)
	reader := &outboxReader{}
	ctx, cancel := context.WithCancel(t.Context())
	var listener sync.WaitGroup
	listener.Go(func() {
		err := listen(ctx, p.Pool, "outbox", reader.resync, func(ctx context.Context, _ *pgconn.Notification) error {
			return reader.read(ctx, p)
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("listen returned %v", err)
		}
	})
	defer listener.Wait()
	defer cancel()
	kit.Eventually(t, "it listens", func(context.Context) bool { return reader.sessions() == 1 })
	kit.Check(t, shared.Postgres.Exec(t.Context(), "SELECT pg_terminate_backend($1)", int32(reader.pid())))
	kit.Eventually(t, "it listens again", func(context.Context) bool { return reader.sessions() == 2 })
	var written sync.Mutex // in the order of their ids
	p.through(t, func(ctx context.Context, worker, n int) error {
		written.Lock()
		defer written.Unlock()
		tx, err := p.Begin(ctx)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback(ctx) }()
		if _, err := tx.Exec(ctx, "INSERT INTO outbox (word) VALUES ($1)", fmt.Sprintf("%d.%d", worker, n)); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "NOTIFY outbox"); err != nil {
			return err
		}
		return tx.Commit(ctx)
	})
	var want []int64
	rows, err := p.Query(t.Context(), "SELECT id FROM outbox ORDER BY id")
	kit.Check(t, err)
	want, err = pgx.CollectRows(rows, pgx.RowTo[int64])
	kit.Check(t, err)
	kit.Eventually(t, "everything is read", func(context.Context) bool { return len(reader.all()) >= len(want) })
	if got := reader.all(); !slices.Equal(got, want) {
		t.Errorf("of %d rows written %d were read", len(want), len(got))
	}
	if reader.sessions() < rotations+2 {
		t.Errorf("it listened on %d connections, in %d rotations and one end", reader.sessions(), rotations)
	}
}

// outboxReader reads what it has not read yet.
type outboxReader struct {
	mu       sync.Mutex // guards what follows
	ids      []int64
	listener uint32 // the pid of the last connection it listened on
	count    int    // of those
}

// resync reads on a connection that has just begun to listen.
func (r *outboxReader) resync(ctx context.Context, conn *pgx.Conn) error {
	r.mu.Lock()
	r.listener = conn.PgConn().PID()
	r.count++
	r.mu.Unlock()
	return r.read(ctx, conn)
}

func (r *outboxReader) read(ctx context.Context, from interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
},
) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := int64(0)
	if len(r.ids) > 0 {
		last = r.ids[len(r.ids)-1]
	}
	rows, err := from.Query(ctx, "SELECT id FROM outbox WHERE id > $1 ORDER BY id", last)
	if err != nil {
		return err
	}
	more, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err == nil {
		r.ids = append(r.ids, more...)
	}
	return err
}

func (r *outboxReader) all() []int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.ids)
}

func (r *outboxReader) pid() uint32 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.listener
}

func (r *outboxReader) sessions() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.count
}
