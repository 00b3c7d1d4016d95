// Package vaultsource reads database credentials from HashiCorp Vault. [Source] is a
// [rotation.Source], [rotation.Renewer], [rotation.Revoker] and [rotation.Checker] for
// the dynamic and static roles of Vault's database secrets engine, on any mount path,
// and for secrets of the KV engine, version 1 and 2.
//
// # What happens on failure
//
// [New] sends nothing and fails only for what is wrong with the configuration. It
// does not need Vault to be up.
//
// An error of a request says what was being done, to which path, at which
// address, what Vault answered, and what to do where somebody can do something.
// It holds no secret, and neither does a Source, a [Config] or a log line under
// any fmt verb. With errors.Is and errors.As it is one of these:
//
//   - [rotation.ErrDenied]: 403, or a login that is not accepted. The token may not
//     do this, or has ended.
//   - [rotation.ErrInvalid]: nothing at this path, no such role, or an answer that
//     is no user and password. The lease of such an answer is revoked.
//   - [rotation.ErrLeaseGone]: the lease to renew or to check has ended, was revoked,
//     or can never be renewed again.
//   - [ErrClosed]: after [Source.Close], what would need a new login.
//   - anything else may pass: a sealed or overloaded Vault, a quota, a database
//     that is down, a network fault, an empty answer. It has a method RetryAfter()
//     time.Duration, which is more than 0 where Vault has said when to come back.
//   - [*api.ResponseError] is in the chain if Vault answered at all, and
//     context.DeadlineExceeded or context.Canceled if it did not in time.
//
// No request is repeated here: neither by Vault's client, whose retries are off,
// nor by net/http, which would repeat a GET whose answer was lost. Reading creds
// makes a user each time, and whoever calls Issue counts the calls. The one exception
// is a read that was denied to a token of the source's own, and so has made nothing: it
// is sent once more after a new login.
//
// Issue is not cancelled with its context, because a read that is cancelled can
// leave a user without a lease in the database, and Vault never removes that one.
// The client's timeout bounds it: 60 s, unless VAULT_CLIENT_TIMEOUT or the client
// that was given says otherwise. If the answer is lost even so, a user may have
// been made that nobody knows of. Vault removes it at the end of its lease.
//
// # What Vault hands out
//
// What a path holds is told from the answer ([Source.Kind]):
//
//   - A dynamic role (database/creds/app) makes a user with a lease, which is renewed
//     and revoked.
//   - A static role (database/static-creds/app) has one user, whose password Vault
//     changes from time to time. There is no lease: nothing is renewed or revoked. It is
//     read again a second after the change is due, once a second while it is overdue,
//     and at once when the database refuses the password, since rotate-role changes it
//     unannounced. Connections that are open stay, because the server does not mind.
//   - A KV secret (secret/data/app, or secret/app in version 1) is whatever somebody has
//     written there. There is no lease, however long a lease_duration version 1
//     announces. It is read again every Config.RefreshInterval, and at once when the
//     database refuses it. Where only the password has changed connections stay; where
//     the user has they are replaced over the drain timeout.
//
// # How long a credential lasts
//
// Vault ends a lease with the token that asked for it. The TTL of a lease is
// therefore the earlier of its own end and the token's, and never later than
// either: it counts from before the request was sent, and takes the rounding of
// Vault's clock into account.
//
// The token is kept alive on the way: when a lease is renewed, or a credential read
// again, and the token would end before the lease does or has a third of its time left,
// it is renewed too (auth/token/renew-self), unless a look at it (auth/token/lookup-self)
// shows that somebody else, such as a Vault Agent, has done so. No goroutine is needed
// for that, since a lease that hangs from a token is due for renewal well before the
// token's end. A token that cannot be renewed, or not any further, is a ceiling for its
// leases, which are replaced before it (Lease.Capped): with a token that was given, that
// helps only if another one is given by then, and a warning says so at the start. So are
// leases of a token that was replaced by another in the file or the client.
//
// Where the source logs in by itself (Config.Auth) it does so again before it asks for a
// credential with a token of which less than half is left and that cannot be renewed,
// and when a token is denied that was good before. The leases of the old token are
// replaced, and once the last of them is revoked the old token is revoked too.
// [Source.Close] revokes what is left. A service that is killed leaves its token and its
// lease to their TTL; Config.LeaseTTL shortens that, and so does a short token_ttl,
// since the token is renewed.
//
// If the token may not look itself up, that is logged once, and its end is not taken
// into account.
//
// # What Vault has to allow
//
// A policy for the role app on the mount database:
//
//	path "database/creds/app" {
//	  capabilities = ["read"]
//	}
//	path "sys/leases/revoke/database/creds/app/*" {
//	  capabilities = ["update"]
//	}
//
// For a static role or a KV secret the first, with its own path, is enough. Whether
// leases may be revoked is asked for once (sys/capabilities-self), and a warning says if
// they may not. Then the users that were replaced stay until their leases end; but a
// source that logs in by itself does so for each lease and revokes the login, and the
// lease with it.
//
// Renewing and looking up leases, and all that concerns the token itself, is allowed by
// Vault's default policy. Without that one it takes these as well:
//
//	path "sys/leases/renew" {
//	  capabilities = ["update"]
//	}
//	path "sys/leases/lookup" {
//	  capabilities = ["update"]
//	}
//	path "sys/capabilities-self" {
//	  capabilities = ["update"]
//	}
//	path "auth/token/lookup-self" {
//	  capabilities = ["read"]
//	}
//	path "auth/token/renew-self" {
//	  capabilities = ["update"]
//	}
//	path "auth/token/revoke-self" {
//	  capabilities = ["update"]
//	}
//
// And a role, for PostgreSQL; the connection it names as db_name must list it in
// allowed_roles:
//
//	vault write database/roles/app db_name=app default_ttl=1h max_ttl=24h \
//	  creation_statements="CREATE ROLE \"{{name}}\" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE app_rw"
//
// Here app_rw is a role that owns nothing and is granted what the service needs.
// A service whose tables would belong to the short-lived users themselves cannot
// be rotated: Vault cannot drop a user who owns something.
package vaultsource
