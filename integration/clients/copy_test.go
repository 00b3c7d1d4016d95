package clients_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/rotation"
)

// numbers is a pgx.CopyFromSource of n rows. It waits at the gate, if there is one, after half of them.
type numbers struct {
	n, i int
	gate *kit.Gate
}

// Next makes numbers a pgx.CopyFromSource.
func (s *numbers) Next() bool {
	if s.i == s.n/2 && s.gate != nil {
		_ = s.gate.Pass(context.Background())
	}
	s.i++
	return s.i <= s.n
}

// Values makes numbers a pgx.CopyFromSource.
func (s *numbers) Values() ([]any, error) { return []any{int64(s.i), fmt.Sprintf("row %d", s.i)}, nil }

// Err makes numbers a pgx.CopyFromSource.
func (s *numbers) Err() error { return nil }

// createNumbers makes a table for numbers.
func createNumbers(t *testing.T, p *pool, table string) {
	t.Helper()
	_, err := p.Exec(t.Context(), "CREATE TABLE "+table+" (n bigint NOT NULL, word text NOT NULL)")
	kit.Check(t, err)
}

func (p *pool) countRows(t *testing.T, table string) (n int) {
	t.Helper()
	kit.Check(t, p.QueryRow(t.Context(), "SELECT count(*) FROM "+table).Scan(&n))
	return n
}

// COPY FROM: short ones again and again, and a long one over all the rotations, whose connection is left alone.
func TestCopyFrom(t *testing.T) {
	t.Parallel()
	p := openPool(t, nil)
	createNumbers(t, p, "short")
	createNumbers(t, p, "long")
	const rows = 100_000
	var gate kit.Gate
	gate.Shut()
	defer gate.Open()
	first := p.rotator.Status()
	copied := make(chan error, 1)
	go func() {
		n, err := p.CopyFrom(context.WithoutCancel(t.Context()), pgx.Identifier{"long"}, []string{"n", "word"},
			&numbers{n: rows, gate: &gate})
		if err == nil && n != rows {
			err = fmt.Errorf("%w: %d rows copied", errWrong, n)
		}
		copied <- err
	}()
	gate.Queue(t, 1)

	others := start(t, size-1, func(ctx context.Context, worker, n int) error {
		const rows = 500
		copied, err := p.CopyFrom(ctx, pgx.Identifier{"short"}, []string{"n", "word"}, &numbers{n: rows})
		if err == nil && copied != rows {
			err = fmt.Errorf("%w: %d rows copied", errWrong, copied)
		}
		return err
	})
	p.rotateAround(t, first.Generation, first.User, others.count)
	gate.Open()
	kit.Check(t, kit.Receive(t, "the long copy", copied))
	p.events.Wait(t, rotation.Revoked, first.Generation)
	goesOn(t, others.count)
	p.checkMoved(t)
	others.stop()
	if n := p.countRows(t, "long"); n != rows {
		t.Errorf("%d rows of the long copy are there", n)
	}
	if n := p.countRows(t, "short"); int64(n) != 500*others.count() {
		t.Errorf("%d rows of %d short copies are there", n, others.count())
	}
	p.undisturbed(t)
}

// rotateAround replaces the credential while something long has a connection of the first: it is left alone, alone
// of all, and its lease is kept, while those that follow are revoked.
func (l *leased) rotateAround(t *testing.T, first uint64, user string, progress func() int64) {
	t.Helper()
	for range rotations {
		goesOn(t, progress)
		l.rotate(t)
	}
	for g := first + 1; g < first+rotations; g++ {
		l.events.Wait(t, rotation.Revoked, g)
	}
	kit.Eventually(t, "only what is long has the old credential", func(context.Context) bool {
		return l.sessions(t, user) == 1
	})
	if early := l.events.Of(rotation.Revoked, first); len(early) > 0 {
		t.Error("the lease was revoked while its connection was in use")
	}
}

// A COPY FROM that goes on past the drain deadline is ended there, says why, and has copied nothing.
func TestCopyFromPastDeadline(t *testing.T) {
	t.Parallel()
	p := openPool(t, drainTimeout(2*time.Second))
	createNumbers(t, p, "cut")
	copied := make(chan error, 1)
	var gate kit.Gate
	gate.Shut()
	defer gate.Open()
	go func() {
		_, err := p.CopyFrom(context.WithoutCancel(t.Context()), pgx.Identifier{"cut"}, []string{"n", "word"},
			&numbers{n: 100_000, gate: &gate})
		copied <- err
	}()
	gate.Queue(t, 1)
	number, _ := p.rotate(t)
	p.events.Wait(t, rotation.Revoked, number)
	gate.Open()
	if err := kit.Receive(t, "the copy", copied); !isEnded(err) {
		t.Errorf("it returned %v, which does not say why", err)
	}
	if e := p.events.Wait(t, rotation.DrainDeadline, number); e.Connections != 1 {
		t.Errorf("%d connections were ended", e.Connections)
	}
	if n := p.countRows(t, "cut"); n != 0 {
		t.Errorf("%d rows of the copy that was cut are there", n)
	}
	p.checkMoved(t)
}

// COPY TO on the pgconn.PgConn below a pgx.Conn: short ones, and a long one whose reader takes its time.
func TestCopyTo(t *testing.T) {
	t.Parallel()
	p := openPool(t, nil)
	first := p.rotator.Status()
	copyTo := func(ctx context.Context, w io.Writer, rows int) error {
		return p.AcquireFunc(ctx, func(c *pgxpool.Conn) error {
			tag, err := c.Conn().PgConn().CopyTo(ctx, w, fmt.Sprintf("COPY (SELECT generate_series(1, %d)) TO STDOUT", rows))
			if err == nil && tag.RowsAffected() != int64(rows) {
				err = fmt.Errorf("%w: %s", errWrong, tag)
			}
			return err
		})
	}
	const rows = 2_000_000 // more than sockets and buffers hold
	var gate kit.Gate
	gate.Shut()
	defer gate.Open()
	lines := &lineCounter{gate: &gate}
	copied := make(chan error, 1)
	go func() { copied <- copyTo(context.WithoutCancel(t.Context()), lines, rows) }()
	gate.Queue(t, 1)
	others := start(t, size-1, func(ctx context.Context, worker, n int) error {
		lines := &lineCounter{}
		err := copyTo(ctx, lines, 5000)
		if err == nil && lines.n != 5000 {
			err = errWrong
		}
		return err
	})
	p.rotateAround(t, first.Generation, first.User, others.count)
	gate.Open()
	kit.Check(t, kit.Receive(t, "the long copy", copied))
	if lines.n != rows {
		t.Errorf("%d lines were copied", lines.n)
	}
	p.events.Wait(t, rotation.Revoked, first.Generation)
	goesOn(t, others.count)
	p.checkMoved(t)
	others.stop()
	p.undisturbed(t)
}

// lineCounter counts what is written to it. It waits at the gate, if there is one, once something was.
type lineCounter struct {
	n    int
	gate *kit.Gate
}

// Write makes lineCounter an io.Writer.
func (c *lineCounter) Write(b []byte) (int, error) {
	if c.n > 0 && c.gate != nil {
		if err := c.gate.Pass(context.Background()); err != nil {
			return 0, err
		}
	}
	c.n += bytes.Count(b, []byte("\n"))
	return len(b), nil
}
