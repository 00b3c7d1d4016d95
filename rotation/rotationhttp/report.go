package rotationhttp

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/vaultpool/vaultpool/rotation"
	"github.com/vaultpool/vaultpool/rotation/internal/asker"
)

// State sums up what a rotator can do now.
type State string

// From good to bad; the package's documentation has what each means for a probe.
const (
	Ready    State = "ready"    // logins are possible, nothing fails
	Degraded State = "degraded" // logins are possible, but some step fails or is overdue
	Starting State = "starting" // no credential was issued yet
	Lost     State = "lost"     // the credential is not usable, and has no successor yet
	Stalled  State = "stalled"  // the rotator does not answer
	Closed   State = "closed"   // it is closed, or closing
)

// serves reports whether a login is possible in this state.
func (s State) serves() bool { return s == Ready || s == Degraded }

// Report is the JSON of /status. Its field names are stable. Times are RFC 3339,
// and left out where there is none.
type Report struct {
	Title   string    `json:"title"`
	State   State     `json:"state"`
	Reasons []string  `json:"reasons"` // why it is not ready, in words; empty if it is
	Now     time.Time `json:"now"`
	AsOf    time.Time `json:"as_of,omitzero"` // when the rotator gave what follows: before Now only if it is stalled; left out if it never did

	Generation uint64  `json:"generation"` // the current one; 0 before the first
	User       string  `json:"user"`
	AgeSeconds float64 `json:"age_seconds"` // since it was issued
	Usable     bool    `json:"usable"`      // a login is possible
	Paused     bool    `json:"paused"`
	Closed     bool    `json:"closed"`
	Lease      *Lease  `json:"lease"` // null where no end is known
	Next       Next    `json:"next"`

	Connections int          `json:"connections"` // of all generations
	Unrevoked   int          `json:"unrevoked"`   // leases that are not known to be gone, the current one included
	Failures    []Failure    `json:"failures"`    // steps that fail now
	LastError   *Error       `json:"last_error"`  // the newest error of any step, mended or not; null if there was none
	Generations []Generation `json:"generations"` // oldest first; the last few retired ones too
	Events      []Event      `json:"events"`      // oldest first, the last 100
	AllowRotate bool         `json:"allow_rotate"`
}

// Lease is the time of the current credential.
type Lease struct {
	Granted     time.Time `json:"granted"` // when this term began: at the issue or at the last renewal
	Expires     time.Time `json:"expires"`
	TTLSeconds  float64   `json:"ttl_seconds"`  // from one to the other
	LeftSeconds float64   `json:"left_seconds"` // 0 or less once it has ended
	RotateAt    time.Time `json:"rotate_at"`    // when the schedule replaces it, if it is not prolonged before
}

// Next is what the rotator does next.
type Next struct {
	Action    string    `json:"action"`            // as in rotation.Status: "renew", "rotate", "refresh", "issue", "probe", "nothing"
	At        time.Time `json:"at,omitzero"`       // left out while it is under way
	InSeconds float64   `json:"in_seconds"`        // 0 while it is under way
	UnderWay  bool      `json:"under_way"`         // it has begun
	RetryAt   time.Time `json:"retry_at,omitzero"` // when the first of Failures is tried again
}

// Failure is a step that failed the last time it was tried.
type Failure struct {
	Step       string    `json:"step"` // "renew", "issue", "probe", "revoke", or "cap": too many leases to issue another
	Generation uint64    `json:"generation,omitempty"`
	Error      string    `json:"error"`
	Since      time.Time `json:"since"`
	At         time.Time `json:"at"`    // of the last attempt
	Count      int       `json:"count"` // failures in a row
	RetryAt    time.Time `json:"retry_at,omitzero"`
}

// Error is an error of the past.
type Error struct {
	Event string    `json:"event"`
	Error string    `json:"error"`
	At    time.Time `json:"at"`
}

// Generation is one credential with its connections.
type Generation struct {
	Generation  uint64         `json:"generation"`
	User        string         `json:"user,omitempty"`
	State       rotation.State `json:"state"`
	Dead        bool           `json:"dead"` // never handed out again
	Connections int            `json:"connections"`
	Pools       []Pool         `json:"pools"`
	Reason      string         `json:"reason,omitempty"` // why it was replaced

	Issued    time.Time `json:"issued,omitzero"`
	Published time.Time `json:"published,omitzero"` // new connections log in with it from here on
	Draining  time.Time `json:"draining,omitzero"`  // it was replaced
	DrainBy   time.Time `json:"drain_by,omitzero"`
	Drained   time.Time `json:"drained,omitzero"` // the last connection was gone
	Retired   time.Time `json:"retired,omitzero"` // nothing is left of it
	Expires   time.Time `json:"expires,omitzero"`
}

