package rotation

import (
	"errors"
	"fmt"
	"time"
)

var (
	// ErrClosed is returned by everything that needs a Rotator or an Attachment
	// that has been closed.
	ErrClosed = errors.New("rotator is closed")
	// ErrPaused is returned by Rotate while the Rotator is paused.
	ErrPaused = errors.New("rotator is paused")
	// ErrLeaseGone is for sources: the lease no longer exists.
	ErrLeaseGone = errors.New("lease is gone")
	// ErrDenied is for sources: the caller may not do this, and asking again with
	// the same rights will not help.
	ErrDenied = errors.New("permission denied")
	// ErrInvalid is for sources: what was asked for does not exist, or the answer
	// is not a credential. Nothing will change until somebody mends the
	// configuration.
	ErrInvalid = errors.New("invalid configuration or answer")
	// ErrRefused is for targets: the database refused the login itself, as
	// opposed to being unreachable or full.
	ErrRefused = errors.New("login refused by the database")
	// ErrStale is returned by Conn.Bind when the generation takes no more logins.
	// Take the current one and bind to that.
	ErrStale = errors.New("generation takes no more logins")
	// ErrEnded is what reading and writing a connection returns once it was ended
	// at its generation's drain deadline or by Close.
	ErrEnded = errors.New("connection ended because its credential is being revoked")
)

// NoCredentialError says that no login is possible for now: the credential has
// ended or is refused and could not be replaced yet. Connections that are open
// go on. It is returned at once, without dialling.
type NoCredentialError struct {
	Since   time.Time // since when there has been no usable credential
	Reason  string    // why the last one is not usable
	RetryAt time.Time // when the next attempt is due; zero while one is under way, or held off (Pause, Config.MaxUnrevoked)
	Err     error     // why it could not be replaced; nil before the first failure

	held bool
}

// Error says since when, why, and what happens next.
func (e *NoCredentialError) Error() string {
	next := "an attempt to replace it is under way"
	if e.held {
		next = "no attempt to replace it is made for now"
	}
	if !e.RetryAt.IsZero() {
		next = "next attempt at " + e.RetryAt.Format(time.TimeOnly)
	}
	s := fmt.Sprintf("no usable database credential since %s (%s); %s",
		e.Since.Format(time.RFC3339), e.Reason, next)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the failure of the last attempt.
func (e *NoCredentialError) Unwrap() error { return e.Err }
