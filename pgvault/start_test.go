package pgvault

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/vaultpool/vaultpool/rotation"
)

// startPool starts a pool on a fake server, whose source is issue.
func startPool(t *testing.T, answer func(string) (*pgproto3.ErrorResponse, error), issue rotation.SourceFunc) *Pool {
	t.Helper()
	p, err := Start(&Config{
		Config: fakeConfig(t, "db", answer), Source: issue,
		Rotation: rotation.Config{IssueInterval: time.Millisecond, CloseTimeout: 200 * time.Millisecond},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close) // which may find a probe's connection, that the fake server does not end
	return p
}

func lease(user string) (rotation.Credential, rotation.Lease, error) {
	return rotation.NewCredential(user, "p"), rotation.Lease{ID: user, TTL: time.Hour}, nil
}

// Start does not wait for the source; callers do, for as long as their contexts let them, and however many
// give up, the source is asked once.
func TestStart(t *testing.T) {
	answer := make(chan struct{})
	var asked atomic.Int32
	p := startPool(t, accept, func(context.Context) (rotation.Credential, rotation.Lease, error) {
		asked.Add(1)
		<-answer
		return lease("u")
	})
	for range 5 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		_, err := p.Acquire(ctx)
		var none *rotation.NoCredentialError
		if !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &none) {
			t.Errorf("without a credential Acquire returned %v", err)
		}
		cancel()
	}
	close(answer)
	c, err := p.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.Release()
	if n := asked.Load(); n != 1 {
		t.Errorf("the source was asked %d times", n)
	}
}

// MinConns are opened once there is a credential, without a caller.
func TestStart_MinConns(t *testing.T) {
	c := fakeConfig(t, "db", accept)
	c.MinConns, c.HealthCheckPeriod = 1, 10*time.Millisecond
	answer := make(chan struct{})
	p, err := Start(&Config{Config: c, Source: rotation.SourceFunc(func(context.Context) (rotation.Credential, rotation.Lease, error) {
		<-answer
		return lease("u")
	}), Rotation: rotation.Config{CloseTimeout: 200 * time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	if n := p.Stat().IdleConns(); n != 0 {
		t.Errorf("%d connections without a credential", n)
	}
	close(answer)
	for p.Stat().IdleConns() == 0 && t.Context().Err() == nil { // or the test binary's timeout
		time.Sleep(time.Millisecond)
	}
}

// A source that denies is an error at once, which says so once; and the pool recovers when it no longer does.
func TestStart_Denied(t *testing.T) {
	var denied atomic.Bool
	denied.Store(true)
	p := startPool(t, accept, func(context.Context) (rotation.Credential, rotation.Lease, error) {
		if denied.Load() {
			return rotation.Credential{}, rotation.Lease{}, fmt.Errorf("%w: no such luck", rotation.ErrDenied)
		}
		return lease("u")
	})
	_, err := p.Acquire(t.Context())
	if !errors.Is(err, rotation.ErrDenied) || strings.Count(err.Error(), "no such luck") != 1 {
		t.Errorf("Acquire returned: %v", err)
	}
	denied.Store(false)
	if err := p.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	c, err := p.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.Release()
}

// What NewWithConfig would refuse Start and Validate refuse, and the source is not asked.
func TestStart_WrongConfig(t *testing.T) {
	source := rotation.SourceFunc(func(context.Context) (rotation.Credential, rotation.Lease, error) {
		t.Error("the source was asked")
		return lease("u")
	})
	parse := func(params string) *Config {
		c, err := ParseConfig("postgres://db/app" + params)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for name, c := range map[string]*Config{
		"nil":         nil,
		"empty":       {Source: source},
		"no origin":   parse(""),
		"two origins": {Config: parse("").Config, Source: source, Rotator: &rotation.Rotator{}},
		"no CA file":  parse("?vault_path=a/creds/b&vault_token_file=/nowhere&vault_ca_cert=/nowhere"),
	} {
		if err := c.Validate(); err == nil || !strings.HasPrefix(err.Error(), "pgvault: ") {
			t.Errorf("%s: Validate returned %v", name, err)
		}
		if _, err := Start(c); err == nil || !strings.HasPrefix(err.Error(), "pgvault: ") {
			t.Errorf("%s: Start returned %v", name, err)
		}
	}
	if err := (&Config{Config: parse("").Config, Source: source}).Validate(); err != nil {
		t.Errorf("a good config: %v", err)
	}
}

// door is a fake server that refuses so many logins from now on.
type door struct{ refuse atomic.Int32 }

func (d *door) answer(string) (*pgproto3.ErrorResponse, error) {
	if d.refuse.Add(-1) < 0 {
		return nil, nil
	}
	return &pgproto3.ErrorResponse{Severity: "FATAL", Code: "28P01", Message: "password authentication failed"}, nil
}

// Retry calls f again after a refused login, once the rotation is over, with the embedded pool.
func TestRetry(t *testing.T) {
	var issued atomic.Int32
	var server door
	p := startPool(t, server.answer, func(context.Context) (rotation.Credential, rotation.Lease, error) {
		return lease(fmt.Sprint("u", issued.Add(1)))
	})
	idle, err := p.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Release()
	server.refuse.Store(1)
	var outcomes []error
	err = p.Retry(t.Context(), func(pool *pgxpool.Pool) error {
		if pool != p.Pool {
			t.Error("f got another pool")
		}
		c, err := pool.Acquire(t.Context())
		if err == nil {
			c.Release()
		}
		outcomes = append(outcomes, err)
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if n := issued.Load(); n != 2 || len(outcomes) != 2 || !refusedLogin(outcomes[0]) {
		t.Errorf("%d credentials were issued, and f ended with %v", n, outcomes)
	}
}

// Any other error is f's, at once, and so is the last of too many refusals.
func TestRetry_GivesUp(t *testing.T) {
	p := startPool(t, accept, func(context.Context) (rotation.Credential, rotation.Lease, error) { return lease("u") })
	if err := p.Rotator().Await(t.Context()); err != nil {
		t.Fatal(err)
	}
	var refusal door
	refusal.refuse.Store(1)
	for name, failure := range map[string]error{
		"ordinary": errors.New("ordinary"),
		"refused":  connectError(t, "db", refusal.answer),
	} {
		calls := 0
		err := p.Retry(t.Context(), func(*pgxpool.Pool) error { calls++; return failure })
		if want := map[string]int{"ordinary": 1, "refused": 1 + retries}[name]; calls != want || !errors.Is(err, failure) {
			t.Errorf("%s: after %d calls, not %d, the error is %v", name, calls, want, err)
		}
	}
}

// The outer methods allocate nothing of their own.
func TestRetry_Allocations(t *testing.T) {
	p := startPool(t, accept, func(context.Context) (rotation.Credential, rotation.Lease, error) { return lease("u") })
	ctx := t.Context()
	for name, calls := range map[string][2]func(){
		"QueryRow": {
			func() { _ = p.QueryRow(ctx, "SELECT 1").Scan() },
			func() { _ = p.Pool.QueryRow(ctx, "SELECT 1").Scan() },
		},
		"AcquireFunc": {
			func() { _ = p.AcquireFunc(ctx, func(*pgxpool.Conn) error { return nil }) },
			func() { _ = p.Pool.AcquireFunc(ctx, func(*pgxpool.Conn) error { return nil }) },
		},
	} {
		outer, inner := testing.AllocsPerRun(500, calls[0]), testing.AllocsPerRun(500, calls[1])
		if outer > inner {
			t.Errorf("%s makes %v allocations, the embedded pool's %v", name, outer, inner)
		}
	}
}
