//nolint:thelper // these are the cases themselves: what fails is in them
package conformance

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/rotation"
	"github.com/vaultpool/vaultpool/rotation/vaultsource"
)

var sharedCases = []testCase{
	{name: "Hazard47_TwoPoolsOneRotator", run: twoPoolsOneRotator},
	{name: "Hazard57_CloseOneOfTwoPools", run: closeOneOfTwoPools},
}

// twoPools opens two pools on one rotator, which the end of the case closes, last.
func twoPools(t *testing.T, s *service) (a, b *service) {
	t.Helper()
	source, err := vaultsource.New(t.Context(), s.options.Vault)
	kit.Check(t, err)
	r, err := rotation.New(t.Context(), source, s.options.Rotation)
	kit.Check(t, err)
	t.Cleanup(func() {
		kit.Check(t, r.Close(context.Background()))
		s.waitNothingLeft(t)
	})
	r.Subscribe(s.events.Add)
	open := func() *service {
		pool, err := s.a.Open(t.Context(), Options{Addr: s.options.Addr, Rotator: r, MaxConns: 10})
		kit.Check(t, err)
		one := &service{Pool: pool, a: s.a, role: s.role, vault: s.vault, faults: s.faults, events: s.events}
		t.Cleanup(func() { _ = one.close() }) // what it says is the case's to look at
		return one
	}
	return open(), open()
}

// The lease that two pools share is revoked once, after both are drained; closing one leaves the other alone.
func twoPoolsOneRotator(t *testing.T, adapter *Adapter) {
	s := prepare(t, adapter, setup{})
	a, b := twoPools(t, s)
	inA, inB := a.conn(t), b.conn(t)
	old, _ := s.whoAmI(t, inB)
	a.rotate(t)
	kit.Check(t, b.PingContext(t.Context()))
	kit.Check(t, inA.Close())
	a.waitConnections(t, 1)
	if user, _ := s.whoAmI(t, inB); user != old || !s.hasUser(t, old) {
		t.Errorf("the other pool's connection is of %s", user)
	}
	s.events.None(t, rotation.Revoked)
	kit.Check(t, inB.Close())
	b.waitRevoked(t, 1, old)
	if n := s.revocations(); n != 1 {
		t.Errorf("%d revocations for one lease", n)
	}

	kit.Check(t, a.close())
	kit.Check(t, b.PingContext(t.Context()))
	b.rotate(t)
	s.events.Wait(t, rotation.Revoked, 2)
	kit.Check(t, b.PingContext(t.Context()))
	if _, err := a.Conn(t.Context()); err == nil {
		t.Error("a closed pool gives out connections")
	}
	s.events.None(t, rotation.DrainDeadline, rotation.RevokeFailed)
}

// Closing one of two pools ends its own leaked connection and no other.
func closeOneOfTwoPools(t *testing.T, adapter *Adapter) {
	s := prepare(t, adapter, setup{})
	a, b := twoPools(t, s)
	leaked := a.conn(t)
	user, id := s.whoAmI(t, leaked)
	tx, err := b.BeginTx(t.Context(), nil)
	kit.Check(t, err)
	defer func() { _ = tx.Rollback() }()
	b.insert(t, tx, t.Name())
	kit.Within(t, 15*time.Second, "Close", func() { err = a.close() })
	if err == nil || !strings.Contains(err.Error(), "1 connections were still in use") {
		t.Errorf("Close returned %v, which does not say what was leaked", err)
	}
	if s.alive(t, user, id) != 0 {
		t.Error("the leaked connection's session is still there")
	}
	if err := s.use(leaked); !adapter.Ended(err) {
		t.Errorf("the leaked connection's next statement returned %v", err)
	}
	if n := b.connections(1); n != 1 {
		t.Errorf("the engine counts %d connections, where the other pool has 1", n)
	}
	b.insert(t, tx, t.Name())
	kit.Check(t, tx.Commit())
	if b.items(t, t.Name()) != 2 {
		t.Error("the other pool's transaction did not commit both rows")
	}
	s.events.None(t, rotation.Revoked)
}
