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

	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/rotation"
	"github.com/vaultpool/vaultpool/rotation/vaultsource"
)

const items = 1000 // rows that queries read

// env is what all contenders share.
type env struct {
	options
	bed    *testbed.Bed
	role   *testbed.Role
	static *testbed.Credential // of those that never rotate

	vaultAddress string // where ours asks, if not Vault itself

	out, progress io.Writer
	doc           *document // nil: none
}

func newEnv(ctx context.Context, bed *testbed.Bed, o options, out, progress io.Writer) (*env, error) {
	e := &env{options: o, bed: bed, out: out, progress: progress}
	if err := e.db.prepare(ctx, e); err != nil {
		return nil, err
	}
	var err error
	if e.role, err = e.db.role(ctx, e, testbed.RoleOptions{}); err != nil {
		return nil, err
	}
	if e.static, err = e.role.Issue(ctx); err != nil {
		return nil, err
	}
	return e, nil
}

// at is the same for pools of that many connections.
func (e *env) at(conns int) *env {
	other := *e
	other.options = e.options.at(conns)
	return &other
}

func (e *env) staticLogin() *testbed.Credential { return e.static }

// form is the same for every pool while credentials rotate: full from the start.
func (e *env) form() form { return form{conns: e.conns, maxConns: e.maxConns} }

// drainTimeout is how long the connections of an old credential may take.
func (e *env) drainTimeout() time.Duration { return e.interval * 5 / 6 }

// pacedRate is how many logins a second a rotation comes to that replaces all connections evenly in the first half of the
// drain window, and has proven the new login before.
func (e *env) pacedRate() float64 { return float64(e.conns)/(e.drainTimeout()/2).Seconds() + 1 }

// lifetime is the longest of a connection whose login was replaced just after, and which was then used for a
// transaction, that ends before the login is revoked; and a bit shorter.
func (e *env) lifetime() time.Duration { return (e.interval - transaction) * 3 / 4 }

// vault is how ours asks Vault, with a token that may do no more than it must.
func (e *env) vault(ctx context.Context) (vaultsource.Config, rotation.Config, error) {
	token, err := e.role.Token(ctx, time.Hour)
	if err != nil {
		return vaultsource.Config{}, rotation.Config{}, err
	}
	client := e.bed.Vault.ClientWithToken(token)
	if e.vaultAddress != "" {
		err = client.SetAddress(e.vaultAddress)
	}
	return vaultsource.Config{Client: client, Path: e.role.CredsPath}, rotation.Config{DrainTimeout: e.drainTimeout()}, err
}

// revoke gives a lease back and returns when its user is gone.
func (e *env) revoke(ctx context.Context, c *testbed.Credential) error {
	err := e.bed.Vault.Client.Sys().RevokeWithOptionsWithContext(ctx, &api.RevokeOptions{LeaseID: c.LeaseID, Sync: true})
	if err != nil {
		return fmt.Errorf("revoke the lease of %s: %w", c.User, err)
	}
	return nil
}

// left returns an error that names what there is in Vault and the database beside what is ours to keep.
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
