package clients_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/go-sql-driver/mysql"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/rotation"
)

// lines is a reader of n lines "i,row i". It waits at the gate, if there is one, after half of them.
type lines struct {
	n, i int
	gate *kit.Gate
	rest []byte
}

// Read makes lines an io.Reader.
func (l *lines) Read(b []byte) (int, error) {
	for len(l.rest) < len(b) && l.i < l.n {
		if l.i++; l.i == l.n/2 && l.gate != nil {
			_ = l.gate.Pass(context.Background())
		}
		l.rest = fmt.Appendf(l.rest, "%d,row %d\n", l.i, l.i)
	}
	n := copy(b, l.rest)
	l.rest = l.rest[n:]
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func loadFrom(name, table string) string {
	return "LOAD DATA LOCAL INFILE 'Reader::" + name + "' INTO TABLE " + table + " FIELDS TERMINATED BY ',' (n, name)"
}

// load runs LOAD DATA LOCAL INFILE from a reader.
func load(ctx context.Context, s *service, table, name string, from io.Reader) (int64, error) {
	mysql.RegisterReaderHandler(name, func() io.Reader { return from })
	defer mysql.DeregisterReaderHandler(name)
	result, err := s.ExecContext(ctx, loadFrom(name, table))
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// LOAD DATA LOCAL INFILE: short ones, and a long one over all the rotations, whose connection is left alone.
func TestLoadData(t *testing.T) {
	t.Parallel()
	s := open(t, "mysql", "")
	create(t, s, "loaded")
	create(t, s, "loaded_long")
	const long, short = 100_000, 300
	first := s.rotator.Status()
	var gate kit.Gate
	gate.Shut()
	defer gate.Open()
	loaded := make(chan error, 1)
	go func() {
		n, err := load(context.WithoutCancel(t.Context()), s, "loaded_long", "long", &lines{n: long, gate: &gate})
		if err == nil && n != long {
			err = fmt.Errorf("%w: %d rows", errWrong, n)
		}
		loaded <- err
	}()
	gate.Queue(t, 1)
	others := start(t, size-1, func(ctx context.Context, worker, n int) error {
		loaded, err := load(ctx, s, "loaded", fmt.Sprintf("short%d.%d", worker, n), &lines{n: short})
		if err == nil && loaded != short {
			err = fmt.Errorf("%w: %d rows", errWrong, loaded)
		}
		return err
	})
	s.rotateAround(t, first.Generation, first.User, others.count)
	gate.Open()
	kit.Check(t, kit.Receive(t, "the long one", loaded))
	s.events.Wait(t, rotation.Revoked, first.Generation)
	goesOn(t, others.count)
	s.checkMoved(t)
	others.stop()
	for table, want := range map[string]int64{"loaded_long": long, "loaded": short * others.count()} {
		var n int64
		kit.Check(t, s.QueryRowContext(t.Context(), "SELECT count(*) FROM "+table).Scan(&n))
		if n != want {
			t.Errorf("%s has %d rows, not %d", table, n, want)
		}
	}
	s.undisturbed(t)
}

// One that goes on past the drain deadline is ended there, at the server too, and has loaded nothing. To the driver
// it looks as if nothing had been sent, so that database/sql begins anew on another connection: whoever registers a
// reader must give a new one each time.
func TestLoadDataPastDeadline(t *testing.T) {
	t.Parallel()
	s := open(t, "mysql", "&vault_drain_timeout=2s")
	create(t, s, "loaded_cut")
	const rows = 100_000
	var gate kit.Gate
	gate.ShutFor(1)
	defer gate.Open()
	var readers atomic.Int64
	mysql.RegisterReaderHandler("cut", func() io.Reader {
		readers.Add(1)
		return &lines{n: rows, gate: &gate}
	})
	defer mysql.DeregisterReaderHandler("cut")
	loaded := make(chan error, 1)
	go func() {
		_, err := s.ExecContext(context.WithoutCancel(t.Context()), loadFrom("cut", "loaded_cut"))
		loaded <- err
	}()
	gate.Queue(t, 1)
	number, _ := s.rotate(t)
	s.events.Wait(t, rotation.Revoked, number)
	var n int
	kit.Check(t, s.QueryRowContext(t.Context(), "SELECT count(*) FROM loaded_cut").Scan(&n))
	if n != 0 {
		t.Errorf("%d rows of what was cut are there", n)
	}
	if e := s.events.Wait(t, rotation.DrainDeadline, number); e.Connections != 1 {
		t.Errorf("%d connections were ended", e.Connections)
	}
	gate.Open()
	kit.Check(t, kit.Receive(t, "the load", loaded))
	kit.Check(t, s.QueryRowContext(t.Context(), "SELECT count(*) FROM loaded_cut").Scan(&n))
	if n != rows || readers.Load() != 2 {
		t.Errorf("%d rows were loaded from %d readers", n, readers.Load())
	}
	s.checkMoved(t)
}

// Several statements in one call, and their results one after the other.
func TestMultiStatements(t *testing.T) {
	t.Parallel()
	s := open(t, "mysql", "")
	create(t, s, "multi")
	s.through(t, func(ctx context.Context, worker, n int) error {
		rows, err := s.QueryContext(ctx, fmt.Sprintf("INSERT INTO multi (name, n) VALUES ('%d', %d); SELECT n FROM multi "+
			"WHERE id = last_insert_id(); SELECT name FROM multi WHERE id = last_insert_id()", worker, n))
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		var got []string
		for more := true; more; more = rows.NextResultSet() {
			for rows.Next() {
				var one string
				if err := rows.Scan(&one); err != nil {
					return err
				}
				got = append(got, one)
			}
		}
		if want := fmt.Sprintf("[%d %d]", n, worker); fmt.Sprint(got) != want {
			return fmt.Errorf("%w: %v, not %s (error %w)", errWrong, got, want, rows.Err())
		}
		return rows.Err()
	})
}

// A view has a definer: who has made it, unless it says otherwise. When that user is revoked, the view is there and
// nobody can use it.
func TestViewOfUserThatIsGone(t *testing.T) {
	t.Parallel()
	s := open(t, "mysql", "")
	for _, statement := range []string{
		"CREATE VIEW theirs AS SELECT 1 AS n",
		"CREATE SQL SECURITY INVOKER VIEW everybodys AS SELECT 1 AS n",
	} {
		_, err := s.ExecContext(t.Context(), statement)
		kit.Check(t, err)
	}
	t.Cleanup(func() {
		kit.Check(t, shared.MariaDB.Exec(context.WithoutCancel(t.Context()), "DROP VIEW theirs; DROP VIEW everybodys"))
	})
	number, _ := s.rotate(t)
	s.events.Wait(t, rotation.Revoked, number)
	var n int
	kit.Check(t, s.QueryRowContext(t.Context(), "SELECT n FROM everybodys").Scan(&n))
	err := s.QueryRowContext(t.Context(), "SELECT n FROM theirs").Scan(&n)
	// 1449 says that there is no such definer, to those who may know; others see 1045, as of a refused login, which
	// is none, and does not replace the credential.
	if gone := new(mysql.MySQLError); !errors.As(err, &gone) || gone.Number != 1449 && gone.Number != 1045 {
		t.Errorf("a view whose definer is gone returned %v", err)
	}
	if now := s.rotator.Status().Generation; now != number+1 {
		t.Errorf("generation %d is current, not %d", now, number+1)
	}
	s.undisturbed(t)
	s.checkMoved(t)
}

// Prepared statements, kept for good, that are large: a thousand arguments, and an argument that is sent in parts.
func TestLargePreparedStatements(t *testing.T) {
	t.Parallel()
	s := open(t, "mysql", "")
	const many = 1000
	create(t, s, "prepared")
	insert, err := s.PrepareContext(t.Context(), "INSERT INTO prepared (name, n) VALUES (?, ?)"+strings.Repeat(", (?, ?)", many/2-1))
	kit.Check(t, err)
	defer func() { kit.Check(t, insert.Close()) }()
	hash, err := s.PrepareContext(t.Context(), "SELECT sha2(?, 256), length(?)")
	kit.Check(t, err)
	defer func() { kit.Check(t, hash.Close()) }()
	large := bytes.Repeat([]byte("0123456789abcdef"), 1<<15) // 512 KB
	want := fmt.Sprintf("%x", sha256.Sum256(large))
	s.through(t, func(ctx context.Context, worker, n int) error {
		arguments := make([]any, many)
		for i := range arguments {
			arguments[i] = i
		}
		result, err := insert.ExecContext(ctx, arguments...)
		if err != nil {
			return err
		}
		if inserted, err := result.RowsAffected(); err != nil || inserted != many/2 {
			return fmt.Errorf("%w: %d rows (error %w)", errWrong, inserted, err)
		}
		var digest string
		var length int
		if err := hash.QueryRowContext(ctx, large, large[:1000]).Scan(&digest, &length); err != nil {
			return err
		}
		if digest != want || length != 1000 {
			return fmt.Errorf("%w: %s of %d", errWrong, digest, length)
		}
		return nil
	})
}
