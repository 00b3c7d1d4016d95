//nolint:thelper // what is given to onBoth and its like are the tests themselves
package outofband_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/rotation"
)

// warmUp opens a pool all of whose connections are open and stay, and has it work.
func warmUp(t *testing.T, db database, set setup) (*service, *load) {
	t.Helper()
	set.warm = true
	s := open(t, db, set)
	l := startLoad(t, s)
	l.goesOn(t, 50)
	return s, l
}

// checkedGone waits until a check has found the lease of generation 1 gone, and it is healed. Nobody was refused a login.
// Checks before that have found it in order: Vault drops the user first, and forgets the lease then.
func (s *service) checkedGone(t *testing.T, l *load, code string) {
	t.Helper()
	s.events.Wait(t, rotation.Revoked, 1)
	l.goesOn(t, 50)
	if e := s.events.Wait(t, rotation.Published, 2); e.Reason != "lease is gone" {
		t.Errorf("generation 2 was published for %q", e.Reason)
	}
	s.events.None(t, rotation.LoginRefused, rotation.CredentialLost)
	checked := s.events.Of(rotation.LeaseChecked, 0)
	for i, e := range checked {
		if last := i == len(checked)-1; e.Generation != 1 || !strings.Contains(e.Reason, code) ||
			last && !errors.Is(e.Err, rotation.ErrLeaseGone) || !last && e.Err != nil {
			t.Errorf("check %d of %d, for %q, found %v", i+1, len(checked), e.Reason, e.Err)
		}
	}
	if n := s.checks(); n == 0 || n != len(checked) {
		t.Errorf("Vault was asked for the lease %d times, and %d checks were reported", n, len(checked))
	}
	s.rotatedOnce(t, 1)
	s.deniedUntilHealed(t, l)
}

// deniedUntilHealed takes the load's denials: there were some, and none of a call that began later.
func (s *service) deniedUntilHealed(t *testing.T, l *load) {
	t.Helper()
	dead := s.events.Wait(t, rotation.Draining, 1).Time
	denials := l.takeDenials()
	if len(denials) == 0 {
		t.Error("nobody was denied anything: who noticed?")
		return
	}
	for _, d := range denials {
		if d.began.After(dead) {
			t.Errorf("a call was denied that began %v after the healing", d.began.Sub(dead))
		}
	}
	t.Logf("%d calls denied, over after %v", len(denials), denials[len(denials)-1].ended.Sub(denials[0].began).Round(time.Millisecond))
}

// hazard 46: a pool that makes no logins learns from what its live sessions are denied that its lease is gone.
func TestHazard46_WarmPool(t *testing.T) {
	t.Parallel()
	s, l := warmUp(t, postgres{}, setup{})
	s.revokeLease(t)
	s.checkedGone(t, l, "42501")
}

// hazard 46: MariaDB denies the sessions of a user who is gone what was granted on tables.
func TestHazard46_WarmPoolOfGrantsOnTables(t *testing.T) {
	t.Parallel()
	s, l := warmUp(t, mariadb{}, setup{role: testbed.RoleOptions{Create: []string{`
		CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}';
		GRANT SELECT, INSERT ON ` + bed.MariaDB.Database + `.items TO '{{name}}'@'%';`}}})
	s.revokeLease(t)
	s.checkedGone(t, l, "1142")
}

// hazard 35: what was granted on a database the sessions keep when MariaDB drops their user. A pool that makes no logins
// is not harmed, and learns of it from the next renewal.
func TestHazard35_MariaDBSessionsOutliveTheirUser(t *testing.T) {
	t.Parallel()
	s, l := warmUp(t, mariadb{}, setup{role: testbed.RoleOptions{DefaultTTL: 15 * time.Second, MaxTTL: time.Hour}})
	s.events.Wait(t, rotation.Renewed, 1) // so that the next one is some seconds off
	s.revokeLease(t)
	if users, err := s.role.Users(t.Context()); err != nil || len(users) > 0 {
		t.Fatalf("there are users %v (error %v)", users, err)
	}
	l.goesOn(t, 100) // reads and writes
	s.events.None(t, rotation.LeaseChecked, rotation.LoginRefused)
	if failed := s.events.Wait(t, rotation.RenewFailed, 1); !errors.Is(failed.Err, rotation.ErrLeaseGone) {
		t.Errorf("the renewal failed with %v", failed.Err)
	}
	s.events.Wait(t, rotation.Revoked, 1)
	if e := s.events.Wait(t, rotation.Published, 2); e.Reason != "lease is gone" || len(s.events.Of(rotation.RenewFailed, 1)) != 1 {
		t.Errorf("generation 2 was published for %q, after %d renewals failed", e.Reason, len(s.events.Of(rotation.RenewFailed, 1)))
	}
	l.goesOn(t, 50)
	s.events.None(t, rotation.LeaseChecked, rotation.LoginRefused)
	s.rotatedOnce(t, 1)
}

