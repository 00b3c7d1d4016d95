package rotation

import (
	"log/slog"
	"time"
)

// EventKind says what happened.
type EventKind string

// What a Rotator reports, in the order of a generation's life.
const (
	Issued           EventKind = "issued"            // a credential was issued, not yet in use
	IssueFailed      EventKind = "issue failed"      // Err says why; it is tried again
	ProbeFailed      EventKind = "probe failed"      // the new credential was refused or could not be tried
	Rejected         EventKind = "rejected"          // the new credential is given up and revoked unused
	Published        EventKind = "published"         // it is now the one new connections log in with
	Renewed          EventKind = "renewed"           // its lease was prolonged; Lease is what was granted
	RenewFailed      EventKind = "renew failed"      // Err says why
	Refreshed        EventKind = "refreshed"         // issued again and found unchanged
	LoginRefused     EventKind = "login refused"     // a connection was refused; rotation starts
	LeaseChecked     EventKind = "lease checked"     // a live session was refused something, which is Reason; Err says that the lease is gone, or why that is not known, and is nil if it is in order
	Draining         EventKind = "draining"          // a newer one took its place; Connections are left
	ReplaceFailed    EventKind = "replace failed"    // a pool could not replace a connection; Reason is the pool
	Drained          EventKind = "drained"           // its last connection is gone
	DrainDeadline    EventKind = "drain deadline"    // Connections were left and are ended now
	SessionsEnded    EventKind = "sessions ended"    // they are gone at the server; Err where that is not certain
	Revoked          EventKind = "revoked"           // its lease is gone
	RevokeFailed     EventKind = "revoke failed"     // Err says why; it is tried again
	RevokeAbandoned  EventKind = "revoke abandoned"  // the lease ended before it could be revoked, or Close ran out of time
	CredentialLost   EventKind = "credential lost"   // the current credential has ended and has no successor yet
	CredentialBack   EventKind = "credential back"   // a login is possible again
	SameLease        EventKind = "same lease"        // a new issue returned the lease already in use (a caching agent)
	WatchFailed      EventKind = "watch failed"      // the source's Watch panicked and tells of no more changes
	CapReached       EventKind = "cap reached"       // too many unrevoked leases: nothing is issued until one is gone
	Paused           EventKind = "paused"            // Pause was called
	Resumed          EventKind = "resumed"           // and undone
	EventsMissed     EventKind = "events missed"     // the subscriber did not keep up and lost Missed events
	SubscriberFailed EventKind = "subscriber failed" // a subscriber panicked and gets no more events
	Closed           EventKind = "closed"            // the Rotator is closed; Err says what could not be done
)

// Event is one thing that happened to a generation.
type Event struct {
	Time        time.Time     // when it happened
	Kind        EventKind     // what
	Generation  uint64        // its number, from 1; 0 where there is none
	Reason      string        // why: "lease ceiling", "login refused", "requested" …
	TTL         time.Duration // Issued, Renewed: what was granted
	Connections int           // Draining, DrainDeadline: how many there are
	Took        time.Duration // how long the step took, where it took a step: of Published, ProbeFailed and Rejected the last proof, of CredentialBack the time without
	Attempt     int           // failures in a row, from 1
	RetryAt     time.Time     // when a failed step is tried again
	Err         error         // why a step failed; without secrets, like all here
	Missed      int           // events that this subscriber lost just before this one, because it did not keep up
}

// LogValue returns the kind and the fields that are set.
func (e Event) LogValue() slog.Value {
	return slog.GroupValue(append([]slog.Attr{slog.String("event", string(e.Kind))}, e.attrs()...)...)
}

func (e Event) attrs() []slog.Attr {
	var attrs []slog.Attr
	add := func(set bool, a slog.Attr) {
		if set {
			attrs = append(attrs, a)
		}
	}
	add(e.Generation != 0, slog.Uint64("generation", e.Generation))
	add(e.Reason != "", slog.String("reason", e.Reason))
	add(e.TTL != 0, slog.Duration("ttl", e.TTL))
	add(e.Connections != 0, slog.Int("connections", e.Connections))
	add(e.Took != 0, slog.Duration("took", e.Took))
	add(e.Attempt != 0, slog.Int("attempt", e.Attempt))
	add(!e.RetryAt.IsZero(), slog.Time("retry_at", e.RetryAt))
	add(e.Missed != 0, slog.Int("missed", e.Missed))
	add(e.Err != nil, slog.Any("error", e.Err))
	return attrs
}
