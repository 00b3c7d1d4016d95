package conformance_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/vaultpool/vaultpool/integration/internal/conformance"
	"github.com/vaultpool/vaultpool/pgvault"
	"github.com/vaultpool/vaultpool/pgvault/stdlib"
	"github.com/vaultpool/vaultpool/rotation"
)

func TestPGVault(t *testing.T) {
	conformance.Run(t, &conformance.Adapter{
		Server: conformance.Postgres(bed), Open: openPGVault,
		Ended: func(err error) bool {
			var terminated *pgconn.PgError
			return errors.Is(err, rotation.ErrEnded) || errors.As(err, &terminated) && terminated.Code == "57P01"
		},
	})
}

func openPGVault(ctx context.Context, o conformance.Options) (*conformance.Pool, error) {
	config, err := pgvault.ParseConfig(fmt.Sprintf("postgres://%s/%s?sslmode=disable&pool_max_conns=%d", o.Addr, bed.Postgres.Database, o.MaxConns))
	if err != nil {
		return nil, err
	}
	if config.Rotator = o.Rotator; o.Rotator == nil {
		config.Vault, config.Rotation = o.Vault, o.Rotation
	}
	pool, err := pgvault.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	db := stdlib.OpenDB(pool)
	return &conformance.Pool{DB: db, Rotator: pool.Rotator(), Close: func() error {
		return errors.Join(db.Close(), pool.Shutdown(context.Background()))
	}}, nil
}
