package pgvault_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/vaultpool/vaultpool/pgvault"
)

// crasher is set, to its connection string, in a copy of this program that opens a pool and is killed.
const crasher = "PGVAULT_TEST_CRASHER"

// runUntilKilled keeps a transaction open, says so, and renews its lease until its end.
func runUntilKilled(connString string) error {
	ctx := context.Background()
	pool, err := pgvault.New(ctx, connString)
	if err != nil {
		return err
	}
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "INSERT INTO items (name) VALUES ('of a program that crashes')"); err != nil {
			return err
		}
		fmt.Println("ready")
		select {}
	})
}

// What a process leaves that is killed: with vault_lease_ttl, a lease of that length, however long the role's
// default_ttl is. The user can do nothing after that.
func TestCrash(t *testing.T) {
	t.Parallel()
	const ttl = 3 * time.Second
	s := prepare(t, setup{role: leaseOf(time.Hour, 2*time.Hour)})
	killed := s.crash(t, fmt.Sprint("vault_lease_ttl=", ttl))
	s.waitNothingLeft(t)
	t.Logf("lease, role and session were gone %v after the process was killed, with leases of %v",
		time.Since(killed).Round(10*time.Millisecond), ttl)
}

// Without it, the lease is there for as long as the role gives: here, longer than all the leases of TestCrash.
func TestCrash_WithoutLeaseTTL(t *testing.T) {
	t.Parallel()
	s := prepare(t, setup{role: leaseOf(time.Hour, 2*time.Hour)})
	s.crash(t, "")
	leases, err := s.role.Leases(t.Context())
	check(t, err)
	users, err := s.role.Users(t.Context())
	check(t, err)
	if len(leases) != 1 || len(users) != 1 {
		t.Fatalf("left: leases %v, users %v", leases, users)
	}
	left, err := s.bed.Vault.Client.Logical().WriteWithContext(t.Context(), "sys/leases/lookup", map[string]any{"lease_id": leases[0]})
	check(t, err)
	if ttl, err := left.Data["ttl"].(json.Number).Int64(); err != nil || ttl < 59*60 {
		t.Errorf("the lease lasts %d seconds more, error %v", ttl, err)
	}
	check(t, s.bed.Vault.Client.Sys().RevokeWithContext(t.Context(), leases[0]))
	s.waitNothingLeft(t)
}

// crash runs the service in a process of its own, renewing its lease for longer than one lasts, and kills it. It returns
// when.
func (s *service) crash(t *testing.T, params string) (killed time.Time) {
	t.Helper()
	program, err := os.Executable()
	check(t, err)
	command := exec.CommandContext(t.Context(), program)
	command.Env = append(os.Environ(), crasher+"="+s.connString(params))
	command.Stderr = t.Output()
	output, err := command.StdoutPipe()
	check(t, err)
	check(t, command.Start())
	lines := bufio.NewScanner(output)
	if !lines.Scan() || lines.Text() != "ready" {
		t.Errorf("the process said %q", lines.Text())
	}
	if params != "" {
		eventually(t, "renewals", func(context.Context) bool { return s.renewals() > 3 })
	}
	check(t, command.Process.Kill())
	killed = time.Now()
	_ = command.Wait() // its error is that it was killed
	return killed
}
