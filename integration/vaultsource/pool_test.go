package vaultsource_test

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/pgvault"
	"github.com/vaultpool/vaultpool/rotation"
)

// hazards 32 and 54: a pool whose source logs in by itself lives through the ends of its tokens, and leaves nothing
// behind, whether it may revoke leases or not.
func TestPoolWithLogins(t *testing.T) {
	for name, hcl := range map[string]func(creds string) string{
		"may revoke":     policy,
		"may not revoke": func(creds string) string { return `path "` + creds + `" { capabilities = ["read"] }` },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, testbed.RoleOptions{DefaultTTL: time.Hour})
			l := f.appRole(hcl(f.role.CredsPath), map[string]any{"token_ttl": "3s", "token_max_ttl": "6s"})
			t.Setenv("VAULT_TOKEN", "")
			var log syncBuffer
			config, err := pgvault.ParseConfig(bed.Postgres.URL("app"))
			f.must(err)
			config.Vault.Path, config.Vault.Address, config.Vault.Auth = f.role.CredsPath, bed.Vault.Addr, l.auth
			config.Rotation.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
			pool, err := pgvault.NewWithConfig(t.Context(), config)
			f.must(err)
			var calls, failed atomic.Int64
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() {
				defer close(done)
				for ctx.Err() == nil {
					calls.Add(1)
					err := pool.AcquireFunc(context.WithoutCancel(ctx), func(c *pgxpool.Conn) error {
						_, err := c.Exec(context.WithoutCancel(ctx), "INSERT INTO items (name) VALUES ('login')")
						return err
					})
					if err != nil {
						failed.Add(1)
						t.Error(err)
					}
					time.Sleep(5 * time.Millisecond)
				}
			}()
			published := make(chan rotation.Event, 100)
			unsubscribe := pool.Rotator().Subscribe(func(e rotation.Event) {
				if e.Kind == rotation.Published {
					published <- e
				}
			})
			for range 3 {
				select {
				case <-published:
				case <-time.After(time.Minute):
					t.Fatal("no rotation in a minute")
				}
			}
			unsubscribe()
			stop()
			<-done
			f.must(pool.Shutdown(t.Context()))
			l.wantTokens(0) // at once: the last one would have lived for up to three seconds more
			l.wantNothing()
			f.noSecret(log.String())
			t.Logf("%d calls, %d failed; warnings: %s", calls.Load(), failed.Load(), log.String())
		})
	}
}
