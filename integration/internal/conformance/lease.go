//nolint:thelper // these are the cases themselves: what fails is in them
package conformance

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/rotation"
)

var leaseCases = []testCase{
	{name: "Hazard19_LeaseCeiling", run: leaseCeiling},
	{name: "Hazard20_NotRenewable", run: notRenewable},
	{name: "Hazard21_RenewLeaseGone", run: renewLeaseGone},
	{name: "Hazard22_RenewFailsAtTheDatabase", run: renewFailsAtTheDatabase},
	{name: "Hazard23_28_RenewDenied", run: renewDenied},
	{name: "Hazard24_RenewEmpty", run: renewEmpty},
	{name: "Hazard33_RevokeFails", run: revokeFails},
	{name: "Hazard41_SlowAnswer", run: slowAnswer},
}

func leaseOf(ttl, ceiling time.Duration) testbed.RoleOptions {
	return testbed.RoleOptions{DefaultTTL: ttl, MaxTTL: ceiling}
}

const (
	renew  = "sys/leases/renew"
	revoke = "sys/leases/revoke"
)

// checkInTime: every generation was replaced before its lease ended, so that there was a credential at any time.
func (s *service) checkInTime(t *testing.T) {
	t.Helper()
	kit.Check(t, s.PingContext(t.Context()))
	s.events.None(t, rotation.CredentialLost, rotation.LoginRefused, rotation.RevokeAbandoned)
}

// Near its ceiling a lease is replaced in time, after few renewals, and not renewed ever shorter.
func leaseCeiling(t *testing.T, a *Adapter) {
	s := open(t, a, setup{role: leaseOf(12*time.Second, 22*time.Second)})
	kit.Check(t, s.PingContext(t.Context()))
	e := s.events.Wait(t, rotation.Published, 2)
	if e.Reason != "lease ceiling" && len(s.events.Of(rotation.RenewFailed, 1)) == 0 {
		t.Errorf("generation 2 was published for %q, not because the ceiling was near", e.Reason)
	}
	// 12 s each of 22 s: after 8 s, perhaps after 16 s, the last of them cut short.
	if n := len(s.events.Of(rotation.Renewed, 1)); n > 3 || s.renewals() > 4 {
		t.Errorf("generation 1 was renewed %d times, and %d renewals were asked for", n, s.renewals())
	}
	s.events.Wait(t, rotation.Revoked, 1)
	s.checkInTime(t)
}

// A lease that cannot be renewed is replaced in time, and no renewal is tried.
func notRenewable(t *testing.T, a *Adapter) {
	s := prepare(t, a, setup{role: leaseOf(16*time.Second, time.Hour)})
	s.vault.Rewrite(s.role.CredsPath, `"renewable":true`, `"renewable":false`)
	s.start(t)
	kit.Check(t, s.PingContext(t.Context()))
	if e := s.events.Wait(t, rotation.Published, 2); e.Reason != "lease end" {
		t.Errorf("generation 2 was published for %q, not because its lease ends", e.Reason)
	}
	if n := s.renewals(); n != 0 {
		t.Errorf("%d renewals were asked for", n)
	}
	s.checkInTime(t)
}

// When a renewal says that the lease is gone, it is replaced at once, and its connections are not handed out again.
func renewLeaseGone(t *testing.T, a *Adapter) {
	s := open(t, a, setup{role: leaseOf(16*time.Second, time.Hour)})
	held := s.conn(t)
	old, _ := s.whoAmI(t, held)
	leases, err := s.role.Leases(t.Context())
	kit.Check(t, err)
	if len(leases) != 1 {
		t.Fatalf("there are %d leases, not 1", len(leases))
	}
	kit.Check(t, s.a.Server.client.Sys().RevokeWithOptionsWithContext(t.Context(), &api.RevokeOptions{LeaseID: leases[0], Sync: true}))
	if e := s.events.Wait(t, rotation.RenewFailed, 1); !errors.Is(e.Err, rotation.ErrLeaseGone) {
		t.Errorf("the renewal failed with %v", e.Err)
	}
	if e := s.events.Wait(t, rotation.Published, 2); e.Reason != "lease is gone" {
		t.Errorf("generation 2 was published for %q", e.Reason)
	}
	if n := len(s.events.Of(rotation.RenewFailed, 1)); n != 1 {
		t.Errorf("%d renewals were tried of a lease that is gone", n)
	}
	kit.Check(t, held.Close())
	for range 3 {
		if user, _ := s.whoAmI(t, s.conn(t)); user == old {
			t.Errorf("handed out a connection of %s, whose lease is gone", old)
		}
	}
	s.events.Wait(t, rotation.Revoked, 1)
}

// While the database cannot prolong the user, renewals are tried again, not too often, until it is time to rotate.
func renewFailsAtTheDatabase(t *testing.T, a *Adapter) {
	s := open(t, a, setup{role: leaseOf(16*time.Second, time.Hour)})
	s.faults.set(vaultFault{
		prefix: renew, status: http.StatusBadRequest,
		body: `{"errors":["failed to renew entry: resp: (*logical.Response)(nil) err: the database is not there for now"]}`,
	})
	kit.Check(t, s.PingContext(t.Context()))
	if e := s.events.Wait(t, rotation.Published, 2); e.Reason != "renewal keeps failing" {
		t.Errorf("generation 2 was published for %q", e.Reason)
	}
	failed := s.events.Of(rotation.RenewFailed, 1)
	if len(failed) < 2 || len(failed) > 12 {
		t.Errorf("%d renewals of generation 1 failed", len(failed))
	}
	for _, e := range failed {
		if !strings.Contains(e.Err.Error(), "not there for now") {
			t.Errorf("a renewal failed with %v, which does not say what the database said", e.Err)
		}
	}
	s.faults.set()
	s.checkInTime(t)
}