// Pool is how many connections one pool has.
type Pool struct {
	Name        string `json:"name"`
	Connections int    `json:"connections"`
}

// Event is a rotation.Event.
type Event struct {
	Seq         uint64    `json:"seq"` // from 1, for this handler
	Time        time.Time `json:"time"`
	Kind        string    `json:"kind"`
	Generation  uint64    `json:"generation,omitempty"`
	Reason      string    `json:"reason,omitempty"`
	TTLSeconds  float64   `json:"ttl_seconds,omitempty"`
	Connections int       `json:"connections,omitempty"`
	TookSeconds float64   `json:"took_seconds,omitempty"`
	Attempt     int       `json:"attempt,omitempty"`
	RetryAt     time.Time `json:"retry_at,omitzero"`
	Error       string    `json:"error,omitempty"`
	Missed      int       `json:"missed,omitempty"`
}

// report puts together what the rotator says and what was heard from it.
func (h *handler) report() Report {
	snap := h.asker.Ask()
	s, now := snap.Status, time.Now()
	r := Report{
		Title: h.config.Title, Now: stamp(now), AsOf: stamp(snap.At), AllowRotate: h.config.AllowRotate,
		Generation: s.Generation, User: s.User, AgeSeconds: seconds(s.Age),
		Usable: s.Usable, Paused: s.Paused, Closed: s.Closed, Unrevoked: s.Unrevoked,
	}
	h.journal.fill(&r, s, now)
	for _, g := range r.Generations {
		r.Connections += g.Connections
	}
	r.Next = next(s, now, r.Failures)
	r.Lease = lease(s, now)
	r.State, r.Reasons = h.judge(r, snap)
	return r
}

// judge says what state that is, and why.
func (h *handler) judge(r Report, snap asker.Snapshot) (State, []string) {
	reasons := []string{}
	if snap.Stalled {
		return Stalled, append(reasons, fmt.Sprintf("the rotator has not answered for %v", h.config.StallTimeout))
	}
	if r.Closed {
		return Closed, append(reasons, "the rotator is closed")
	}
	for _, f := range r.Failures {
		reasons = append(reasons, f.describe())
	}
	switch near := r.Lease != nil && r.Lease.overdue(); {
	case !r.Usable && r.Generation == 0:
		return Starting, append(reasons, "no credential was issued yet")
	case !r.Usable:
		return Lost, append(reasons, "the credential has ended or is refused, and has no successor yet")
	case near:
		return Degraded, append(reasons, "the credential is about to end and was not replaced yet")
	case len(reasons) > 0:
		return Degraded, reasons
	default:
		return Ready, reasons
	}
}

func (f Failure) describe() string {
	of, times := "", ""
	if f.Generation > 0 {
		of = fmt.Sprintf(" of generation %d", f.Generation)
	}
	if f.Count > 1 {
		times = fmt.Sprintf(", %d times in a row", f.Count)
	}
	return f.Step + of + " failed" + times + ": " + f.Error
}

// lease is the current term.
func lease(s rotation.Status, now time.Time) *Lease {
	if s.Expires.IsZero() {
		return nil
	}
	return &Lease{
		Granted: stamp(s.Expires.Add(-s.Granted)), Expires: stamp(s.Expires), TTLSeconds: seconds(s.Granted),
		LeftSeconds: seconds(s.Expires.Sub(now)), RotateAt: stamp(s.RotateAt),
	}
}

// overdue reports that half of the time that is kept for a rotation has passed
// without one.
func (l *Lease) overdue() bool { return l.LeftSeconds < l.Expires.Sub(l.RotateAt).Seconds()/2 }

func next(s rotation.Status, now time.Time, failures []Failure) Next {
	n := Next{Action: s.Next, At: stamp(s.NextAt)}
	if s.NextAt.IsZero() {
		n.UnderWay = s.Next != "nothing" && s.Next != ""
	} else {
		n.InSeconds = seconds(max(s.NextAt.Sub(now), 0))
	}
	if len(failures) > 0 {
		n.RetryAt = failures[0].RetryAt
	}
	return n
}

func pools(by map[string]int) []Pool {
	found := []Pool{}
	for _, name := range slices.Sorted(maps.Keys(by)) {
		found = append(found, Pool{name, by[name]})
	}
	return found
}

// stamp is a time as it is shown.
func stamp(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.UTC().Round(time.Millisecond)
}

// seconds is a duration as it is shown, in whole milliseconds.
func seconds(d time.Duration) float64 {
	return float64(d.Round(time.Millisecond).Milliseconds()) / 1000
}
