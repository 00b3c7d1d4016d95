package rotation

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// What will not help by waiting is returned at once.
func TestNewDenied(t *testing.T) {
	for _, fault := range []error{ErrDenied, ErrInvalid} {
		synctest.Test(t, func(t *testing.T) {
			g := newRig(t, hourLease)
			g.source.onIssue = func(int) error { return fmt.Errorf("reading database/creds/app: %w", fault) }
			err := g.tryStart(context.Background(), g.source, Config{})
			if !errors.Is(err, fault) || !strings.Contains(err.Error(), "database/creds/app") {
				t.Errorf("New: %v", err)
			}
			if strings.Contains(err.Error(), "no usable database credential") {
				t.Errorf("New wraps it in what is obvious: %v", err)
			}
			if time.Since(g.t0) != 0 {
				t.Errorf("it took %v", time.Since(g.t0))
			}
			g.wantCalls(1, 0, 0)
		})
	}
}

// A passing fault is retried until StartTimeout.
func TestNewPassingFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, hourLease)
		g.source.onIssue = func(int) error { return errSealed }
		err := g.tryStart(context.Background(), g.source, Config{})
		if !errors.Is(err, errSealed) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("New: %v", err)
		}
		if d := time.Since(g.t0); d != 30*time.Second {
			t.Errorf("it took %v, want StartTimeout", d)
		}
		if n := len(g.source.issueTimes()); n < 5 || n > 10 {
			t.Errorf("%d issues", n)
		}
		n := len(g.source.issueTimes())
		g.pass(time.Hour)
		if len(g.source.issueTimes()) != n {
			t.Error("it goes on after it failed")
		}
	})
	synctest.Test(t, func(t *testing.T) { // and is over when it passes
		g := newRig(t, hourLease)
		g.source.onIssue = func(n int) error {
			if n < 4 {
				return errSealed
			}
			return nil
		}
		g.start(Config{})
		if d := time.Since(g.t0); d != 1750*time.Millisecond {
			t.Errorf("it took %v", d)
		}
		synctest.Wait()
		g.wantEvents(map[EventKind]int{IssueFailed: 3, Published: 1, CredentialLost: 0, CredentialBack: 0})
	})
}

// ctx bounds the start, and only that.
func TestNewWithinItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, hourLease)
		g.source.onIssue = func(int) error { return errSealed }
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		err := g.tryStart(ctx, g.source, Config{})
		if !errors.Is(err, errSealed) || time.Since(g.t0) != 3*time.Second {
			t.Errorf("New: %v after %v", err, time.Since(g.t0))
		}
	})
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, hourLease)
		ctx, cancel := context.WithCancel(context.Background())
		if err := g.tryStart(ctx, g.source, Config{}); err != nil {
			t.Fatal(err)
		}
		cancel()
		g.at(38 * time.Minute)
		g.wantCalls(1, 1, 0)
		g.wantCurrent(1)
	})
}

// An answer that nobody waits for any more is revoked: one that comes long after
// the start was given up, and one that comes in that very moment, a little before
// and a little after.
func TestHazard48LateFirstAnswerIsRevoked(t *testing.T) {
	for _, late := range []time.Duration{-time.Millisecond, -1, 0, 1, time.Millisecond, time.Hour} {
		for range 20 { // what comes first in the same moment is a matter of luck
			synctest.Test(t, func(t *testing.T) {
				g := newRig(t, hourLease)
				g.source.onIssue = func(int) error { time.Sleep(30*time.Second + late); return nil }
				err := g.tryStart(context.Background(), g.source, Config{})
				if late > 0 && err == nil || late < 0 && err != nil {
					t.Errorf("%v after the timeout: New: %v", late, err)
				}
				if d := time.Since(g.t0); d > 30*time.Second {
					t.Errorf("%v after the timeout: New took %v", late, d)
				}
				g.pass(time.Hour + time.Minute)
				if err == nil {
					g.wantCurrent(1)
				} else {
					g.wantCalls(1, 0, 1)
				}
			})
		}
	}
}

// A revocation of a late answer that fails is tried again, and a panic in it
// harms nobody.
func TestHazard48OrphanIsRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newRig(t, hourLease)
		g.source.onIssue = func(int) error { time.Sleep(time.Minute); return nil }
		g.source.onRevoke = func(_ context.Context, n int, _ Lease) error {
			switch n {
			case 1:
				return errSealed
			case 2:
				panic("in Revoke")
			}
			return nil
		}
		if err := g.tryStart(context.Background(), g.source, Config{}); err == nil {
			t.Fatal("New succeeds without a credential")
		}
		g.pass(5 * time.Minute)
		g.wantCalls(1, 0, 3)
	})
}

// Bad config is an error, never a panic.
func TestNewBadConfig(t *testing.T) {
	source := SourceFunc(func(context.Context) (Credential, Lease, error) { return NewCredential("u", "p"), Lease{}, nil })
	for field, c := range map[string]Config{
		"DrainTimeout":   {DrainTimeout: -1},
		"RenewIncrement": {RenewIncrement: -1},
		"IssueInterval":  {IssueInterval: -1},
		"StartTimeout":   {StartTimeout: -1},
		"ProbeTimeout":   {ProbeTimeout: -1},
		"CloseTimeout":   {CloseTimeout: -1},
		"MaxUnrevoked":   {MaxUnrevoked: 1},
		"source":         {},
	} {
		var s Source = source
		if field == "source" {
			s = nil
		}
		r, err := New(context.Background(), s, c)
		if err == nil || r != nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: New: %v, %v", field, r, err)
		}
	}
}

func TestConfigDefaults(t *testing.T) {
	got, err := Config{}.withDefaults()
	want := Config{
		DrainTimeout: 5 * time.Minute, IssueInterval: time.Second, MaxUnrevoked: 5,
		StartTimeout: 30 * time.Second, ProbeTimeout: 10 * time.Second, CloseTimeout: 10 * time.Second,
	}
	if err != nil || got != want {
		t.Errorf("defaults %+v, %v", got, err)
	}
}

// The public constructor, with the real clock and dice.
func TestNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, err := New(context.Background(), SourceFunc(func(context.Context) (Credential, Lease, error) {
			return NewCredential("app", secretMark), Lease{TTL: time.Hour}, nil
		}), Config{})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Hour)
		if s := r.Status(); s.User != "app" || !s.Usable || s.LeaseLeft <= 0 {
			t.Errorf("status %+v", s)
		}
		if err := r.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
}