// A token that may not renew: there is no waiting for the margin, and no storm of issues either.
func renewDenied(t *testing.T, a *Adapter) {
	s := open(t, a, setup{role: leaseOf(16*time.Second, time.Hour)})
	s.faults.set(vaultFault{prefix: renew, status: http.StatusForbidden, body: `{"errors":["1 error occurred:\n\t* permission denied\n\n"]}`})
	kit.Check(t, s.PingContext(t.Context()))
	for id := uint64(2); id <= 3; id++ {
		if e := s.events.Wait(t, rotation.Published, id); e.Reason != "renewal is denied" {
			t.Errorf("generation %d was published for %q", id, e.Reason)
		}
	}
	issued := s.events.Of(rotation.Issued, 0) // but the first, which was before the recorder
	if len(issued) != 2 || s.issues() != 3 {
		t.Fatalf("%d credentials were issued, in %d requests", len(issued)+1, s.issues())
	}
	if pause := issued[1].Time.Sub(issued[0].Time); pause < 8*time.Second { // a renewal is due after 9.9 s
		t.Errorf("the next one was issued after %v of 16 s", pause)
	}
	// It is tried again while a slow Vault takes its time to issue, but not as one that may succeed.
	if n := s.renewals(); n < 2 || n > 10 {
		t.Errorf("%d renewals were asked for, of two leases", n)
	}
	s.checkInTime(t)
}

// An answer without a body is no renewal.
func renewEmpty(t *testing.T, a *Adapter) {
	s := open(t, a, setup{role: leaseOf(16*time.Second, time.Hour)})
	s.faults.set(vaultFault{prefix: renew, status: http.StatusNoContent})
	s.events.WaitN(t, rotation.RenewFailed, 1, 2)
	s.faults.set()
	kit.Eventually(t, "a lease again", func(context.Context) bool {
		return len(s.events.Of(rotation.Renewed, 0))+len(s.events.Of(rotation.Published, 0)) > 0
	})
	s.checkInTime(t)
	for _, e := range s.events.Of(rotation.Renewed, 1) {
		if e.Time.Before(s.events.Of(rotation.RenewFailed, 1)[1].Time) {
			t.Error("the empty answer was taken for a renewal")
		}
	}
}

// A revocation that fails is reported and tried again; the pool goes on, and the user goes in the end.
func revokeFails(t *testing.T, a *Adapter) {
	for _, fault := range []vaultFault{
		{prefix: revoke, status: http.StatusForbidden, body: `{"errors":["1 error occurred:\n\t* permission denied\n\n"]}`},
		{prefix: revoke, status: http.StatusBadRequest, body: `{"errors":["failed to revoke entry: role cannot be dropped because some objects depend on it (SQLSTATE 2BP01)"]}`},
	} {
		t.Run(http.StatusText(fault.status), func(t *testing.T) {
			t.Parallel()
			s := open(t, a, setup{})
			old, _ := s.whoAmI(t, s)
			s.faults.set(fault)
			s.rotate(t)
			for _, e := range s.events.WaitN(t, rotation.RevokeFailed, 1, 2) {
				denied := fault.status == http.StatusForbidden
				if errors.Is(e.Err, rotation.ErrDenied) != denied || !denied && !strings.Contains(e.Err.Error(), "2BP01") || !e.RetryAt.After(e.Time) {
					t.Errorf("the revocation failed with %v, to be tried again at %v", e.Err, e.RetryAt)
				}
			}
			if !s.hasUser(t, old) {
				t.Error("the user is gone, although the lease was not revoked")
			}
			if user, _ := s.whoAmI(t, s); user == old {
				t.Errorf("still logged in as %s", user)
			}
			if n := s.Rotator.Status().Unrevoked; n != 2 {
				t.Errorf("%d leases are counted as unrevoked, not 2", n)
			}
			s.faults.set()
			s.waitRevoked(t, 1, old)
		})
	}
}

// However late Vault's answer comes, the deadline is not later than the true end.
func slowAnswer(t *testing.T, a *Adapter) {
	s := open(t, a, setup{role: leaseOf(time.Minute, time.Minute)})
	first, err := s.role.Leases(t.Context())
	kit.Check(t, err)
	answers := s.vault.Hold(s.role.CredsPath)
	rotated := make(chan error, 1)
	go func() { rotated <- s.Rotator.Rotate(t.Context()) }()
	answers.Queue(t, 1)
	both, err := s.role.Leases(t.Context())
	kit.Check(t, err)
	time.Sleep(3 * time.Second) // how late it is
	answers.Open()
	kit.Check(t, kit.Receive(t, "Rotate", rotated))
	for _, id := range both {
		if id == first[0] {
			continue
		}
		secret, err := s.a.Server.client.Sys().LookupWithContext(t.Context(), id)
		kit.Check(t, err)
		end, err := time.Parse(time.RFC3339Nano, secret.Data["expire_time"].(string)) //nolint:forcetypeassert // a test
		kit.Check(t, err)
		if known := s.Rotator.Status().Expires; known.After(end) {
			t.Errorf("the lease is taken to end at %v, which is %v too late", known, known.Sub(end))
		}
		return
	}
	t.Fatalf("there is no second lease: %v", both)
}
