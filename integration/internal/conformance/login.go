//nolint:thelper // these are the cases themselves: what fails is in them
package conformance

import (
	"context"
	"database/sql/driver"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/rotation"
)

var loginCases = []testCase{
	{name: "Hazard01_LoginSpansRotation", run: loginSpansRotation},
	{name: "Hazard01_LoginSpansDeadline", run: loginSpansDeadline},
	{name: "Hazard02_BackgroundLoginSpansRotation", run: backgroundLoginSpansRotation, only: func(a *Adapter) bool { return a.SQLPools }},
	{name: "Hazard03_PublishedBeforeRetired", run: publishedBeforeRetired},
	{name: "Hazard05_FailedLogins", run: failedLogins},
	{name: "Hazard37_NotTheCredential", run: notTheCredential},
	{name: "Hazard43_ManyRefusedAtOnce", run: manyRefusedAtOnce},
}

// A connection whose login spans a rotation is counted in the generation that it logs in with, which ends after it.
func loginSpansRotation(t *testing.T, a *Adapter) {
	s := open(t, a, setup{wired: true})
	old := s.user()
	s.wire.gate.ShutFor(1)
	waiting := s.takeAside(t.Context())
	s.wire.gate.Queue(t, 1)
	s.waitConnections(t, 1)
	s.rotate(t)
	s.rotate(t)
	s.events.Wait(t, rotation.Revoked, 2) // and the first not before
	if n := s.connections(1); n != 1 {
		t.Fatalf("the engine counts %d connections of the old generation, where one is logging in", n)
	}
	s.wire.gate.Open()
	got := kit.Receive(t, "a connection", waiting)
	kit.Check(t, got.err)
	if user, _ := s.whoAmI(t, got.conn); user == old && !s.hasUser(t, old) {
		t.Error("the old lease was revoked under a connection in use")
	}
	kit.Check(t, got.conn.Close())
	s.waitRevoked(t, 1, old)
	s.events.None(t, rotation.DrainDeadline, rotation.RevokeFailed)
}

// Past the drain deadline such a connection does not reach the caller, who gets another.
func loginSpansDeadline(t *testing.T, a *Adapter) {
	s := open(t, a, setup{wired: true, rotation: rotation.Config{DrainTimeout: 200 * time.Millisecond}})
	old := s.user()
	s.wire.gate.ShutFor(1)
	waiting := s.takeAside(t.Context())
	s.wire.gate.Queue(t, 1)
	s.waitConnections(t, 1)
	s.rotate(t)
	s.waitRevoked(t, 1, old)
	s.wire.gate.Open()
	got := kit.Receive(t, "a connection", waiting)
	kit.Check(t, got.err)
	if user, _ := s.whoAmI(t, got.conn); user == old {
		t.Errorf("logged in as %s, which is revoked", user)
	}
	kit.Check(t, got.conn.Close())
}

// A connection that database/sql has opened in the background, for a caller who has gone, across a rotation lies
// idle without having been looked at. It is replaced all the same.
func backgroundLoginSpansRotation(t *testing.T, a *Adapter) {
	s := open(t, a, setup{wired: true, maxConns: 1})
	old := s.user()
	held := s.conn(t)
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	waiting := s.takeAside(ctx)
	kit.Eventually(t, "a caller waits", func(context.Context) bool { return s.Stats().WaitCount == 1 })
	s.wire.gate.ShutFor(1)
	_ = held.Raw(func(any) error { return driver.ErrBadConn }) // makes room for another one
	_ = held.Close()
	s.wire.gate.Queue(t, 1)
	s.waitConnections(t, 1)
	leave()
	if got := kit.Receive(t, "the caller's error", waiting); got.err == nil {
		t.Fatal("the caller was handed a connection that is not there yet")
	}
	s.rotate(t)
	s.wire.gate.Open()
	s.waitRevoked(t, 1, old)
	s.events.None(t, rotation.DrainDeadline, rotation.RevokeFailed)
	if user, _ := s.whoAmI(t, s); user == old {
		t.Errorf("handed out a connection of %s", user)
	}
}

