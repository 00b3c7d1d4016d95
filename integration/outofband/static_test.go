//nolint:thelper // what is given to onBoth and its like are the tests themselves
package outofband_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/rotation"
)

// staticRole is a user of the database's whose password Vault changes.
type staticRole struct {
	user, path string
}

// newStaticRole makes a user and has Vault change its password every period.
func newStaticRole(t *testing.T, db database, period time.Duration) staticRole {
	t.Helper()
	name := uniqueName()
	r := staticRole{user: name, path: bed.Vault.Mount + "/static-creds/" + name}
	db.createUser(t, r.user, "until Vault changes it")
	t.Cleanup(func() { db.dropUser(t, r.user) })
	definition := bed.Vault.Mount + "/static-roles/" + name
	_, err := bed.Vault.Client.Logical().WriteWithContext(t.Context(), definition, map[string]any{
		"db_name": db.connection(), "username": r.user, "rotation_period": fmt.Sprint(int(period.Seconds())),
	})
	kit.Check(t, err)
	t.Cleanup(func() {
		_, err := bed.Vault.Client.Logical().DeleteWithContext(context.WithoutCancel(t.Context()), definition)
		kit.Check(t, err)
	})
	return r
}

// rotateNow has Vault change the password before its time.
func (r staticRole) rotateNow(t *testing.T) {
	t.Helper()
	_, err := bed.Vault.Client.Logical().WriteWithContext(t.Context(), bed.Vault.Mount+"/rotate-role/"+r.user, nil)
	kit.Check(t, err)
}

// lastChange is when Vault changed the password.
func (r staticRole) lastChange(t *testing.T) time.Time {
	t.Helper()
	secret, err := bed.Vault.Client.Logical().ReadWithContext(t.Context(), r.path)
	kit.Check(t, err)
	at, err := time.Parse(time.RFC3339Nano, secret.Data["last_vault_rotation"].(string))
	kit.Check(t, err)
	return at
}

// hazard 39: a pool on a static role, as a program configures it, by the string alone, through four of Vault's own
// rotations. No call fails, and the connections that are open stay.
func TestHazard39_StaticRoleUnderLoad(t *testing.T) {
	onBoth(t, func(t *testing.T, db database) {
		r := newStaticRole(t, db, 5*time.Second)
		s := open(t, db, setup{path: r.path, poolOptions: poolOptions{plain: true}})
		h, err := s.hold(t.Context())
		kit.Check(t, err)
		id, _ := who(t, h)
		l := startLoad(t, s)
		reasons := map[string]int{}
		var late []time.Duration
		for n := 1; n <= 4; n++ {
			e := s.events.WaitN(t, rotation.Published, 0, n)[n-1]
			reasons[e.Reason]++
			late = append(late, e.Time.Sub(r.lastChange(t)))
			l.goesOn(t, 20)
		}
		l.end(t)
		if now, user := who(t, h); now != id || user != r.user {
			t.Errorf("the connection that is held is now session %d of %s, not %d", now, user, id)
		}
		h.release()
		s.noLeaseTouched(t)
		s.events.None(t, rotation.Rejected, rotation.DrainDeadline, rotation.SessionsEnded)
		middle, most := median(late)
		t.Logf("published for %v, %v after Vault's rotation, at most %v", reasons, middle, most)
	})
}

// hazard 39: a pool that makes no logins notices at the refresh. No session of its is touched: the old generations stay,
// without a deadline, until their connections are closed.
func TestHazard39_StaticRoleConnectionsStay(t *testing.T) {
	onBoth(t, func(t *testing.T, db database) {
		r := newStaticRole(t, db, 5*time.Second)
		s := open(t, db, setup{path: r.path, poolOptions: poolOptions{warm: true}})
		one, err := s.hold(t.Context()) // the other three are idle
		kit.Check(t, err)
		before := ids(t, db, r.user)
		for n := 1; n <= 3; n++ {
			if e := s.events.WaitN(t, rotation.Published, 0, n)[n-1]; e.Reason != "refresh" {
				t.Errorf("generation %d was published for %q", e.Generation, e.Reason)
			}
			for range 10 {
				kit.Check(t, s.read(t.Context()))
				kit.Check(t, s.write(t.Context()))
			}
		}
		s.events.None(t, rotation.LoginRefused, rotation.IssueFailed)
		if after := ids(t, db, r.user); fmt.Sprint(after) != fmt.Sprint(before) {
			t.Errorf("the sessions were %v and are %v", before, after)
		}
		first := s.status().Generations[0]
		if first.Generation != 1 || first.State != rotation.StateDraining || first.Dead || first.Connections != 4 || !first.DrainBy.IsZero() {
			t.Errorf("the first generation is now %+v", first)
		}
		s.noLeaseTouched(t)

		// They go as they would anyway.
		one.release()
		kit.Eventually(t, "the first connections closed", func(ctx context.Context) bool {
			kit.Check(t, s.reconnect(ctx))
			return s.status().Generations[0].Generation > 1
		})
		s.events.Wait(t, rotation.Drained, 1)
		s.noLeaseTouched(t)
	})
}

