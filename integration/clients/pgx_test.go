package clients_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/rotation"
)

// Batches of a thousand statements, and on the connection itself, in a pipeline.
func TestBatch(t *testing.T) {
	t.Parallel()
	p := openPool(t, nil)
	createNumbers(t, p, "batched")
	const many = 1000
	p.through(t, func(ctx context.Context, worker, n int) error {
		batch := &pgx.Batch{}
		sum := 0
		for i := range many {
			batch.Queue("SELECT $1::int + $2", i, n).QueryRow(func(row pgx.Row) error {
				var got int
				err := row.Scan(&got)
				sum += got - n
				return err
			})
		}
		batch.Queue("INSERT INTO batched VALUES ($1, $2)", n, "batch")
		if err := p.SendBatch(ctx, batch).Close(); err != nil {
			return err
		}
		if sum != many*(many-1)/2 {
			return fmt.Errorf("%w: %d", errWrong, sum)
		}
		return pipeline(ctx, p, 100)
	})
}

// pipeline sends n statements without waiting for an answer, and reads the answers.
func pipeline(ctx context.Context, p *pool, n int) error {
	conn, err := p.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	pipe := conn.Conn().PgConn().StartPipeline(ctx)
	for i := range n {
		pipe.SendQueryParams("SELECT $1::text", [][]byte{fmt.Append(nil, i)}, nil, nil, nil)
	}
	if err := pipe.Sync(); err != nil {
		return errors.Join(err, pipe.Close())
	}
	for i := range n {
		result, err := pipe.GetResults()
		if err != nil {
			return errors.Join(err, pipe.Close())
		}
		read := result.(*pgconn.ResultReader).Read()
		if read.Err != nil || len(read.Rows) != 1 || string(read.Rows[0][0]) != fmt.Sprint(i) {
			return errors.Join(fmt.Errorf("%w: %v (error %w)", errWrong, read.Rows, read.Err), pipe.Close())
		}
	}
	return pipe.Close()
}

// Large results: read as fast as they come, and one that is read a little after every rotation.
func TestLargeResult(t *testing.T) {
	t.Parallel()
	p := openPool(t, nil)
	first := p.rotator.Status()
	const all, some = 400_000, 5_000
	const query = "SELECT i, repeat('x', 50) FROM generate_series(1, $1::int) AS i"
	slow, err := p.Query(t.Context(), query, all)
	kit.Check(t, err)
	defer slow.Close()
	next := 1
	read := func(n int) {
		t.Helper()
		for ; n > 0 && slow.Next(); n-- {
			var i int
			kit.Check(t, slow.Scan(&i, nil))
			if i != next {
				t.Fatalf("row %d is number %d", next, i)
			}
			next++
		}
	}
	read(1000)
	others := start(t, size-1, func(ctx context.Context, worker, n int) error {
		rows, err := p.Query(ctx, query, some)
		if err != nil {
			return err
		}
		count := 0
		_, err = pgx.ForEachRow(rows, []any{nil, nil}, func() error { count++; return nil })
		if err == nil && count != some {
			err = fmt.Errorf("%w: %d rows", errWrong, count)
		}
		return err
	})
	p.rotateAround(t, first.Generation, first.User, func() int64 { read(10); return others.count() })
	read(all)
	kit.Check(t, slow.Err())
	if next != all+1 || slow.Next() {
		t.Errorf("%d of %d rows were read", next-1, all)
	}
	p.events.Wait(t, rotation.Revoked, first.Generation)
	goesOn(t, others.count)
	p.checkMoved(t)
	others.stop()
	p.undisturbed(t)
}

// Transactions with savepoints: short ones, and a long one over all the rotations, which keeps what belongs to its
// session.
func TestSavepoints(t *testing.T) {
	t.Parallel()
	p := openPool(t, nil)
	ctx := t.Context()
	_, err := p.Exec(ctx, "CREATE TABLE marks (word text PRIMARY KEY)")
	kit.Check(t, err)
	first := p.rotator.Status()
	long, err := p.Begin(ctx)
	kit.Check(t, err)
	defer func() { _ = long.Rollback(context.WithoutCancel(ctx)) }()
	_, err = long.Exec(ctx, "CREATE TEMPORARY TABLE own (n int) ON COMMIT DROP; SET LOCAL application_name = 'long'; INSERT INTO own VALUES (0)",
		pgx.QueryExecModeSimpleProtocol)
	kit.Check(t, err)
	others := start(t, size-1, func(ctx context.Context, worker, n int) error {
		return pgx.BeginFunc(ctx, p, func(tx pgx.Tx) error { return savepoints(ctx, tx, fmt.Sprintf("%d.%d", worker, n)) })
	})
	p.rotateAround(t, first.Generation, first.User, others.count)
	kit.Check(t, savepoints(ctx, long, "long"))
	var name string
	kit.Check(t, long.QueryRow(ctx, "SELECT current_setting('application_name') FROM own").Scan(&name))
	if name != "long" {
		t.Errorf("its setting is %q", name)
	}
	kit.Check(t, long.Commit(ctx))
	p.events.Wait(t, rotation.Revoked, first.Generation)
	goesOn(t, others.count)
	p.checkMoved(t)
	others.stop()
	if n := p.countRows(t, "marks"); int64(n) != 2*(others.count()+1) {
		t.Errorf("%d transactions left %d rows", others.count()+1, n)
	}
	p.undisturbed(t)
}

// savepoints inserts two rows, one of them in a savepoint after another one that failed.
func savepoints(ctx context.Context, tx pgx.Tx, word string) error {
	insert := func(tx pgx.Tx, word string) error {
		_, err := tx.Exec(ctx, "INSERT INTO marks VALUES ($1)", word)
		return err
	}
	if err := insert(tx, word); err != nil {
		return err
	}
	var pgErr *pgconn.PgError
	err := pgx.BeginFunc(ctx, tx, func(inner pgx.Tx) error { return insert(inner, word) })
	if !errors.As(err, &pgErr) || pgErr.Code != "23505" {
		return fmt.Errorf("%w: a key that is there already returned %w", errWrong, err)
	}
	return pgx.BeginFunc(ctx, tx, func(inner pgx.Tx) error { return insert(inner, word+" again") })
}

// Large objects are owned, too: by the role that the users act as.
func TestLargeObjects(t *testing.T) {
	t.Parallel()
	p := openPool(t, nil)
	content := make([]byte, 200_000)
	for i := range content {
		content[i] = byte(i * 7)
	}
	want := sha256.Sum256(content)
	p.through(t, func(ctx context.Context, worker, n int) error {
		var oid uint32
		err := pgx.BeginFunc(ctx, p, func(tx pgx.Tx) (err error) {
			objects := tx.LargeObjects()
			if oid, err = objects.Create(ctx, 0); err != nil {
				return err
			}
			object, err := objects.Open(ctx, oid, pgx.LargeObjectModeWrite)
			if err != nil {
				return err
			}
			_, err = object.Write(content)
			return err
		})
		if err != nil {
			return err
		}
		return pgx.BeginFunc(ctx, p, func(tx pgx.Tx) error {
			objects := tx.LargeObjects()
			object, err := objects.Open(ctx, oid, pgx.LargeObjectModeRead)
			if err != nil {
				return err
			}
			hash := sha256.New()
			if _, err := io.Copy(hash, object); err != nil {
				return err
			}
			if [sha256.Size]byte(hash.Sum(nil)) != want {
				return errWrong
			}
			return objects.Unlink(ctx, oid)
		})
	})
}
