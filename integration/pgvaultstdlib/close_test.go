package pgvaultstdlib_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/pgvault"
	"github.com/vaultpool/vaultpool/rotation"
)

// hazard 18: DB.Close with rows open waits for them, revokes nothing before, and leaves nothing.
func TestHazard18_CloseWithRowsOpen(t *testing.T) {
	t.Parallel()
	s := open(t, setup{configure: func(c *pgvault.Config) { c.Rotation.CloseTimeout = 4 * kit.Patience }})
	const all = 100000 // far more than fits into buffers
	rows, err := s.QueryContext(t.Context(), "SELECT generate_series(1, $1)", all)
	kit.Check(t, err)
	t.Cleanup(func() { _ = rows.Close() })
	if !rows.Next() {
		t.Fatal(rows.Err())
	}
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	kit.Eventually(t, "the DB is closed", func(ctx context.Context) bool { return s.PingContext(ctx) != nil })
	n := 1
	for rows.Next() {
		n++
	}
	if err := rows.Err(); err != nil || n != all {
		t.Errorf("%d rows, not %d: %v", n, all, err)
	}
	if leases, err := s.role.Leases(t.Context()); err != nil || len(leases) != 1 {
		t.Errorf("before the rows are closed there are the leases %v (error %v)", leases, err)
	}
	kit.Check(t, rows.Close())
	kit.Check(t, kit.Receive(t, "the close", closed))
	s.checkNothingLeft(t)
	s.events.None(t, rotation.RevokeFailed, rotation.DrainDeadline)
}

// hazard 11: DB.Close does not wait for ever for what a caller leaked. It ends that at the server, revokes
// the lease, and says so.
func TestHazard11_CloseWithLeaks(t *testing.T) {
	t.Parallel()
	const bound = 2 * time.Second
	s := open(t, setup{mayReport: true, configure: func(c *pgvault.Config) { c.Rotation.CloseTimeout = bound }})
	leaked, err := s.Conn(t.Context())
	kit.Check(t, err)
	defer func() { _ = leaked.Close() }()
	tx, err := s.BeginTx(t.Context(), nil)
	kit.Check(t, err)
	defer func() { _ = tx.Rollback() }()
	insert(t, tx, t.Name())
	kit.Within(t, bound, "the close", func() { err = s.Close() })
	if err == nil || !strings.Contains(err.Error(), "2 connections were still in use") {
		t.Errorf("closing said: %v", err)
	}
	s.checkNothingLeft(t)
	if n := items(t, t.Name()); n != 0 {
		t.Errorf("%d rows of the leaked transaction were committed", n)
	}
}

// hazard 54: what Close could not do it returns: here Vault does not answer the revocation.
func TestClose_ReportsRevocation(t *testing.T) {
	t.Parallel()
	s := open(t, setup{mayReport: true, configure: func(c *pgvault.Config) { c.Rotation.CloseTimeout = time.Second }})
	s.atOnce(t, 2)
	answers := s.vault.Hold("sys/leases/revoke")
	var err error
	kit.Within(t, time.Second, "the close", func() { err = s.Close() })
	if err == nil || !strings.Contains(err.Error(), "revo") {
		t.Errorf("closing said: %v", err)
	}
	answers.Open()
}
