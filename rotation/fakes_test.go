package rotation

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"
)

// world is what the fakes of one test share: the leases that were issued and,
// for each, the sockets and the server's sessions of its user. It checks what
// must hold in every test, whatever it is about.
type world struct {
	t   testing.TB
	max int // Config.MaxUnrevoked
	rig *rig

	mu     sync.Mutex // guards what follows
	leases []*leaseRecord
	bad    map[string]bool // users that the database refuses
	down   bool            // the database cannot be reached
	lax    bool            // a revocation may find sessions that End could not end
	kept   int             // leases that the test expects to be left unrevoked
	expire bool            // leases may end by themselves before they can be revoked
}

type leaseRecord struct {
	id, user string
	issued   time.Time
	end      time.Time // zero: none
	revoke   bool      // it must be revoked
	revoked  []time.Time
	sockets  int
	sessions int
}

func (w *world) set(f func(*world)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(w)
}

// find returns the newest record of a user or of a lease id.
func (w *world) find(name string) *leaseRecord {
	for i := len(w.leases) - 1; i >= 0; i-- {
		if l := w.leases[i]; l.user == name || l.id == name && name != "" {
			return l
		}
	}
	return nil
}

func (w *world) sockets(user string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if l := w.find(user); l != nil {
		return l.sockets
	}
	return 0
}

// unrevoked is how many leases are neither revoked nor over.
func (w *world) unrevoked() (n int) {
	for _, l := range w.leases {
		if l.revoke && len(l.revoked) == 0 && (l.end.IsZero() || time.Now().Before(l.end)) {
			n++
		}
	}
	return n
}

// issued records a lease and checks the cap.
func (w *world) issued(sent time.Time, c Credential, l Lease) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.find(c.Username()) // known if the source handed it out before
	if r == nil {
		r = &leaseRecord{id: l.ID, user: c.Username(), issued: time.Now(), revoke: l.Revocable}
		w.leases = append(w.leases, r)
	}
	if l.TTL != 0 {
		r.end = sent.Add(l.TTL)
	}
	if n := w.unrevoked(); w.max > 0 && n > w.max {
		w.t.Errorf("%d leases exist unrevoked, more than MaxUnrevoked = %d", n, w.max)
	}
}

// revoking checks that nothing is left that the revocation could hurt.
func (w *world) revoking(l Lease) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.find(l.ID)
	switch {
	case r == nil:
		w.t.Errorf("revocation of lease %q, which was never issued", l.ID)
		return
	case r.sockets != 0:
		w.t.Errorf("revocation of %s begins while %d sockets are open", r.user, r.sockets)
	case r.sessions != 0 && !w.lax:
		w.t.Errorf("revocation of %s begins while the server has %d sessions", r.user, r.sessions)
	}
	if v := w.rig.r.view.Load(); v.gen != nil && v.gen.Credential().Username() == r.user {
		w.t.Errorf("revocation of %s, which is current", r.user)
	}
}

func (w *world) revoked(l Lease) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r := w.find(l.ID); r != nil {
		r.revoked = append(r.revoked, time.Now())
	}
}

// settle checks at the end that every lease was given back, once.
func (w *world) settle() {
	w.mu.Lock()
	defer w.mu.Unlock()
	left := 0
	for _, r := range w.leases {
		switch {
		case r.revoke && len(r.revoked) == 0 && w.expire && !r.end.IsZero() && time.Now().After(r.end):
		case r.revoke && len(r.revoked) == 0:
			if left++; left > w.kept {
				w.t.Errorf("the lease of %s was never revoked", r.user)
			}
		case len(r.revoked) > 1:
			w.t.Errorf("the lease of %s was revoked %d times", r.user, len(r.revoked))
		}
		if r.sockets != 0 {
			w.t.Errorf("%d sockets of %s are open at the end", r.sockets, r.user)
		}
	}
	if left < w.kept {
		w.t.Errorf("%d leases were left unrevoked, want %d", left, w.kept)
	}
}

