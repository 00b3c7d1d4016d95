// Package rotationhttp shows what a [rotation.Rotator] does over HTTP: two health
// checks, its status as JSON, and a page for people. It uses the standard library
// only; the page is embedded and asks nobody but its own handler for anything.
//
// # What happens on failure
//
// No endpoint waits for Vault or for the database, and no endpoint changes
// anything, but for a rotation that is asked for where [Config].AllowRotate is set. A
// rotator whose loop does not answer within [Config].StallTimeout counts as stalled:
// the checks fail, and status and page show the last snapshot that there was and say
// how old it is. However many requests come, one at a time asks the rotator.
//
// A failing Vault is never a reason for a check to fail while logins are possible:
// restarting a process that still has a good credential would take from it what it has.
// So degraded is told apart from dead:
//
//	state      /healthz   /readyz   meaning
//	starting   200        503       no credential was issued yet
//	ready      200        200       logins are possible, nothing fails
//	degraded   200        200       logins are possible, but a renewal, an issue, a probe or a
//	                                revocation fails, or the credential is about to end
//	lost       200        503       the credential has ended or is refused, and has no successor yet
//	stalled    503        503       the rotator's loop does not answer
//	closed     503        503       the rotator is closed, or closing
//
// Use /healthz as a livenessProbe and /readyz as a readinessProbe in Kubernetes. Where every
// replica uses the same Vault, lost comes to all of them at once; where the
// service has something to say without a database, leave readiness to the
// service itself and alert on the metrics instead. StallTimeout is below the second
// that Kubernetes gives a probe.
//
// # Security
//
// Nothing here holds a password or a token. There are user names, names of pools,
// addresses and texts of errors, which name leases, though, and whoever may POST /rotate costs Vault a credential:
// mount the handler on an address that only operators reach, or behind your own
// authentication. /rotate refuses what a browser sends for another site
// ([net/http.CrossOriginProtection]); the page may not be framed, and its
// Content-Security-Policy allows it its own style, script and requests only.
//
// # JSON
//
// The fields of [Report] are stable: fields may be added, none changes its name or
// its unit. Times are RFC 3339 in UTC, durations are seconds.
package rotationhttp