// Under load, whatever is replaced has a successor already: a login is possible at any time, and no call fails.
func publishedBeforeRetired(t *testing.T, a *Adapter) {
	s := open(t, a, setup{rotation: rotation.Config{DrainTimeout: 8 * time.Second}})
	l := s.load(t, 4)
	for id := uint64(1); id <= 3; id++ {
		l.progress(t)
		s.rotate(t)
		s.events.Wait(t, rotation.Revoked, id)
	}
	l.progress(t)
	l.end()
	s.events.None(t, rotation.CredentialLost, rotation.LoginRefused, rotation.DrainDeadline, rotation.RevokeFailed)
	published := uint64(1)
	events, _ := s.events.All()
	for _, e := range events {
		switch {
		case e.Kind == rotation.Published:
			published = e.Generation
		case e.Kind == rotation.Draining && e.Generation >= published:
			t.Errorf("generation %d began to drain when %d was the last to be published", e.Generation, published)
		}
	}
}

// Whatever fails in a login, nothing stays counted, and rotation goes on.
func failedLogins(t *testing.T, a *Adapter) {
	s := open(t, a, setup{wired: true})
	s.wire.down.Store(true)
	for range 5 {
		if _, err := s.Conn(t.Context()); err == nil {
			t.Fatal("a connection without a network")
		}
	}
	s.waitConnections(t, 0)
	s.events.None(t, rotation.LoginRefused)
	s.wire.down.Store(false)
	s.checkRotates(t)
}

// A full server and a broken network say nothing about the credential.
func notTheCredential(t *testing.T, a *Adapter) {
	s := open(t, a, setup{wired: true})
	kit.Check(t, a.Server.admin(t.Context(), a.Server.fullUser, s.user()))
	full := 0
	for range 6 {
		conn, err := s.Conn(t.Context())
		if err == nil {
			t.Cleanup(func() { _ = conn.Close() })
			continue
		}
		if codeOf(err) != a.Server.full {
			t.Errorf("one connection too many returned %v, not %s", err, a.Server.full)
		}
		full++
	}
	if full < 4 {
		t.Errorf("of 6 connections where there is room for one, %d were refused", full)
	}
	s.wire.down.Store(true)
	for range 3 {
		if _, err := s.Conn(t.Context()); err == nil {
			t.Fatal("a connection without a network")
		}
	}
	s.events.None(t, rotation.LoginRefused, rotation.CredentialLost)
	if id, n := s.Rotator.Status().Generation, s.issues(); id != 1 || n != 1 {
		t.Errorf("generation %d after %d issues: it rotated", id, n)
	}
	s.wire.down.Store(false)
	kit.Check(t, a.Server.admin(t.Context(), a.Server.unlimitedUser, s.user()))
	s.conn(t)
}

// However many connections meet the refusal at once, there is one rotation, and each is served by it.
func manyRefusedAtOnce(t *testing.T, a *Adapter) {
	const many = 20
	s := open(t, a, setup{wired: true, maxConns: many + 5})
	old := s.user()
	s.wire.gate.ShutFor(many)
	var callers sync.WaitGroup
	for range many {
		callers.Go(func() {
			conn, err := s.Conn(t.Context())
			if err != nil {
				t.Errorf("a connect failed: %v", err)
				return
			}
			defer func() { _ = conn.Close() }()
			var user string
			var id int
			if err := conn.QueryRowContext(t.Context(), a.Server.whoAmI).Scan(&user, &id); err != nil || user == old {
				t.Errorf("logged in as %s, where %s is dropped; error %v", user, old, err)
			}
		})
	}
	s.wire.gate.Queue(t, many)
	s.waitConnections(t, many) // each is about to log in with the old credential
	s.dropUser(t, old)
	s.wire.gate.Open()
	callers.Wait()
	s.events.Wait(t, rotation.Revoked, 1)
	if n := len(s.events.Of(rotation.LoginRefused, 0)); n != 1 {
		t.Errorf("%d refusals were reported, not 1", n)
	}
	if id, n := s.Rotator.Status().Generation, s.issues(); id != 2 || n != 2 {
		t.Errorf("generation %d after %d issues, not 2 after 2", id, n)
	}
}

var probeCases = []testCase{
	{name: "Hazard29_NewCredentialCannotLogIn", run: newCredentialCannotLogIn},
	{name: "Hazard52_ServerFullForAWhile", run: serverFullForAWhile},
	{name: "Hazard53_DatabaseUnreachableAtOpen", run: databaseUnreachableAtOpen},
	{name: "Hazard53_RefusedAtOpen", run: refusedAtOpen},
}

