// Package vaultsource issues database credentials from HashiCorp Vault. [Source]
// is a [rotation.Source], [rotation.Renewer] and [rotation.Revoker] for the
// dynamic roles of Vault's database secrets engine, on any mount path.
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
//   - [rotation.ErrDenied]: 403. The token may not do this, or has ended.
//   - [rotation.ErrInvalid]: nothing at this path, no such role, or an answer that
//     is not a leased user and password. The lease of such an answer is revoked.
//   - [rotation.ErrLeaseGone]: the lease to renew has ended, was revoked, or can
//     never be renewed again.
//   - anything else may pass: a sealed or overloaded Vault, a quota, a database
//     that is down, a network fault, an empty answer. It has a method RetryAfter()
//     time.Duration, which is more than 0 where Vault has said when to come back.
//   - [*api.ResponseError] is in the chain if Vault answered at all, and
//     context.DeadlineExceeded or context.Canceled if it did not in time.
//
// No request is repeated here: neither by Vault's client, whose retries are off,
// nor by net/http, which would repeat a GET whose answer was lost. Reading creds
// makes a user each time, and whoever calls Issue counts the calls.
//
// Issue is not cancelled with its context, because a read that is cancelled can
// leave a user without a lease in the database, and Vault never removes that one.
// The client's timeout bounds it: 60 s, unless VAULT_CLIENT_TIMEOUT or the client
// that was given says otherwise. If the answer is lost even so, a user may have
// been made that nobody knows of. Vault removes it at the end of its lease.
//
// # How long a credential lasts
//
// Vault ends a lease with the token that asked for it. The TTL of a lease is
// therefore the earlier of its own end and the token's, and never later than
// either: it counts from before the request was sent, and takes the rounding of
// Vault's clock into account. The token's end is asked for (auth/token/lookup-self)
// where it could be the earlier one, at most once for each Issue and Renew. If the
// token may not ask, that is logged once, and its end is not taken into account.
//
// The token is not renewed here. Where somebody else does that, such as a Vault
// Agent, the lease lasts longer at its next renewal. A lease whose token cannot be
// renewed, or was replaced by another in the file or the client, is marked Capped,
// so that it is replaced before it ends.
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
// Renewing leases and looking up the token itself are allowed by Vault's default
// policy. Without that one it takes these as well:
//
//	path "sys/leases/renew" {
//	  capabilities = ["update"]
//	}
//	path "auth/token/lookup-self" {
//	  capabilities = ["read"]
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
