package rotation

import "time"

// State is where a generation is in its life.
type State string

// The life of a generation. A generation that is dead is also one of these.
const (
	StateIssued   State = "issued"   // made, being proven; nobody uses it yet
	StateCurrent  State = "current"  // new connections log in with it
	StateDraining State = "draining" // its connections finish; it takes no logins
	StateEnding   State = "ending"   // the drain deadline has passed: what is left is being ended
	StateRevoking State = "revoking" // no connection is left; the lease is being revoked
	StateRetired  State = "retired"  // nothing is left of it
)

// Status is a snapshot. It holds no secret.
type Status struct {
	Generation uint64        // the current one's number
	User       string        // the current user name
	Age        time.Duration // since it was issued
	LeaseLeft  time.Duration // until the credential ends; 0 or less once it has, and 0 where no end is known
	Expires    time.Time     // the same as a time; zero where no end is known
	Granted    time.Duration // the TTL granted last, at the issue or by a renewal; 0 where no end is known
	RotateAt   time.Time     // when the schedule replaces the credential, unless a renewal moves that first; past where it could not be done yet, zero where no end is known
	Usable     bool          // a login is possible now

	Generations []GenerationStatus // oldest first, those not yet retired
	Unrevoked   int                // leases issued and not yet known to be gone
	Cap         int                // how many there may be, the current one included: Config.MaxUnrevoked
	PaidLogins  uint64             // logins so far that callers waited for because a rotation took their connection; see [Attachment.PaidLogin]

	Next      string    // what happens next: "renew", "rotate", "refresh", "issue", "probe", "nothing"
	NextAt    time.Time // and when; zero while it is under way
	LastError error     // the newest failure of any step; nil once a later step of that kind succeeded
	ErrorAt   time.Time // when LastError happened; zero without one
	Failures  int       // failures in a row of that step
	Paused    bool      // Pause was called and not undone: nothing is issued
	Closed    bool      // Close was called
}

// GenerationStatus is one generation of a Status.
type GenerationStatus struct {
	Generation   uint64         // its number, from 1
	User         string         // what its connections log in as
	State        State          // where it is in its life
	Dead         bool           // never handed out again
	Connections  int            // sockets open, logins in progress included
	ByAttachment map[string]int // the same by the pools' names (Target.Name); pools of one name are added up
	Issued       time.Time      // when the source was asked for it
	Expires      time.Time      // zero where no end is known
	DrainBy      time.Time      // the drain deadline; zero unless draining or ending, and where connections may stay
	Reason       string         // why it was replaced; "" while current
}
