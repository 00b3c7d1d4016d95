//nolint:thelper // these are the cases themselves: what fails is in them
package conformance

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/rotation"
)

var outageCases = []testCase{
	{name: "Hazard10_VaultHangs", run: vaultHangs},
	{name: "Hazard10_ServerHangs", run: serverHangs},
	{name: "Hazard25_VaultAwayForAWhile", run: vaultAwayForAWhile},
	{name: "Hazard26_VaultAwayPastTheEnd", run: vaultAwayPastTheEnd},
	{name: "Hazard27_IssueAnswersLost", run: issueAnswersLost},
	{name: "Hazard48_RotateAbandoned", run: rotateAbandoned},
	{name: "Hazard48_OpenAbandoned", run: openAbandoned},
}

// With Vault hanging and the lease at its end, a caller is back by its deadline, and closing keeps its bound.
func vaultHangs(t *testing.T, a *Adapter) {
	s := open(t, a, setup{
		role: leaseOf(8*time.Second, 8*time.Second), mayReport: true, maxConns: 4,
		rotation: rotation.Config{CloseTimeout: 3 * time.Second},
	})
	held := s.conn(t)
	s.vault.Hold(s.role.CredsPath)
	s.events.Wait(t, rotation.CredentialLost, 1)
	for i := range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		var err error
		kit.Within(t, 300*time.Millisecond, "Conn", func() { _, err = s.Conn(ctx) })
		cancel()
		var none *rotation.NoCredentialError
		late := errors.Is(err, context.DeadlineExceeded) // or it is known by now that waiting is in vain
		if !errors.As(err, &none) || !late && i == 0 {
			t.Errorf("Conn returned %v", err)
		}
	}
	kit.Check(t, s.use(held))
	kit.Check(t, held.Close())
	kit.Within(t, 10*time.Second, "Close", func() { _ = s.close() }) // what it says is not the point here
	s.vault.Heal()
	s.waitNothingLeft(t)
}

// With the server hanging in the middle of a login, a caller is back by its deadline, and nothing is said against the
// credential.
func serverHangs(t *testing.T, a *Adapter) {
	s := open(t, a, setup{wired: true})
	s.wire.gate.ShutFor(1)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	waiting := s.takeAside(ctx)
	s.wire.gate.Queue(t, 1)
	if got := kit.Receive(t, "the caller's error", waiting); got.err == nil || ctx.Err() == nil {
		t.Errorf("a connection in the middle of its login; error %v", got.err)
	}
	s.wire.gate.Open()
	s.checkRotates(t)
	s.events.None(t, rotation.LoginRefused)
}

// While Vault is away for less than the lease lasts, everything goes on, Vault is asked at a bounded rate, and
// afterwards the lease is renewed or replaced.
func vaultAwayForAWhile(t *testing.T, a *Adapter) {
	const asked = 2 * time.Second // to be left alone
	for _, fault := range []vaultFault{
		sealed,
		{status: http.StatusTooManyRequests, header: map[string]string{"Retry-After": "2"}, body: `{"errors":["rate limit quota exceeded"]}`},
	} {
		t.Run(http.StatusText(fault.status), func(t *testing.T) {
			t.Parallel()
			s := open(t, a, setup{role: leaseOf(24*time.Second, time.Hour), rotation: rotation.Config{DrainTimeout: 4 * time.Second}})
			s.fill(t, 3)
			l := s.load(t, 3)
			s.faults.set(fault)
			before := len(s.vault.Asked(""))
			failed := s.events.WaitN(t, rotation.RenewFailed, 1, 2) // after 15 to 17 s
			if pause := failed[1].Time.Sub(failed[0].Time); fault.header != nil && pause < asked {
				t.Errorf("it was asked again after %v", pause)
			}
			l.progress(t)
			s.faults.set()
			kit.Eventually(t, "a lease again", func(context.Context) bool {
				return len(s.events.Of(rotation.Renewed, 0))+len(s.events.Of(rotation.Published, 0)) > 0
			})
			l.progress(t)
			if n := len(s.vault.Asked("")) - before; n > 20 {
				t.Errorf("Vault was asked %d times in some seconds", n)
			}
			l.end()
			s.checkInTime(t)
		})
	}
}

