package pgvault_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/jackc/pgx/v5"

	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/pgvault"
	"github.com/vaultpool/vaultpool/rotation"
)

// checkInTime: every generation was replaced before its lease ended, so that there was a credential at
// any time.
func (s *service) checkInTime(t *testing.T) {
	t.Helper()
	s.events.None(t, rotation.CredentialLost, rotation.LoginRefused, rotation.RevokeAbandoned)
}

// hazard 19: near its ceiling a lease is replaced in time, after few renewals, and not renewed ever
// shorter.
func TestHazard19_LeaseCeiling(t *testing.T) {
	t.Parallel()
	s := open(t, setup{role: leaseOf(12*time.Second, 30*time.Second)})
	check(t, s.Ping(t.Context()))
	id := uint64(1)
	e := s.events.Wait(t, rotation.Published, 2)
	if len(s.events.Of(rotation.RenewFailed, 1)) > 0 { // Vault took too long, on a busy machine: once more
		id = 2
		e = s.events.Wait(t, rotation.Published, 3)
	}
	if e.Reason != "lease ceiling" {
		t.Errorf("generation %d was published for %q, not because the ceiling was near", e.Generation, e.Reason)
	}
	// 12 s each of 30 s: after 8, 16 and perhaps 24 s, the last of them cut short.
	if n := len(s.events.Of(rotation.Renewed, id)); n < 1 || n > 4 || s.renewals() > 4*int(id) {
		t.Errorf("generation %d was renewed %d times, and %d renewals were asked for", id, n, s.renewals())
	}
	s.events.Wait(t, rotation.Revoked, id)
	check(t, s.Ping(t.Context()))
	if lost := s.events.Of(rotation.CredentialLost, id); len(lost) > 0 {
		t.Errorf("it was not replaced in time:\n%s", list(lost))
	}
}

// hazard 20: a lease that cannot be renewed is replaced in time, and no renewal is tried. No role or
// token makes Vault's own database engine say so, as others do: the proxy says it instead.
func TestHazard20_NotRenewable(t *testing.T) {
	t.Parallel()
	s := prepare(t, setup{role: leaseOf(16*time.Second, time.Hour)})
	s.vault.Rewrite(s.role.CredsPath, `"renewable":true`, `"renewable":false`)
	s.start(t)
	check(t, s.Ping(t.Context()))
	if e := s.events.Wait(t, rotation.Published, 2); e.Reason != "lease end" {
		t.Errorf("generation 2 was published for %q, not because its lease ends", e.Reason)
	}
	check(t, s.Ping(t.Context()))
	if n := s.renewals(); n != 0 {
		t.Errorf("%d renewals were asked for", n)
	}
	s.checkInTime(t)
}

// hazard 21: when a renewal says that the lease is gone, it is replaced at once.
func TestHazard21_RenewLeaseGone(t *testing.T) {
	t.Parallel()
	s := open(t, setup{role: leaseOf(12*time.Second, time.Hour)})
	old := s.Rotator().Status().User
	held := s.acquire(t)
	leases, err := s.role.Leases(t.Context())
	check(t, err)
	if len(leases) != 1 {
		t.Fatalf("there are %d leases, not 1", len(leases))
	}
	check(t, s.bed.Vault.Client.Sys().RevokeWithOptionsWithContext(t.Context(), &api.RevokeOptions{LeaseID: leases[0], Sync: true}))
	if e := s.events.Wait(t, rotation.RenewFailed, 1); !errors.Is(e.Err, rotation.ErrLeaseGone) {
		t.Errorf("the renewal failed with %v", e.Err)
	}
	e := s.events.Wait(t, rotation.Published, 2)
	if e.Reason != "lease is gone" {
		t.Errorf("generation 2 was published for %q", e.Reason)
	}
	if n := len(s.events.Of(rotation.RenewFailed, 1)); n != 1 {
		t.Errorf("%d renewals were tried of a lease that is gone", n)
	}
	// The credential is dead: its connections are not handed out again.
	held.Release()
	if user := s.acquire(t).Conn().Config().User; user == old {
		t.Errorf("handed out a connection of %s, whose lease is gone", old)
	}
	s.events.Wait(t, rotation.Revoked, 1)
}

// hazard 22: while the database cannot prolong the user, renewals are tried again, not too often, until
// it is time to rotate. Then the next lease is renewed as if nothing had been.
func TestHazard22_RenewFailsAtTheDatabase(t *testing.T) {
	t.Parallel()
	options := leaseOf(16*time.Second, time.Hour, noRenewal)
	s := open(t, setup{role: options})
	check(t, s.Ping(t.Context()))
	s.events.WaitN(t, rotation.RenewFailed, 1, 2)
	options.Renew = nil
	s.updateRole(t, options)
	s.events.Wait(t, rotation.Renewed, 0)
	published := s.events.Of(rotation.Published, 0)
	if len(published) > 1 || len(published) == 1 && published[0].Reason != "renewal keeps failing" {
		t.Errorf("rotations:\n%s", list(published))
	}
	for _, e := range s.events.Of(rotation.RenewFailed, 0) {
		if !strings.Contains(e.Err.Error(), "division by zero") {
			t.Errorf("a renewal failed with %v, which does not say what the database said", e.Err)
		}
	}
	s.checkInTime(t)
}

