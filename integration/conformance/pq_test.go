package conformance_test

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"testing"

	"github.com/vaultpool/vaultpool/integration/internal/conformance"
	"github.com/vaultpool/vaultpool/integration/pqadapter"
	"github.com/vaultpool/vaultpool/rotation"
	"github.com/vaultpool/vaultpool/rotation/vaultsource"
)

func TestPQ(t *testing.T) {
	conformance.Run(t, &conformance.Adapter{
		Server: conformance.Postgres(bed), Open: openPQ, SQLPools: true,
		// pq makes ErrBadConn of whatever a write returns.
		Ended: func(err error) bool { return errors.Is(err, rotation.ErrEnded) || errors.Is(err, driver.ErrBadConn) },
	})
}

func openPQ(ctx context.Context, o conformance.Options) (*conformance.Pool, error) {
	r, closeOwn := o.Rotator, func() error { return nil }
	if r == nil {
		source, err := vaultsource.New(ctx, o.Vault)
		if err != nil {
			return nil, err
		}
		if r, err = rotation.New(ctx, source, o.Rotation); err != nil {
			return nil, err
		}
		closeOwn = func() error { return r.Close(context.Background()) }
	}
	db, err := pqadapter.Open(ctx, fmt.Sprintf("postgres://%s/%s?sslmode=disable", o.Addr, bed.Postgres.Database), r)
	if err != nil {
		return nil, errors.Join(err, closeOwn())
	}
	pool := &conformance.Pool{DB: db, Rotator: r, Close: func() error { return errors.Join(db.Close(), closeOwn()) }}
	return setMaxConns(pool, o.MaxConns), nil
}
