package clients_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/georgysavva/scany/v2/pgxscan"
	"github.com/jackc/pgx/v5"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
)

// scany, which takes the pool for what it can query, and a transaction.
func TestScany(t *testing.T) {
	t.Parallel()
	p := openPool(t, nil)
	_, err := p.Exec(t.Context(), "CREATE TABLE parts (id bigserial PRIMARY KEY, name text NOT NULL, n bigint NOT NULL)")
	kit.Check(t, err)
	type part struct {
		ID    int64
		Name  string
		Count int `db:"n"`
	}
	p.through(t, func(ctx context.Context, worker, n int) error {
		name := fmt.Sprintf("%d.%d", worker, n)
		var made part
		err := pgx.BeginFunc(ctx, p, func(tx pgx.Tx) error {
			return pgxscan.Get(ctx, tx, &made, "INSERT INTO parts (name, n) VALUES ($1, $2) RETURNING *", name, n)
		})
		if err != nil {
			return err
		}
		var all []part
		if err := pgxscan.Select(ctx, p, &all, "SELECT * FROM parts WHERE name = $1", name); err != nil {
			return err
		}
		if len(all) != 1 || all[0] != made || made.Count != n {
			return fmt.Errorf("%w: %+v, %+v", errWrong, all, made)
		}
		return nil
	})
}