// hazard 22: if it never can, the lease is replaced before it ends, after a bounded number of attempts.
func TestHazard22_RenewNeverWorks(t *testing.T) {
	t.Parallel()
	s := open(t, setup{role: leaseOf(16*time.Second, time.Hour, noRenewal)})
	check(t, s.Ping(t.Context()))
	if e := s.events.Wait(t, rotation.Published, 2); e.Reason != "renewal keeps failing" {
		t.Errorf("generation 2 was published for %q", e.Reason)
	}
	if n := len(s.events.Of(rotation.RenewFailed, 1)); n < 2 || n > 12 {
		t.Errorf("%d renewals of generation 1 failed", n)
	}
	check(t, s.Ping(t.Context()))
	s.checkInTime(t)
}

// hazard 33: a token that may not revoke. It is reported, with what the policy lacks, and tried again;
// the pool goes on.
func TestHazard33_RevokeDenied(t *testing.T) {
	t.Parallel()
	s := prepare(t, setup{})
	full := s.role.Policy
	token, err := s.bed.Vault.Token(t.Context(), withoutRevocation(full), time.Hour)
	check(t, err)
	s.giveToken(t, token)
	s.config.Vault.TokenFile = s.tokenFile
	s.start(t)
	old := sessionUser(t, s)
	s.rotate(t)
	for _, e := range s.events.WaitN(t, rotation.RevokeFailed, 1, 2) {
		if !errors.Is(e.Err, rotation.ErrDenied) || !strings.Contains(e.Err.Error(), "sys/leases/revoke/"+s.role.CredsPath+"/*") {
			t.Errorf("the revocation failed with %v, which does not say what the policy lacks", e.Err)
		}
	}
	if !s.hasUser(t, old) {
		t.Error("the user is gone, although the lease could not be revoked")
	}
	check(t, s.Ping(t.Context()))
	if n := s.Rotator().Status().Unrevoked; n != 2 {
		t.Errorf("%d leases are counted as unrevoked, not 2", n)
	}
	secret, err := s.bed.Vault.ClientWithToken(token).Auth().Token().LookupSelfWithContext(t.Context())
	check(t, err)
	for _, policy := range secret.Data["policies"].([]any) {
		if name := policy.(string); name != "default" {
			check(t, s.bed.Vault.Client.Sys().PutPolicyWithContext(t.Context(), name, full))
		}
	}
	s.waitRevoked(t, 1, old)
	s.rotate(t)
}

// withoutRevocation takes the lines about revocation out of a policy.
func withoutRevocation(policy string) string {
	var kept []string
	for line := range strings.Lines(policy) {
		if !strings.Contains(line, "sys/leases/revoke") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "")
}

// hazard 33: PostgreSQL does not drop a user who owns something. It is reported, with what the database
// says, and tried again; the pool goes on.
func TestHazard33_RevokeFailsAtTheDatabase(t *testing.T) {
	t.Parallel()
	s := open(t, setup{})
	s.updateRole(t, testbed.RoleOptions{Revoke: []string{`REVOKE CREATE ON SCHEMA public FROM "{{name}}"; DROP ROLE "{{name}}"`}})
	old := sessionUser(t, s)
	table := pgx.Identifier{"owned_" + s.role.Name}.Sanitize()
	check(t, s.bed.Postgres.Exec(t.Context(), "GRANT CREATE ON SCHEMA public TO "+pgx.Identifier{old}.Sanitize()))
	_, err := s.Exec(t.Context(), "CREATE TABLE "+table+" (id int)")
	check(t, err)
	t.Cleanup(func() { check(t, s.bed.Postgres.Exec(context.Background(), "DROP TABLE IF EXISTS "+table)) })
	s.rotate(t)
	for _, e := range s.events.WaitN(t, rotation.RevokeFailed, 1, 2) {
		if !strings.Contains(e.Err.Error(), "2BP01") {
			t.Errorf("the revocation failed with %v, which does not say what the database said", e.Err)
		}
	}
	for range 20 {
		check(t, s.Ping(t.Context()))
	}
	check(t, s.bed.Postgres.Exec(t.Context(), "DROP TABLE "+table))
	s.waitRevoked(t, 1, old)
}

// hazard 33: at Close a lease that the token may not revoke is reported, and nothing is waited for.
func TestHazard33_CloseWithoutTheRight(t *testing.T) {
	t.Parallel()
	s := prepare(t, setup{role: leaseOf(5*time.Second, 5*time.Second)})
	token, err := s.bed.Vault.Token(t.Context(), withoutRevocation(s.role.Policy), time.Hour)
	check(t, err)
	s.config.Vault.TokenFile = ""
	s.giveToken(t, token)
	s.config.Vault.TokenFile = s.tokenFile
	pool, err := pgvault.NewWithConfig(t.Context(), s.config)
	check(t, err)
	check(t, pool.Ping(t.Context()))
	err = pool.Shutdown(t.Context())
	if !errors.Is(err, rotation.ErrDenied) || !strings.Contains(fmt.Sprint(err), "ends by itself") {
		t.Errorf("Shutdown returned %v, which does not say what is left", err)
	}
	s.waitNothingLeft(t) // once Vault has ended it
}
