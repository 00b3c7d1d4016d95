package pgvault

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/vaultpool/vaultpool/rotation"
)

// acquirer is what a raw pool and ours have in common.
type acquirer interface {
	Acquire(ctx context.Context) (*pgxpool.Conn, error)
}

// BenchmarkAcquire is the path that every query takes, beside the same of the raw pool: see docs/hot-path.md. What they
// cost with a real server is measured by make bench.
func BenchmarkAcquire(b *testing.B) {
	raw := openPool(b, fakeConfig(b, "one:1", accept))
	source := rotation.SourceFunc(func(context.Context) (rotation.Credential, rotation.Lease, error) {
		return rotation.NewCredential("user", "password"), rotation.Lease{TTL: time.Hour}, nil
	})
	ours, err := NewWithConfig(b.Context(), &Config{Config: fakeConfig(b, "one:1", accept), Source: source})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(ours.Close)
	for _, pool := range []struct {
		name string
		acquirer
	}{{"raw", raw}, {"pgvault", ours}, {"pgvault-embedded", ours.Pool}, {"raw-again", raw}} {
		b.Run("pool="+pool.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c, err := pool.Acquire(b.Context())
				if err != nil {
					b.Fatal(err)
				}
				c.Release()
			}
		})
	}
}