// fakeSource is a source whose every answer a test can script. The hooks run in
// the engine's goroutines: they may sleep and block.
type fakeSource struct {
	w *world

	mu        sync.Mutex // guards what follows
	lease     Lease      // what Issue grants; the ID is made up
	onIssue   func(n int) error
	onAnswer  func(n int, c Credential, l Lease) (Credential, Lease, error)
	onRenew   func(n int, l Lease, increment time.Duration) (Lease, error)
	onRevoke  func(ctx context.Context, n int, l Lease) error
	issues    []time.Time // when they were asked for
	renewals  []time.Time
	revokes   []time.Time
	asked     []time.Duration // increments
	renewedID []string
	inFlight  int
}

func (s *fakeSource) set(f func(*fakeSource)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

func (s *fakeSource) counts() (issues, renewals, revokes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.issues), len(s.renewals), len(s.revokes)
}

func (s *fakeSource) issueTimes() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]time.Time(nil), s.issues...)
}

// Issue makes the users u1, u2 … whose passwords all contain secretMark.
func (s *fakeSource) Issue(ctx context.Context) (Credential, Lease, error) {
	sent := time.Now()
	s.mu.Lock()
	s.issues = append(s.issues, sent)
	n, onIssue := len(s.issues), s.onIssue
	if s.inFlight++; s.inFlight > 1 {
		s.w.t.Errorf("%d issues at once", s.inFlight)
	}
	s.mu.Unlock()
	var err error
	if onIssue != nil {
		err = onIssue(n)
	}
	if ctx.Err() != nil {
		s.w.t.Errorf("the context of an issue was cancelled")
	}
	s.mu.Lock()
	s.inFlight--
	l, onAnswer := s.lease, s.onAnswer
	s.mu.Unlock()
	if err != nil {
		return Credential{}, Lease{}, err
	}
	if l.Revocable {
		l.ID = fmt.Sprintf("lease/%d", n)
	}
	c := NewCredential(fmt.Sprintf("u%d", n), secretMark+fmt.Sprint(n))
	if onAnswer != nil {
		if c, l, err = onAnswer(n, c, l); err != nil {
			return c, l, err
		}
	}
	s.w.issued(sent, c, l)
	return c, l, nil
}

// Renew grants what is asked for.
func (s *fakeSource) Renew(_ context.Context, l Lease, increment time.Duration) (Lease, error) {
	s.mu.Lock()
	s.renewals = append(s.renewals, time.Now())
	s.asked = append(s.asked, increment)
	s.renewedID = append(s.renewedID, l.ID)
	n, onRenew := len(s.renewals), s.onRenew
	s.mu.Unlock()
	if onRenew != nil {
		return onRenew(n, l, increment)
	}
	l.TTL = increment
	return l, nil
}

func (s *fakeSource) Revoke(ctx context.Context, l Lease) error {
	s.w.revoking(l)
	s.mu.Lock()
	s.revokes = append(s.revokes, time.Now())
	n, onRevoke := len(s.revokes), s.onRevoke
	s.mu.Unlock()
	if onRevoke != nil {
		if err := onRevoke(ctx, n, l); err != nil {
			return err
		}
	}
	s.w.revoked(l)
	return nil
}

// socket is a client's socket and the session behind it at the server. The
// session of one that executes a statement outlives it, as MariaDB's does.
type socket struct {
	net.Conn
	w *world

	executing bool // set before use

	mu     sync.Mutex // guards what follows
	user   string
	closed bool
	gone   bool // the session
}

// login begins a session.
func (s *socket) login(user string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	l := s.w.find(user)
	switch {
	case s.closed:
		return net.ErrClosed
	case s.w.down:
		return errors.New("connection refused")
	case s.w.bad[user], l == nil, len(l.revoked) > 0:
		return fmt.Errorf("%w: user %s", ErrRefused, user)
	}
	l.sockets++
	l.sessions++
	s.user = user
	return nil
}

func (s *socket) Close() error {
	s.mu.Lock()
	first := !s.closed
	s.closed = true
	if first && s.user != "" {
		s.w.set(func(w *world) { w.find(s.user).sockets-- })
	}
	s.mu.Unlock()
	if first && !s.executing {
		s.endSession()
	}
	return s.Conn.Close()
}

func (s *socket) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

func (s *socket) endSession() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.gone && s.user != "" {
		s.w.set(func(w *world) { w.find(s.user).sessions-- })
	}
	s.gone = true
}