// A new credential that cannot log in is given back, the old one stays, and another is tried when asked for.
func newCredentialCannotLogIn(t *testing.T, a *Adapter) {
	s := open(t, a, setup{rotation: rotation.Config{DrainTimeout: time.Second}}) // which also bounds how long it is tried
	old, _ := s.whoAmI(t, s)
	s.updateRole(t, testbed.RoleOptions{Create: a.Server.createLocked})
	ctx, cancel := context.WithTimeout(t.Context(), kit.Patience)
	defer cancel()
	err := s.Rotator.Rotate(ctx)
	if err == nil || !strings.Contains(err.Error(), "cannot log in") || codeOf(err) != a.Server.locked {
		t.Errorf("Rotate returned %v, which does not say that the new login was refused, by %s", err, a.Server.locked)
	}
	s.events.Wait(t, rotation.Rejected, 2)
	s.events.Wait(t, rotation.Revoked, 2)
	if user, _ := s.whoAmI(t, s); user != old {
		t.Errorf("logged in as %s", user)
	}
	leases, err := s.role.Leases(t.Context())
	kit.Check(t, err)
	if len(leases) != 1 {
		t.Errorf("%d leases are left, not the old one", len(leases))
	}
	s.events.None(t, rotation.Published, rotation.CredentialLost)
	s.updateRole(t, testbed.RoleOptions{})
	s.rotate(t)
	s.waitRevoked(t, 1, old)
}

// A server that is full when the new credential is tried says nothing about it: it is tried again until there is
// room.
func serverFullForAWhile(t *testing.T, a *Adapter) {
	if a.Server.createFull == nil {
		t.Skip("MySQL knows no user without room for a connection")
	}
	s := open(t, a, setup{rotation: rotation.Config{DrainTimeout: time.Second}}) // which also bounds how long a refusal is tried
	old, _ := s.whoAmI(t, s)
	s.updateRole(t, testbed.RoleOptions{Create: a.Server.createFull})
	rotated := make(chan error, 1)
	go func() { rotated <- s.Rotator.Rotate(t.Context()) }()
	for _, e := range s.events.WaitN(t, rotation.ProbeFailed, 2, 6) { // over 1.5 s
		if codeOf(e.Err) != a.Server.full {
			t.Errorf("the probe failed with %v, not %s", e.Err, a.Server.full)
		}
	}
	if user, _ := s.whoAmI(t, s); user != old {
		t.Errorf("logged in as %s", user)
	}
	g, ok := s.generation(2)
	if !ok || g.State != rotation.StateIssued {
		t.Fatalf("the new credential is given up: %+v", g)
	}
	kit.Check(t, a.Server.admin(t.Context(), a.Server.unlimitedUser, g.User))
	kit.Check(t, kit.Receive(t, "Rotate", rotated))
	s.waitRevoked(t, 1, old)
	s.events.None(t, rotation.Rejected)
}

// It is no failure of opening that the database cannot be reached.
func databaseUnreachableAtOpen(t *testing.T, a *Adapter) {
	s := prepare(t, a, setup{wired: true})
	s.wire.down.Store(true)
	s.start(t)
	if err := s.PingContext(t.Context()); err == nil {
		t.Fatal("Ping succeeded without a network")
	}
	s.wire.down.Store(false)
	kit.Check(t, s.PingContext(t.Context()))
	if n := s.issues(); n != 1 {
		t.Errorf("%d credentials were issued, not 1", n)
	}
}

// A refused login fails it, and the lease is given back.
func refusedAtOpen(t *testing.T, a *Adapter) {
	s := prepare(t, a, setup{})
	s.updateRole(t, testbed.RoleOptions{Create: a.Server.createLocked})
	ctx, cancel := context.WithTimeout(t.Context(), kit.Patience)
	defer cancel()
	_, err := a.Open(ctx, s.options)
	if codeOf(err) != a.Server.locked {
		t.Errorf("it returned %v, which does not say that the login was refused", err)
	}
	if n := s.revocations(); n != 1 {
		t.Errorf("%d revocations, not 1", n)
	}
	s.checkNothingLeft(t)
}
