package rotation

import (
	"context"
	"time"
)

// Source issues credentials. It may also be a [Renewer], a [Revoker], a
// [Checker] or a [Watcher]; the Rotator asks once, when it is made, and uses what there is.
//
// The Rotator calls a source from several goroutines, but never issues twice at
// once. Errors are told apart with errors.Is: [ErrLeaseGone], [ErrDenied] and
// [ErrInvalid]; anything else is taken for a passing fault. An error that has a
// method RetryAfter() time.Duration is not tried again before that.
type Source interface {
	// Issue returns a new credential and its lease. The context is never
	// cancelled to hurry an issue along, because the user it asked for may be
	// made all the same and would then belong to nobody: bound the call within
	// the source (vaultsource does, with the client's timeout).
	Issue(ctx context.Context) (Credential, Lease, error)
}

// Lease is how long a credential is good for, and what can be done about it.
// All durations count from the moment before the request was sent.
type Lease struct {
	// ID names the lease at its source; "" where there is none (static roles,
	// KV, files).
	ID string
	// TTL is the time until the credential ends: the earlier of the lease's own
	// end and that of whatever it hangs from (Vault ends a lease with the token
	// that asked for it). 0 means that no end is known.
	TTL time.Duration
	// Renewable says that Renew may move the end.
	Renewable bool
	// Revocable says that Revoke must be called once the last connection is gone.
	Revocable bool
	// RefreshAfter asks for another Issue after this time, and up to a twentieth or
	// ten seconds more, to see whether the credential changed (static roles, KV,
	// files). 0 means never. It is independent of TTL. Where a credential without a
	// lease and a TTL comes back with the same user and another password, connections
	// that are open stay: the server does not mind.
	RefreshAfter time.Duration
	// Capped says that the source knows that a renewal will not move the end any
	// further: a ceiling (Vault's max_ttl) or the token's end is reached. The
	// Rotator also notices by itself when a renewal grants less than asked.
	Capped bool
}

// Renewer is a source whose leases can be prolonged.
type Renewer interface {
	// Renew asks for the lease to last increment from now and returns what was
	// granted, which may be less. The ID of the answer is used from then on.
	// ErrLeaseGone starts a rotation at once; ErrDenied too, since waiting does
	// not help; other errors are retried until it is time to rotate. The context
	// bounds the call.
	Renew(ctx context.Context, lease Lease, increment time.Duration) (Lease, error)
}

// Revoker is a source whose leases can be given back.
type Revoker interface {
	// Revoke ends the lease and returns nil only when it is known to be gone. It
	// is retried until the lease would have ended by itself. The context bounds
	// the call.
	Revoke(ctx context.Context, lease Lease) error
}

// Checker is a source that can say whether a lease exists.
type Checker interface {
	// Check returns nil if the lease exists, [ErrLeaseGone] if it does not, and any
	// other error where that cannot be told. It is asked when a live session is
	// refused something, seldom. The context bounds the call.
	Check(ctx context.Context, lease Lease) error
}

// Watcher is a source that can tell that its credential changed.
type Watcher interface {
	// Watch calls changed whenever another Issue may return something new, until
	// ctx is done. changed does not block.
	Watch(ctx context.Context, changed func())
}

// SourceFunc is a function that is a Source: an RDS IAM token, a file, anything
// whose credentials neither renew nor need revoking.
type SourceFunc func(ctx context.Context) (Credential, Lease, error)

// Issue calls f.
func (f SourceFunc) Issue(ctx context.Context) (Credential, Lease, error) { return f(ctx) }
