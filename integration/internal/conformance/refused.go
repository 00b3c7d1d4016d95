//nolint:thelper // these are the cases themselves: what fails is in them
package conformance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/rotation"
)

var refusedCases = []testCase{
	{name: "Hazard30_SameLeaseAgain", run: sameLeaseAgain},
	{name: "Hazard35_UserDropped", run: userDropped},
	{name: "Hazard36_OrdinaryDenial", run: ordinaryDenial},
	{name: "Hazard45_NoSecretShows", run: noSecretShows},
	{name: "Hazard46_RevokePrefixUnderLoad", run: revokePrefixUnderLoad},
}

// A user who was dropped goes unnoticed by those who are logged in, whatever Ping says; the first refused login
// rotates, and its caller does not see it.
func userDropped(t *testing.T, a *Adapter) {
	s := open(t, a, setup{})
	held := s.conn(t)
	old, _ := s.whoAmI(t, held)
	s.dropUser(t, old)
	kit.Check(t, held.PingContext(t.Context())) // proves nothing
	if id := s.Rotator.Status().Generation; id != 1 {
		t.Fatalf("generation %d without a refused login", id)
	}
	fresh := s.conn(t)
	if user, _ := s.whoAmI(t, fresh); user == old {
		t.Errorf("logged in as %s", user)
	}
	kit.Check(t, held.Close())
	for range 5 { // the connection of the dead generation is not handed out
		if user, _ := s.whoAmI(t, s.conn(t)); user == old {
			t.Fatalf("handed out a connection of %s", user)
		}
	}
	s.events.Wait(t, rotation.Revoked, 1)
	if n := len(s.events.Of(rotation.LoginRefused, 0)); n != 1 {
		t.Errorf("%d refused logins were reported, not 1", n)
	}
	if n := s.issues(); n != 2 {
		t.Errorf("%d credentials were issued, not 2", n)
	}
}

// A statement that lacks a grant is the caller's affair.
func ordinaryDenial(t *testing.T, a *Adapter) {
	s := open(t, a, setup{})
	for range 20 {
		if _, err := s.ExecContext(t.Context(), a.Server.denied); codeOf(err) != a.Server.not {
			t.Fatalf("what is not granted returned %v, not %s", err, a.Server.not)
		}
	}
	s.events.None(t, rotation.LoginRefused, rotation.CredentialLost)
	if id, n := s.Rotator.Status().Generation, s.issues(); id != 1 || n != 1 {
		t.Errorf("generation %d after %d issues: it rotated", id, n)
	}
	kit.Check(t, s.PingContext(t.Context()))
}

// A cache between us and Vault returns the lease that we have: nothing is swapped, and nothing revoked.
func sameLeaseAgain(t *testing.T, a *Adapter) {
	s := prepare(t, a, setup{})
	credential, err := s.role.Issue(t.Context())
	kit.Check(t, err)
	body, err := json.Marshal(map[string]any{
		"lease_id": credential.LeaseID, "lease_duration": int(credential.TTL / time.Second), "renewable": true,
		"data": map[string]string{"username": credential.User, "password": credential.Password},
	})
	kit.Check(t, err)
	s.faults.set(vaultFault{prefix: s.role.CredsPath, status: http.StatusOK, body: string(body)})
	s.start(t)
	if err := s.Rotator.Rotate(t.Context()); err == nil || !strings.Contains(err.Error(), "caching") {
		t.Errorf("Rotate returned %v, which does not say what is wrong", err)
	}
	s.events.Wait(t, rotation.SameLease, 1)
	if user, _ := s.whoAmI(t, s); user != credential.User {
		t.Errorf("logged in as %s, not %s", user, credential.User)
	}
	if n := s.revocations(); n != 0 {
		t.Errorf("%d revocations", n)
	}
	s.events.None(t, rotation.Published, rotation.Draining)
	s.faults.set()
	s.checkRotates(t)
}

// everyWay prints a value in each way that a program may, and what an error wraps.
func everyWay(v any) string {
	encoded, err := json.Marshal(v)
	text := fmt.Sprintf("%v\n%+v\n%#v\n%s\n%q\n%s (%v)\n", v, v, v, v, v, encoded, err)
	switch wrapper := v.(type) {
	case interface{ Unwrap() error }:
		if below := wrapper.Unwrap(); below != nil {
			text += everyWay(below)
		}
	case interface{ Unwrap() []error }:
		for _, below := range wrapper.Unwrap() {
			text += everyWay(below)
		}
	}
	return text
}

