//nolint:thelper // what is given to onBoth and its like are the tests themselves
package outofband_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/rotation"
	"github.com/vaultpool/vaultpool/rotation/vaultsource"
)

// secret is a login that somebody keeps in KV.
type secret struct {
	mount   string
	version int
	fields  [2]string
}

// mountKV mounts KV, with a secret in it.
func mountKV(t *testing.T, version int, fields [2]string, user, password string) secret {
	t.Helper()
	k := secret{mount: uniqueName(), version: version, fields: fields}
	kit.Check(t, bed.Vault.Client.Sys().MountWithContext(t.Context(), k.mount, &api.MountInput{
		Type: "kv", Options: map[string]string{"version": fmt.Sprint(version)},
	}))
	t.Cleanup(func() {
		kit.Check(t, bed.Vault.Client.Sys().UnmountWithContext(context.WithoutCancel(t.Context()), k.mount))
	})
	kit.Eventually(t, "KV is ready", func(ctx context.Context) bool { return k.write(ctx, user, password) == nil })
	return k
}

func (k secret) path() string {
	if k.version == 2 {
		return k.mount + "/data/app"
	}
	return k.mount + "/app"
}

func (k secret) write(ctx context.Context, user, password string) error {
	login := map[string]any{k.fields[0]: user, k.fields[1]: password, "port": "5432"}
	if k.version == 2 {
		login = map[string]any{"data": login}
	}
	_, err := bed.Vault.Client.Logical().WriteWithContext(ctx, k.path(), login)
	return err
}

func (k secret) remove(t *testing.T) {
	t.Helper()
	_, err := bed.Vault.Client.Logical().DeleteWithContext(t.Context(), k.path())
	kit.Check(t, err)
}

// newUser makes a user of the database's, for the time of the test.
func newUser(t *testing.T, db database, password string) string {
	t.Helper()
	user := uniqueName()
	db.createUser(t, user, password)
	t.Cleanup(func() { db.dropUser(t, user) })
	return user
}

// onBothKV runs a test on either adapter and with either version.
func onBothKV(t *testing.T, test func(*testing.T, database, int)) {
	t.Helper()
	onBoth(t, func(t *testing.T, db database) {
		for version := 1; version <= 2; version++ {
			t.Run(fmt.Sprint("KV", version), func(t *testing.T) { t.Parallel(); test(t, db, version) })
		}
	})
}

var usual = [2]string{"username", "password"}

// hazard 40: a secret that is changed, to another user, is swapped at the next look, under load, and without a lease: what
// KV version 1 announces is none. The connections of the old user are replaced.
func TestHazard40_Changed(t *testing.T) {
	onBothKV(t, func(t *testing.T, db database, version int) {
		first, second := newUser(t, db, "pw1"), newUser(t, db, "pw2")
		k := mountKV(t, version, [2]string{"db_user", "db_pass"}, first, "pw1")
		s := open(t, db, setup{
			path:        k.path(),
			params:      "vault_username_field=db_user&vault_password_field=db_pass&vault_refresh_interval=1s",
			poolOptions: poolOptions{warm: true}, // nobody but us closes a connection
		})
		l := startLoad(t, s)
		s.events.WaitN(t, rotation.Refreshed, 1, 2) // looked, and found the same
		if user := s.whoIsNew(t); user != first {
			t.Errorf("logged in as %s, not %s", user, first)
		}
		began := time.Now()
		kit.Check(t, k.write(t.Context(), second, "pw2"))
		e := s.events.Wait(t, rotation.Published, 2)
		if e.Reason != "refresh" {
			t.Errorf("generation 2 was published for %q", e.Reason)
		}
		s.events.Wait(t, rotation.Drained, 1)
		kit.Eventually(t, "no session of the first user", func(ctx context.Context) bool {
			sessions, err := db.sessions(ctx, first)
			kit.Check(t, err)
			return len(sessions) == 0
		})
		l.goesOn(t, 50)
		l.end(t)
		if user := s.whoIsNew(t); user != second {
			t.Errorf("logged in as %s, not %s", user, second)
		}
		if n := s.published(); n != 1 {
			t.Errorf("%d rotations", n)
		}
		s.events.None(t, rotation.LoginRefused, rotation.IssueFailed, rotation.DrainDeadline)
		s.noLeaseTouched(t)
		t.Logf("swapped %v after the change, with a look every second", e.Time.Sub(began).Round(time.Millisecond))
	})
}

