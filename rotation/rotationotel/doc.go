// Package rotationotel reports what a [rotation.Rotator] does as OpenTelemetry metrics and
// spans. It uses the OpenTelemetry APIs only: which SDK and exporter take them, if any, is the
// program's choice.
//
//	stop, err := rotationotel.Instrument(pool.Rotator(), rotationotel.Config{Pool: "orders"})
//
// docs/observability.md has a Grafana dashboard, alert rules, and what to do at each.
//
// # What happens on failure
//
// Nothing here delays a rotation or fails one. Metrics and spans come from events, which the
// rotator hands over without waiting: if an exporter blocks so long that events are lost,
// vaultpool.events.missed says how many. The gauges ask the rotator when somebody
// collects, for Config.StallTimeout at most; if it does not answer, vaultpool.loop.stalled
// rises and the others go on with what it said last.
//
// # Metrics
//
// All have the attribute vaultpool.pool (Config.Pool).
//
//	vaultpool.lease.time_left      s             until the current credential ends
//	vaultpool.lease.ttl            s             what was granted last
//	vaultpool.rotation.time_left   s             until it is replaced by schedule
//	vaultpool.generation.age       s             since it was issued
//	vaultpool.credential.usable                  1 if a login is possible, else 0
//	vaultpool.connections          {connection}  by vaultpool.generation.state (issued, current, draining, ending)
//	                                             and vaultpool.database (host:port/database)
//	vaultpool.leases.unrevoked     {lease}       issued and not known to be gone
//	vaultpool.leases.limit         {lease}       how many of them there may be
//	vaultpool.loop.stalled         s             since the rotator's loop does not answer
//	vaultpool.logins.paid          {login}       callers waited for because a rotation took their connection
//	vaultpool.renewals             {renewal}     that succeeded
//	vaultpool.rotations            {rotation}    by vaultpool.reason
//	vaultpool.revocations          {revocation}  by vaultpool.outcome: ok, failed, abandoned
//	vaultpool.failures             {failure}     by vaultpool.failure, which is the kind of the event
//	vaultpool.events.missed        {event}       not counted above
//	vaultpool.issue.duration       s             histogram by vaultpool.outcome: ok, failed
//	vaultpool.probe.duration       s             likewise
//	vaultpool.drain.duration       s             by vaultpool.outcome: ok, deadline
//
// Counters start at 0, histograms with their first value. No attribute of a metric holds a
// user, a lease, a number of a generation or the text of an error.
//
// # Spans
//
// A rotation is one trace. Its root is vaultpool.rotate, from the issue until the credential is
// in place; below it are vaultpool.issue and vaultpool.probe, and, afterwards, vaultpool.drain
// and vaultpool.revoke of the credential that it replaced. vaultpool.renew, an issue that
// failed, and what happens at the end stand alone. A step that failed has the status
// Error, the error, and error.type. Spans hold no secret, but texts of errors name users,
// leases and addresses, as the log does.
package rotationotel