// hazards 35, 36: a token that may not look up leases. A login is tried instead, and refused.
func TestHazard46_WarmPoolWithoutLookup(t *testing.T) {
	t.Parallel()
	s, l := warmUp(t, postgres{}, setup{policy: withoutLookup, token: func(r *api.TokenCreateRequest) { r.NoDefaultPolicy = true }})
	s.revokeLease(t)
	checked := s.events.Wait(t, rotation.LeaseChecked, 1)
	if !errors.Is(checked.Err, rotation.ErrDenied) || !strings.Contains(checked.Err.Error(), `path "sys/leases/lookup"`) {
		t.Errorf("the check ended with %v, which does not say what the policy lacks", checked.Err)
	}
	s.events.Wait(t, rotation.Revoked, 1)
	l.goesOn(t, 50)
	if refused := s.events.Of(rotation.LoginRefused, 1); len(refused) != 1 || !strings.Contains(refused[0].Err.Error(), "28P01") {
		t.Errorf("refused logins:\n%s", kit.List(refused))
	}
	s.rotatedOnce(t, 1)
	s.deniedUntilHealed(t, l)
}

func withoutLookup(policy string) string {
	var kept []string
	for line := range strings.Lines(policy) {
		if !strings.Contains(line, "sys/leases/lookup") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "")
}

// hazard 35: the user is dropped, and Vault does not know. What the sessions are denied is checked, and the lease is in
// order; a login is what shows it, here the first that a caller needs.
func TestHazard35_WarmPoolBesideVault(t *testing.T) {
	t.Parallel()
	s, l := warmUp(t, postgres{}, setup{})
	old := s.status().User
	s.db.dropUser(t, old)
	for _, e := range s.events.WaitN(t, rotation.LeaseChecked, 1, 2) {
		if e.Err != nil {
			t.Errorf("the lease, which exists, was checked and found %v", e.Err)
		}
	}
	s.events.None(t, rotation.Published, rotation.LoginRefused)
	kit.Eventually(t, "a connection closed and another one opened", func(ctx context.Context) bool {
		err := s.reconnect(ctx) // closes one of them, if it is not denied its query
		if err != nil && !s.db.isDenied(err) {
			t.Fatal(err)
		}
		h, err := s.hold(ctx)
		kit.Check(t, err)
		kit.Check(t, h.(pgHeld).Conn.Conn().Close(ctx)) // this one certainly
		h.release()
		return s.published() > 0
	})
	s.events.Wait(t, rotation.Revoked, 1)
	l.goesOn(t, 50)
	s.rotatedOnce(t, 1)
	s.deniedUntilHealed(t, l)
}

// hazard 46: the token is revoked before there is another one. Calls that need a login fail then and say why; with the
// new token all is well again, after one rotation.
func TestHazard46_TokenRevokedBeforeTheNextIsThere(t *testing.T) {
	onBoth(t, func(t *testing.T, db database) {
		s := open(t, db, setup{})
		kit.Check(t, s.read(t.Context()))
		kit.Check(t, bed.Vault.Client.Auth().Token().RevokeTreeWithContext(t.Context(), s.token))
		kit.Eventually(t, "the user is gone", func(ctx context.Context) bool {
			users, err := s.role.Users(ctx)
			kit.Check(t, err)
			return len(users) == 0
		})
		for !isNoCredential(s.reconnect(t.Context())) { // the first closes an open connection
			if t.Context().Err() != nil {
				t.Fatal("connects did not fail")
			}
		}
		failed := s.events.Wait(t, rotation.IssueFailed, 0)
		if !errors.Is(failed.Err, rotation.ErrDenied) || !strings.Contains(failed.Err.Error(), "the token has ended") {
			t.Errorf("the issue failed with %v", failed.Err)
		}
		s.giveToken(t, s.newToken(t))
		s.events.Wait(t, rotation.Revoked, 1)
		for range 5 {
			kit.Check(t, s.reconnect(t.Context()))
			kit.Check(t, s.write(t.Context()))
		}
		if id, n := s.status().Generation, s.published(); id != 2 || n != 1 {
			t.Errorf("generation %d after %d rotations", id, n)
		}
	})
}

func isNoCredential(err error) bool {
	var none *rotation.NoCredentialError
	return errors.As(err, &none)
}