// hazard 40: a password that is changed in the database and in KV, between two looks: the first login that is refused
// shows it, and no call fails. Connections that are open stay.
func TestHazard40_ChangedBetweenLooks(t *testing.T) {
	onBothKV(t, func(t *testing.T, db database, version int) {
		user := newUser(t, db, "pw1")
		k := mountKV(t, version, usual, user, "pw1")
		s := open(t, db, setup{path: k.path(), params: "vault_refresh_interval=1h"})
		h, err := s.hold(t.Context())
		kit.Check(t, err)
		defer h.release()
		id, _ := who(t, h)
		l := startLoad(t, s)
		l.goesOn(t, 20)
		kit.Check(t, k.write(t.Context(), user, "pw2"))
		db.changePassword(t, user, "pw2")
		if e := s.events.Wait(t, rotation.Published, 2); e.Reason != "login refused" {
			t.Errorf("generation 2 was published for %q", e.Reason)
		}
		l.goesOn(t, 50)
		l.end(t)
		if now, _ := who(t, h); now != id || s.published() != 1 {
			t.Errorf("the connection that is held is now session %d, not %d, after %d rotations", now, id, s.published())
		}
		s.noLeaseTouched(t)
	})
}

// hazard 40: a secret that is deleted. The pool says so and goes on with what it has, logins too; what is written later is
// found.
func TestHazard40_Deleted(t *testing.T) {
	onBothKV(t, func(t *testing.T, db database, version int) {
		first, second := newUser(t, db, "pw1"), newUser(t, db, "pw2")
		k := mountKV(t, version, usual, first, "pw1")
		s := open(t, db, setup{path: k.path(), params: "vault_refresh_interval=1s"})
		l := startLoad(t, s)
		k.remove(t)
		for _, e := range s.events.WaitN(t, rotation.IssueFailed, 0, 3) {
			if !errors.Is(e.Err, rotation.ErrInvalid) || !e.RetryAt.After(e.Time) {
				t.Errorf("the issue failed with %v, to be tried again at %v", e.Err, e.RetryAt)
			}
		}
		l.goesOn(t, 50)
		if user := s.whoIsNew(t); user != first {
			t.Errorf("logged in as %s, not %s", user, first)
		}
		s.events.None(t, rotation.Published, rotation.Draining, rotation.CredentialLost)
		kit.Check(t, k.write(t.Context(), second, "pw2"))
		s.events.Wait(t, rotation.Published, 2)
		l.goesOn(t, 50)
		if user := s.whoIsNew(t); user != second {
			t.Errorf("logged in as %s, not %s", user, second)
		}
		l.end(t)
		s.noLeaseTouched(t)
	})
}

// hazards 39, 40: what a path is shows in the answer, whatever the mount is called.
func TestHazard40_Kinds(t *testing.T) {
	t.Parallel()
	for name, prepare := range map[vaultsource.Kind]func(t *testing.T) string{
		vaultsource.KindDynamic: func(t *testing.T) string {
			t.Helper()
			role, err := bed.PostgresRole(t.Context(), testbed.RoleOptions{})
			kit.Check(t, err)
			return role.CredsPath
		},
		vaultsource.KindStatic: func(t *testing.T) string {
			t.Helper()
			return newStaticRole(t, postgres{}, time.Hour).path
		},
		vaultsource.KindKV1: func(t *testing.T) string { t.Helper(); return mountKV(t, 1, usual, "u", "p").path() },
		vaultsource.KindKV2: func(t *testing.T) string { t.Helper(); return mountKV(t, 2, usual, "u", "p").path() },
	} {
		t.Run(string(name), func(t *testing.T) {
			t.Parallel()
			path := prepare(t)
			source, err := vaultsource.New(t.Context(), vaultsource.Config{
				Path: path, Client: bed.Vault.ClientWithToken(bed.Vault.RootToken), RefreshInterval: time.Minute,
			})
			kit.Check(t, err)
			if name == vaultsource.KindKV1 {
				announced, err := bed.Vault.Client.Logical().ReadWithContext(t.Context(), path)
				kit.Check(t, err)
				if announced.LeaseDuration == 0 {
					t.Error("this KV announces no lease, so there is nothing to be misled by")
				}
			}
			_, lease, err := source.Issue(t.Context())
			kit.Check(t, err)
			leased := name == vaultsource.KindDynamic
			if source.Kind() != name || lease.Revocable != leased || lease.Renewable != leased || (lease.TTL > 0) != leased || (lease.RefreshAfter > 0) == leased {
				t.Errorf("%s is a %s with %+v", path, source.Kind(), lease)
			}
			if leased {
				kit.Check(t, source.Revoke(t.Context(), lease))
			}
		})
	}
}