// ids lists the sessions of a user.
func ids(t *testing.T, db database, user string) (all []int) {
	t.Helper()
	sessions, err := db.sessions(t.Context(), user)
	kit.Check(t, err)
	for _, s := range sessions {
		all = append(all, s.PID)
	}
	return all
}

// hazard 39: the password is changed long before its time, which nobody announces. The first login that is refused
// shows it; its caller does not notice.
func TestHazard39_StaticRoleRotatedUnannounced(t *testing.T) {
	onBoth(t, func(t *testing.T, db database) {
		r := newStaticRole(t, db, time.Hour)
		s := open(t, db, setup{path: r.path})
		h, err := s.hold(t.Context())
		kit.Check(t, err)
		defer h.release()
		id, _ := who(t, h)
		l := startLoad(t, s)
		var healed []time.Duration
		for n := uint64(1); n <= 4; n++ {
			l.goesOn(t, 20)
			began := time.Now()
			r.rotateNow(t)
			e := s.events.Wait(t, rotation.Published, n+1)
			if e.Reason != "login refused" {
				t.Errorf("generation %d was published for %q", n+1, e.Reason)
			}
			healed = append(healed, e.Time.Sub(began))
			l.goesOn(t, 50)
			if current := s.status().Generation; current != n+1 || s.published() != int(n) {
				t.Errorf("change %d led to generation %d after %d rotations", n, current, s.published())
			}
			if len(s.events.Of(rotation.LoginRefused, n)) != 1 {
				t.Errorf("refused logins:\n%s", kit.List(s.events.Of(rotation.LoginRefused, n)))
			}
		}
		l.end(t)
		if now, _ := who(t, h); now != id {
			t.Errorf("the connection that is held is now session %d, not %d", now, id)
		}
		s.noLeaseTouched(t)
		middle, most := median(healed)
		t.Logf("healed after %v, at most %v", middle, most)
	})
}

// hazard 39: what Vault has answered just before it changed the password is of no use, and not taken for an answer. The
// next one is, and no call fails.
func TestHazard39_AnswerFromBeforeTheRotation(t *testing.T) {
	onBoth(t, func(t *testing.T, db database) {
		r := newStaticRole(t, db, time.Hour)
		s := open(t, db, setup{path: r.path})
		kit.Check(t, s.read(t.Context()))
		answers := s.vault.Hold(r.path)
		rotated := make(chan error, 1)
		go func() { rotated <- s.Rotator().Rotate(t.Context()) }()
		answers.Queue(t, 1)
		r.rotateNow(t)
		connected := make(chan error, 1)
		go func() { // the first closes the connection that is open, the second is refused
			err := s.reconnect(t.Context())
			if err == nil {
				err = s.reconnect(t.Context())
			}
			connected <- err
		}()
		s.events.Wait(t, rotation.LoginRefused, 1)
		answers.Open()
		s.events.Wait(t, rotation.IssueFailed, 1)
		kit.Check(t, kit.Receive(t, "the connect", connected))
		if err := kit.Receive(t, "Rotate", rotated); err == nil {
			t.Error("Rotate has brought the password that is refused, and says that all is well")
		}
		if e := s.events.Wait(t, rotation.Published, 2); e.Reason != "login refused" || s.published() != 1 {
			t.Errorf("generation 2 was published for %q, one of %d", e.Reason, s.published())
		}
		s.noLeaseTouched(t)
	})
}