// When it is away for longer than that, open connections go on, new ones fail at once with an error that says since
// when and why, and Vault is asked at a bounded rate. It recovers by itself.
func vaultAwayPastTheEnd(t *testing.T, a *Adapter) {
	s := open(t, a, setup{role: leaseOf(8*time.Second, 8*time.Second), wired: true, maxConns: 4})
	held, alsoHeld := s.conn(t), s.conn(t)
	s.faults.set(sealed)
	start, before := time.Now(), len(s.vault.Asked(""))
	lost := s.events.Wait(t, rotation.CredentialLost, 1)
	kit.Check(t, s.use(held))
	dialled := s.wire.dials.Load()
	var none *rotation.NoCredentialError
	kit.Eventually(t, "an error at once", func(context.Context) bool {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		_, err := s.Conn(ctx)
		if err == nil {
			t.Fatal("a connection without a credential")
		}
		return ctx.Err() == nil && errors.As(err, &none)
	})
	if none.Since.Before(start) || none.Since.After(time.Now()) || none.Reason != lost.Reason || none.Unwrap() == nil {
		t.Errorf("the error says since %v, because %q: %v", none.Since, none.Reason, none.Unwrap())
	}
	if n := s.wire.dials.Load() - dialled; n > 0 {
		t.Errorf("the database was dialled %d times without a credential", n)
	}
	kit.Check(t, s.use(held))
	asked, away := len(s.vault.Asked(""))-before, time.Since(start)
	if limit := 10 + int(away/time.Second); asked > limit {
		t.Errorf("Vault was asked %d times in %v", asked, away)
	}
	s.faults.set()
	s.events.Wait(t, rotation.CredentialBack, 0)
	kit.Check(t, held.Close())
	kit.Check(t, alsoHeld.Close())
	if user, _ := s.whoAmI(t, s); user != s.user() {
		t.Errorf("served by %s", user)
	}
	s.insert(t, s, t.Name())
	s.events.None(t, rotation.LoginRefused)
}

// Answers of issues are lost. Each may have made a user that we know nothing of: there is one more attempt per step
// of the backoff, and Vault ends what is left.
func issueAnswersLost(t *testing.T, a *Adapter) {
	const lost = 3
	s := open(t, a, setup{role: leaseOf(12*time.Second, 12*time.Second)})
	s.vault.Lose(s.role.CredsPath, lost)
	s.events.Wait(t, rotation.Published, 2)
	if n := s.issues(); n != 1+lost+1 {
		t.Errorf("%d credentials were asked for, where %d answers were lost", n, lost)
	}
	failed := s.events.Of(rotation.IssueFailed, 0)
	if len(failed) != lost {
		t.Errorf("%d failed issues were reported, not %d", len(failed), lost)
	}
	for i, e := range failed {
		if e.Attempt != i+1 || !e.RetryAt.After(e.Time) {
			t.Errorf("attempt %d is to be followed at once", e.Attempt)
		}
	}
	kit.Check(t, s.PingContext(t.Context()))
	kit.Check(t, s.close())
	s.waitNothingLeft(t)
}

// Whoever asked for a rotation goes away while Vault is at it. It goes on, and is used.
func rotateAbandoned(t *testing.T, a *Adapter) {
	s := open(t, a, setup{})
	old, _ := s.whoAmI(t, s)
	answers := s.vault.Hold(s.role.CredsPath)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	var err error
	kit.Within(t, 200*time.Millisecond, "Rotate", func() { err = s.Rotator.Rotate(ctx) })
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Rotate returned %v", err)
	}
	answers.Open()
	s.events.Wait(t, rotation.Published, 2)
	s.waitRevoked(t, 1, old)
	if n := s.issues(); n != 2 {
		t.Errorf("%d credentials were asked for, not 2", n)
	}
}

// The context of opening ends while Vault is at it. It is back at once, and what comes later is given back.
func openAbandoned(t *testing.T, a *Adapter) {
	s := prepare(t, a, setup{})
	answers := s.vault.Hold(s.role.CredsPath)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	var err error
	kit.Within(t, 300*time.Millisecond, "opening", func() { _, err = a.Open(ctx, s.options) })
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no credential was issued in time") {
		t.Errorf("it returned %v", err)
	}
	answers.Queue(t, 1)
	users, err := s.role.Users(t.Context())
	kit.Check(t, err)
	if len(users) != 1 {
		t.Errorf("Vault has made %d users, where one was asked for", len(users))
	}
	answers.Open()
	s.waitNothingLeft(t)
	kit.Eventually(t, "one revocation", func(context.Context) bool { return s.revocations() == 1 }) // counted when it is answered
}
