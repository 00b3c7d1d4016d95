//nolint:thelper // what is given to onBoth and its like are the tests themselves
package outofband_test

import (
	"testing"
	"time"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/rotation"
)

// hazards 35, 46: an operator revokes the lease.
func TestHazard46_LeaseRevoked(t *testing.T) {
	onBoth(t, func(t *testing.T, db database) {
		dies(t, open(t, db, setup{}), func(t *testing.T, s *service) { s.revokeLease(t) })
	})
}

// hazard 46: an operator revokes all leases of the role.
func TestHazard46_RevokedByPrefix(t *testing.T) {
	onBoth(t, func(t *testing.T, db database) {
		dies(t, open(t, db, setup{}), func(t *testing.T, s *service) {
			kit.Check(t, bed.Vault.Client.Sys().RevokePrefixWithContext(t.Context(), s.path))
		})
	})
}

// hazard 35: somebody drops the user, and Vault does not know.
func TestHazard35_UserDropped(t *testing.T) {
	onBoth(t, func(t *testing.T, db database) {
		dies(t, open(t, db, setup{}), func(t *testing.T, s *service) { db.dropUser(t, s.status().User) })
	})
}

// hazard 35: somebody changes the user's password.
func TestHazard35_PasswordChanged(t *testing.T) {
	onBoth(t, func(t *testing.T, db database) {
		dies(t, open(t, db, setup{}), func(t *testing.T, s *service) {
			db.changePassword(t, s.status().User, "not the one in Vault")
		})
	})
}

// hazards 35, 46: the token is revoked that the lease hangs from. There is another one in the file.
func TestHazard46_TokenRevoked(t *testing.T) {
	onBoth(t, func(t *testing.T, db database) {
		dies(t, open(t, db, setup{}), func(t *testing.T, s *service) {
			old := s.token
			s.giveToken(t, s.newToken(t))
			kit.Check(t, bed.Vault.Client.Auth().Token().RevokeTreeWithContext(t.Context(), old))
		})
	})
}

// dies has the current credential die under load, some times in a row. Each time one rotation heals it, no connect
// fails, and what live sessions are denied is over with it.
func dies(t *testing.T, s *service, kill func(*testing.T, *service)) {
	t.Helper()
	const rounds = 4
	l := startLoad(t, s)
	var healed, denied []time.Duration
	denials, noticed := 0, map[string]int{}
	for id := uint64(1); id <= rounds; id++ {
		l.goesOn(t, 20)
		if n := len(l.takeDenials()); n > 0 {
			t.Errorf("%d calls were denied when all was in order", n)
		}
		began := time.Now()
		kill(t, s)
		s.events.Wait(t, rotation.Revoked, id)
		l.goesOn(t, 60)

		published := s.events.Wait(t, rotation.Published, id+1)
		noticed[published.Reason]++
		healed = append(healed, published.Time.Sub(began))
		dead := s.events.Wait(t, rotation.Draining, id).Time // from here on nobody is handed one of its connections
		var last time.Time
		for _, d := range l.takeDenials() {
			denials++
			last = d.ended
			if d.began.After(dead) {
				t.Errorf("a call was denied that began %v after generation %d was healed", d.began.Sub(dead), id)
			}
		}
		if !last.IsZero() {
			denied = append(denied, last.Sub(began))
		}
		s.rotatedOnce(t, id)
	}
	l.end(t)
	s.events.None(t, rotation.IssueFailed, rotation.Rejected, rotation.RevokeFailed)
	middle, most := median(healed)
	t.Logf("noticed by %v; healed after %v, at most %v", noticed, middle, most)
	middle, most = median(denied)
	t.Logf("%d calls denied, in %d of %d rounds, the last of them after %v, at most %v", denials, len(denied), rounds, middle, most)
}

// rotatedOnce fails the test unless generation id was followed by one other, for which there was one issue.
func (s *service) rotatedOnce(t *testing.T, id uint64) {
	t.Helper()
	if current, published, issues := s.status().Generation, s.published(), s.issues(); current != id+1 ||
		published != int(id) || issues != int(id)+1 {
		t.Errorf("generation %d died: now there is %d, %d were published after the first, and %d issued", id, current, published, issues)
	}
	if n := len(s.events.Of(rotation.LoginRefused, id)); n > 1 {
		t.Errorf("%d refused logins of generation %d were reported", n, id)
	}
}
