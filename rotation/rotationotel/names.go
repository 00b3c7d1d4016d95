package rotationotel

import (
	"strings"

	"go.opentelemetry.io/otel/attribute"

	"github.com/vaultpool/vaultpool/rotation"
)

// Metrics.
const (
	nameTimeLeft     = "vaultpool.lease.time_left"
	nameTTL          = "vaultpool.lease.ttl"
	nameRotationLeft = "vaultpool.rotation.time_left"
	nameAge          = "vaultpool.generation.age"
	nameUsable       = "vaultpool.credential.usable"
	nameConnections  = "vaultpool.connections"
	nameUnrevoked    = "vaultpool.leases.unrevoked"
	nameLimit        = "vaultpool.leases.limit"
	nameStalled      = "vaultpool.loop.stalled"
	namePaid         = "vaultpool.logins.paid"

	nameRenewals    = "vaultpool.renewals"
	nameRotations   = "vaultpool.rotations"
	nameRevocations = "vaultpool.revocations"
	nameFailures    = "vaultpool.failures"
	nameMissed      = "vaultpool.events.missed"

	nameIssueDuration = "vaultpool.issue.duration"
	nameProbeDuration = "vaultpool.probe.duration"
	nameDrainDuration = "vaultpool.drain.duration"
)

// Spans.
const (
	spanRotate = "vaultpool.rotate"
	spanIssue  = "vaultpool.issue"
	spanProbe  = "vaultpool.probe"
	spanRenew  = "vaultpool.renew"
	spanDrain  = "vaultpool.drain"
	spanRevoke = "vaultpool.revoke"
)

// Attributes. Those of metrics have few values, all known beforehand but for the first two,
// which name pools.
const (
	keyPool     = attribute.Key("vaultpool.pool")             // Config.Pool
	keyDatabase = attribute.Key("vaultpool.database")         // the name of an attachment: "db.internal:5432/app"
	keyState    = attribute.Key("vaultpool.generation.state") // rotation.State
	keyReason   = attribute.Key("vaultpool.reason")           // why a credential was replaced
	keyOutcome  = attribute.Key("vaultpool.outcome")
	keyFailure  = attribute.Key("vaultpool.failure") // the kind of an event

	// Of spans only: a number that goes on rising would make a series for each.
	keyGeneration  = attribute.Key("vaultpool.generation")
	keyConnections = attribute.Key("vaultpool.connections")
	keyErrorType   = attribute.Key("error.type")
)

// Outcomes. An issue or a proof is one of the first two.
const (
	outcomeOK        = "ok"
	outcomeFailed    = "failed"
	outcomeAbandoned = "abandoned" // a revocation that is not tried again
	outcomeDeadline  = "deadline"  // a drain that ended what was left
)

// reasons are all for which a rotator replaces a credential. A test holds the engine to it.
var reasons = []string{
	"start", "lease ceiling", "lease end", "refresh", "renewal keeps failing", "renewal is denied", "spread",
	"requested", "source changed", "login refused", "lease is gone",
}

// failures are the events that count as one.
var failures = []rotation.EventKind{
	rotation.IssueFailed, rotation.SameLease, rotation.CapReached, rotation.ProbeFailed, rotation.Rejected,
	rotation.RenewFailed, rotation.LoginRefused, rotation.CredentialLost, rotation.ReplaceFailed,
	rotation.DrainDeadline, rotation.SessionsEnded, rotation.RevokeFailed, rotation.RevokeAbandoned,
	rotation.WatchFailed, rotation.SubscriberFailed,
}

// value is how a word of the engine's reads as an attribute: "lease ceiling" is lease_ceiling.
func value[T ~string](word T) string { return strings.ReplaceAll(string(word), " ", "_") }
