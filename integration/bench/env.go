package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/vaultpool/vaultpool/integration/testbed"
)

const items = 1000 // rows that queries read

// env is what all contenders share.
type env struct {
	options
	bed    *testbed.Bed
	role   *testbed.Role
	static *testbed.Credential // of those that never rotate

	out, progress io.Writer
}

func newEnv(ctx context.Context, bed *testbed.Bed, o options, out, progress io.Writer) (*env, error) {
	e := &env{options: o, bed: bed, out: out, progress: progress}
	for _, statement := range []string{
		fmt.Sprintf("INSERT INTO items (name) SELECT 'item ' || n FROM generate_series(1, %d) n", items),
		"VACUUM ANALYZE items",
	} {
		if err := bed.Postgres.Exec(ctx, statement); err != nil {
			return nil, err
		}
	}
	var err error
	if e.role, err = bed.PostgresRole(ctx, testbed.RoleOptions{}); err != nil {
		return nil, err
	}
	if e.static, err = e.role.Issue(ctx); err != nil {
		return nil, err
	}
	return e, nil
}

// poolConfig is the same for every pool: full from the start.
func (e *env) poolConfig(user, password string) (*pgxpool.Config, error) {
	c, err := pgxpool.ParseConfig(e.poolURL())
	if err != nil {
		return nil, err
	}
	c.ConnConfig.User, c.ConnConfig.Password = user, password
	return c, nil
}

func (e *env) poolURL() string {
	return fmt.Sprintf("%s&pool_min_conns=%d&pool_max_conns=%d", e.bed.Postgres.URL("app"), e.conns, e.maxConns)
}

// revoke gives a lease back and returns when its user is gone.
func (e *env) revoke(ctx context.Context, c *testbed.Credential) error {
	err := e.bed.Vault.Client.Sys().RevokeWithOptionsWithContext(ctx, &api.RevokeOptions{LeaseID: c.LeaseID, Sync: true})
	if err != nil {
		return fmt.Errorf("revoke the lease of %s: %w", c.User, err)
	}
	return nil
}

// left returns an error that names what there is in Vault and PostgreSQL beside what is ours to keep.
func (e *env) left(ctx context.Context, keep int) error {
	leases, err := e.role.Leases(ctx)
	if err != nil {
		return err
	}
	users, err := e.role.Users(ctx)
	if err != nil {
		return err
	}
	if len(leases) > keep || len(users) > keep {
		return fmt.Errorf("left behind: %d leases and %d users", len(leases)-keep, len(users)-keep)
	}
	return nil
}

// finish gives back the static login and looks for what was left by anybody. It also runs after Ctrl-C.
func (e *env) finish() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return errors.Join(e.revoke(ctx, e.static), e.left(ctx, 0))
}

func (e *env) progressf(format string, values ...any) {
	_, _ = fmt.Fprintf(e.progress, format+"\n", values...) // who does not listen misses it
}

func (e *env) printf(format string, values ...any) {
	_, _ = fmt.Fprintf(e.out, format+"\n", values...)
}

// machineLoad is the load average over the last minute, where the system has one to read: others may be at work on
// this machine, and that is part of every figure.
func machineLoad() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	load, _, _ := strings.Cut(string(text), " ")
	return load
}
