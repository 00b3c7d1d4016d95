package main

import (
	"context"
	"time"

	"github.com/vaultpool/vaultpool/pgvault"
	"github.com/vaultpool/vaultpool/rotation"
	"github.com/vaultpool/vaultpool/rotation/vaultsource"
)

// vaultPool is pgvault.
type vaultPool struct{ *pgvault.Pool }

func openVaultPool(ctx context.Context, e *env, l *logins) (subject, error) {
	v := &vaultPool{}
	c, err := e.vaultConfig(ctx)
	if err != nil {
		return nil, err
	}
	c.BeforeConnect = l.hook(v.idle)
	v.Pool, err = pgvault.NewWithConfig(ctx, c)
	return v, err
}

// vaultConfig is poolConfig for pgvault.
func (e *env) vaultConfig(ctx context.Context) (*pgvault.Config, error) {
	c, err := pgvault.ParseConfig(e.poolURL())
	if err != nil {
		return nil, err
	}
	token, err := e.role.Token(ctx, time.Hour)
	if err != nil {
		return nil, err
	}
	c.Vault = vaultsource.Config{Client: e.bed.Vault.ClientWithToken(token), Path: e.role.CredsPath}
	c.Rotation = rotation.Config{DrainTimeout: e.drainTimeout()}
	return c, nil
}

func (v *vaultPool) rotate(ctx context.Context) error { return v.Rotate(ctx) }

func (v *vaultPool) close(ctx context.Context) error { return v.Shutdown(ctx) }

func (v *vaultPool) idle() int { return int(v.Stat().IdleConns()) }
