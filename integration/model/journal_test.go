package model

import (
	"time"

	"github.com/vaultpool/vaultpool/rotation"
)

// journal is what the events have told. In a bubble time stands still until every
// event is delivered, so that it is up to date whenever time has passed. All of it
// is guarded by the world's mutex.
type journal struct {
	last      uint64 // the newest generation issued
	published uint64 // the newest published
	current   *lease // what that one logs in with
	state     map[uint64]rotation.EventKind
	lease     map[uint64]*lease
	lost      time.Time // the last time that there was no credential any more
	doubts    int       // refusals reported, rightly or not
	issues    int
	closed    bool
}

func newJournal() journal {
	return journal{state: make(map[uint64]rotation.EventKind), lease: make(map[uint64]*lease)}
}

// before says in which states an event may come. The life of a generation is Issued,
// Published or Rejected, Draining, Drained, and, where there is something to revoke,
// Revoked or RevokeAbandoned.
var before = map[rotation.EventKind][]rotation.EventKind{
	rotation.Published:       {rotation.Issued},
	rotation.Rejected:        {rotation.Issued},
	rotation.Draining:        {rotation.Published, rotation.Rejected},
	rotation.Drained:         {rotation.Draining},
	rotation.DrainDeadline:   {rotation.Draining},
	rotation.Revoked:         {rotation.Drained},
	rotation.RevokeFailed:    {rotation.Drained},
	rotation.RevokeAbandoned: {rotation.Drained},
}

// event is the subscriber.
func (w *world) event(e rotation.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	j := &w.events
	w.note("event %q of %d %s %v", e.Kind, e.Generation, e.Reason, e.Err)
	switch {
	case e.Missed > 0:
		w.wrong(reported, "%d events were missed", e.Missed)
	case j.closed:
		w.wrong(reported, "event %q after the last one", e.Kind)
	}
	allowed := before[e.Kind]
	ok := allowed == nil || w.closing && e.Kind == rotation.RevokeAbandoned
	// Where only the password changed, connections stay until there is another reason.
	ok = ok || w.h.shape.sameUser && e.Kind == rotation.Draining && j.state[e.Generation] == rotation.Draining
	for _, kind := range allowed {
		ok = ok || j.state[e.Generation] == kind
	}
	if !ok {
		w.wrong(reported, "event %q of generation %d, which is %q", e.Kind, e.Generation, j.state[e.Generation])
	}
	w.follow(e)
	if w.calm {
		w.checkCalm(e)
	}
}

// follow keeps the journal and checks what an event says; mu is held.
func (w *world) follow(e rotation.Event) {
	j := &w.events
	l := j.lease[e.Generation]
	switch e.Kind {
	case rotation.Issued:
		if e.Generation != j.last+1 {
			w.wrong(reported, "generation %d is issued after %d", e.Generation, j.last)
		}
		j.last = e.Generation
		j.issues++
		j.lease[e.Generation] = w.answer
		w.answer.known = true
	case rotation.Published:
		if e.Generation <= j.published {
			w.wrong(reported, "generation %d is published after %d", e.Generation, j.published)
		}
		w.checkProof(e.Generation)
		j.published, j.current = e.Generation, l
		l.drained = time.Time{}
	case rotation.Draining:
		if e.Generation == j.published && !w.closing {
			w.wrong(keepsValid, "generation %d, which is current, is drained", e.Generation)
		}
		l.drained, l.left = time.Now(), l.told
	case rotation.Revoked:
		if !l.gone {
			w.wrong(reported, "%s is reported as revoked, and is not", l.user)
		}
	case rotation.RevokeAbandoned:
		if !w.closing && !l.over(time.Now()) {
			w.wrong(reported, "revoking %s is given up before its end", l.user)
		}
		if !w.closing && l.attempts == 0 {
			w.wrong(reported, "revoking %s is given up before it was tried", l.user)
		}
	case rotation.CredentialLost:
		j.lost = time.Now()
	case rotation.Closed:
		j.closed = true
	default:
	}
	switch e.Kind {
	case rotation.Issued, rotation.Published, rotation.Rejected, rotation.Draining, rotation.Drained,
		rotation.Revoked, rotation.RevokeAbandoned:
		j.state[e.Generation] = e.Kind
	default:
	}
}

// checkProof checks that no database has refused what is put in place, unless
// another one accepts it; mu is held.
func (w *world) checkProof(generation uint64) {
	accepted, refused := 0, 0
	for _, p := range w.pools {
		if r, ok := p.proofs[generation]; ok && !p.closing {
			accepted += r.Accepted
			refused += r.Refused
		}
	}
	if refused > 0 && accepted == 0 {
		w.wrong(keepsValid, "generation %d is published, and the database refuses it", generation)
	}
}

// checkCalm checks that nothing goes wrong by itself; mu is held.
func (w *world) checkCalm(e rotation.Event) {
	switch e.Kind {
	case rotation.CredentialLost, rotation.IssueFailed, rotation.ProbeFailed, rotation.Rejected, rotation.LoginRefused,
		rotation.SameLease, rotation.CapReached, rotation.RevokeAbandoned, rotation.RevokeFailed, rotation.ReplaceFailed:
		w.wrong(neverRest, "with no fault around: %q: %v", e.Kind, e.Err)
	default:
	}
}

// checkLeft checks, after Close, that each generation's life came to its end and that
// every lease was given back; mu is held. closed is when Close returned, and its error.
func (w *world) checkLeft(closed time.Time, named func(user string) bool) {
	j := &w.events
	if !j.closed {
		w.wrong(reported, "the end was not reported")
	}
	for id, state := range j.state {
		l := j.lease[id]
		if done := state == rotation.Revoked || state == rotation.RevokeAbandoned; l.revocable && !done {
			w.wrong(reported, "generation %d is %q at the end", id, state)
		}
	}
	for _, l := range w.leases {
		if len(l.open) > 0 {
			w.wrong(nothing, "%d connections of %s are open", len(l.open), l.user)
		}
		tried := l.attempts >= 5 // as often as what nobody can use is revoked
		if l.revocable && !l.gone && !l.over(closed) && !named(l.user) && !tried {
			w.wrong(nothing, "%s is neither revoked nor named in Close's error", l.user)
		}
	}
}
