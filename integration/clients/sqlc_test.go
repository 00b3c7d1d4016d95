package clients_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"testing"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/vaultpool/vaultpool/integration/clients/sqlc/mysqldb"
	"github.com/vaultpool/vaultpool/integration/clients/sqlc/pgdb"
	"github.com/vaultpool/vaultpool/integration/clients/sqlc/pgxdb"
	"github.com/vaultpool/vaultpool/integration/internal/kit"
)

// schema reads the schema that the code was generated for.
func schema(t *testing.T, kind string) string {
	t.Helper()
	text, err := os.ReadFile("sqlc/" + kind + "/schema.sql")
	kit.Check(t, err)
	return string(text)
}

// sqlc's code for pgx, on the pool itself: queries, a transaction, COPY and a batch.
func TestSQLCPgx(t *testing.T) {
	t.Parallel()
	p := openPool(t, nil)
	_, err := p.Exec(t.Context(), schema(t, "postgres"))
	kit.Check(t, err)
	queries := pgxdb.New(p)
	p.through(t, func(ctx context.Context, worker, n int) error {
		name := fmt.Sprintf("%d.%d", worker, n)
		bio := pgtype.Text{String: "of " + name, Valid: true}
		tx, err := p.Begin(ctx)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback(ctx) }()
		made, err := queries.WithTx(tx).CreateAuthor(ctx, pgxdb.CreateAuthorParams{Name: name})
		if err != nil {
			return err
		}
		if changed, err := queries.WithTx(tx).UpdateBio(ctx, pgxdb.UpdateBioParams{ID: made.ID, Bio: bio}); err != nil || changed != 1 {
			return fmt.Errorf("%w: changed %d (error %w)", errWrong, changed, err)
		}
		if err := tx.Commit(ctx); err != nil {
			return err
		}
		if copied, err := queries.CopyAuthors(ctx, []pgxdb.CopyAuthorsParams{{Name: name + ".a"}, {Name: name + ".b"}}); err != nil || copied != 2 {
			return fmt.Errorf("%w: copied %d (error %w)", errWrong, copied, err)
		}
		got := 0
		queries.GetAuthors(ctx, []string{name, name + ".a", name + ".b"}).QueryRow(func(i int, a pgxdb.Author, e error) {
			if e != nil {
				err = e
			} else if i > 0 || a.Bio == bio {
				got++
			}
		})
		if err != nil || got != 3 {
			return fmt.Errorf("%w: %d of a batch (error %w)", errWrong, got, err)
		}
		if list, err := queries.ListAuthors(ctx, made.ID); err != nil || len(list) == 0 || list[0].Name != name {
			return fmt.Errorf("%w: %+v (error %w)", errWrong, list, err)
		}
		return nil
	})
}

// sqlc's code for database/sql, with its statements prepared once and for all.
func TestSQLCPostgres(t *testing.T) {
	t.Parallel()
	s := open(t, "postgres", "")
	_, err := s.ExecContext(t.Context(), schema(t, "postgres"))
	kit.Check(t, err)
	queries, err := pgdb.Prepare(t.Context(), s.DB)
	kit.Check(t, err)
	defer func() { kit.Check(t, queries.Close()) }()
	s.through(t, func(ctx context.Context, worker, n int) error {
		name := fmt.Sprintf("%d.%d", worker, n)
		bio := sql.NullString{String: "of " + name, Valid: true}
		tx, err := s.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }()
		made, err := queries.WithTx(tx).CreateAuthor(ctx, pgdb.CreateAuthorParams{Name: name})
		if err != nil {
			return err
		}
		if err := tx.Commit(); err != nil {
			return err
		}
		if changed, err := queries.UpdateBio(ctx, pgdb.UpdateBioParams{ID: made.ID, Bio: bio}); err != nil || changed != 1 {
			return fmt.Errorf("%w: changed %d (error %w)", errWrong, changed, err)
		}
		if got, err := queries.GetAuthor(ctx, name); err != nil || got.Bio != bio {
			return fmt.Errorf("%w: %+v (error %w)", errWrong, got, err)
		}
		if list, err := queries.ListAuthors(ctx, made.ID); err != nil || len(list) == 0 || list[0].Name != name {
			return fmt.Errorf("%w: %+v (error %w)", errWrong, list, err)
		}
		return nil
	})
}

// sqlc's code for MySQL, prepared too. (Its COPY is LOAD DATA LOCAL INFILE from a reader: TestLoadData.)
func TestSQLCMySQL(t *testing.T) {
	t.Parallel()
	s := open(t, "mysql", "")
	_, err := s.ExecContext(t.Context(), schema(t, "mysql"))
	kit.Check(t, err)
	t.Cleanup(func() { kit.Check(t, shared.MariaDB.Exec(context.WithoutCancel(t.Context()), "DROP TABLE authors")) })
	queries, err := mysqldb.Prepare(t.Context(), s.DB)
	kit.Check(t, err)
	defer func() { kit.Check(t, queries.Close()) }()
	s.through(t, func(ctx context.Context, worker, n int) error {
		name := fmt.Sprintf("%d.%d", worker, n)
		bio := sql.NullString{String: "of " + name, Valid: true}
		tx, err := s.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }()
		id, err := queries.WithTx(tx).CreateAuthor(ctx, mysqldb.CreateAuthorParams{Name: name})
		if err != nil {
			return err
		}
		if changed, err := queries.WithTx(tx).UpdateBio(ctx, mysqldb.UpdateBioParams{ID: id, Bio: bio}); err != nil || changed != 1 {
			return fmt.Errorf("%w: changed %d (error %w)", errWrong, changed, err)
		}
		if err := tx.Commit(); err != nil {
			return err
		}
		if got, err := queries.GetAuthor(ctx, name); err != nil || got.Bio != bio {
			return fmt.Errorf("%w: %+v (error %w)", errWrong, got, err)
		}
		if list, err := queries.ListAuthors(ctx, id); err != nil || len(list) == 0 || list[0].Name != name {
			return fmt.Errorf("%w: %+v (error %w)", errWrong, list, err)
		}
		return nil
	})
}