// Neither passwords nor the token show in logs, errors, events or status.
func noSecretShows(t *testing.T, a *Adapter) {
	role := leaseOf(20*time.Second, 20*time.Second) // Vault ends what the test keeps from being revoked
	s := open(t, a, setup{
		role:  role,
		wired: true, mayReport: true, rotation: rotation.Config{DrainTimeout: time.Second, CloseTimeout: 4 * time.Second},
	})
	var shown strings.Builder
	show := func(what string, v any) { fmt.Fprintf(&shown, "== %s\n%s\n", what, everyWay(v)) }
	show("driver", s.Driver())
	show("rotator", s.Rotator)

	s.dropUser(t, s.user())
	s.conn(t) // is refused, and waits

	// New logins that are refused, and revocations that fail.
	role.Create = a.Server.createLocked
	s.updateRole(t, role)
	s.faults.set(vaultFault{prefix: revoke, status: http.StatusBadRequest, body: `{"errors":["the test fails it"]}`})
	err := s.Rotator.Rotate(t.Context())
	if err == nil {
		t.Error("rotated to a credential that cannot log in")
	}
	show("rejected rotation", err)
	_, err = a.Open(t.Context(), s.options)
	if err == nil {
		t.Error("opened with a credential that cannot log in")
	}
	show("refused open", err)
	role.Create = nil
	s.updateRole(t, role)
	s.faults.set()

	s.wire.down.Store(true)
	_, err = s.Conn(t.Context())
	show("failed connect", err)
	s.wire.down.Store(false)

	leaked := s.conn(t)
	show("status", s.Rotator.Status())
	show("closing", s.close())
	show("ended", s.use(leaked))
	_, err = s.Conn(context.Background())
	show("closed", err)
	show("status at the end", s.Rotator.Status())
	events, _ := s.events.All()
	for _, e := range events {
		show("event", e)
		show("event's error", e.Err)
		show("event's log value", e.LogValue())
	}
	shown.WriteString(s.logs.String())
	if n := s.vault.SecretsIn(shown.String()); n > 0 {
		t.Errorf("%d secrets are shown", n)
	}
	if n := s.vault.Secrets(); n < 4 {
		t.Errorf("only %d secrets were there to be shown", n)
	}
}

// An operator revokes all leases of the role under load. No connect fails, there is one rotation, and statements that
// live sessions are denied are over with it.
func revokePrefixUnderLoad(t *testing.T, a *Adapter) {
	const workers = 12
	s := open(t, a, setup{maxConns: workers})
	kit.Check(t, s.PingContext(t.Context()))
	var denied, done atomic.Int64
	stop := make(chan struct{})
	var callers sync.WaitGroup
	begin := func(n int) {
		for range n {
			callers.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					switch connected, err := s.useBriefly(); {
					case err == nil:
						done.Add(1)
					case connected && isDenied(err):
						denied.Add(1)
					default:
						t.Errorf("under load: %v (connected: %v)", err, connected)
						return
					}
				}
			})
		}
	}
	end := sync.OnceFunc(func() {
		close(stop)
		callers.Wait()
	})
	t.Cleanup(end)
	begin(2)
	kit.Check(t, a.Server.client.Sys().RevokePrefixWithContext(t.Context(), s.role.CredsPath))
	begin(workers - 2) // who need more connections than there are
	s.events.Wait(t, rotation.Revoked, 1)
	from, before := done.Load(), denied.Load()
	kit.Eventually(t, "the load goes on", func(context.Context) bool { return done.Load() > from+100 })
	end()
	if n := denied.Load() - before; n > 0 {
		t.Errorf("%d statements were denied after the old credential was gone", n)
	}
	if n := len(s.events.Of(rotation.LoginRefused, 0)); n != 1 {
		t.Errorf("%d refused logins were reported, not 1", n)
	}
	if id, n := s.Rotator.Status().Generation, s.issues(); id != 2 || n != 2 {
		t.Errorf("generation %d after %d issues, not 2 after 2", id, n)
	}
	t.Logf("%d statements, %d of them denied to sessions whose user was dropped", done.Load(), denied.Load())
}

// useBriefly takes a connection, reads from a table and keeps the connection for a moment.
func (s *service) useBriefly() (connected bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), kit.Patience)
	defer cancel()
	conn, err := s.Conn(ctx)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	n := 0
	err = conn.QueryRowContext(ctx, s.a.Server.count, "nobody").Scan(&n)
	time.Sleep(2 * time.Millisecond) // in use
	return true, err
}

// isDenied tells what a server says to a live session whose user was dropped.
func isDenied(err error) bool {
	switch codeOf(err) {
	case "42501", "42704", "1142":
		return true
	}
	return false
}
