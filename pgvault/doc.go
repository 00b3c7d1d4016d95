// Package pgvault is pgxpool with credentials from HashiCorp Vault: swap
// pgxpool.New for [New], say in the connection string which Vault role to use, and
// the pool lives through lease renewals and rotations.
//
//	pool, err := pgvault.New(ctx, "postgres://db.internal/app?vault_path=database/creds/app")
//
// # What happens on failure
//
// A renewal that fails is tried again until a fifth of the lease is left; then the
// credential is replaced. While Vault does not answer, the pool goes on with the
// connections it has and opens new ones for as long as the lease lasts. After
// that, open connections are still handed out, for as long as the database lets
// them live, and a call that needs a new one fails at once with a
// *[rotation.NoCredentialError], which says since when and why. It recovers by
// itself.
//
// A login that is refused (the lease was revoked, the role dropped) starts one
// rotation, however many connections notice. The methods of [Pool] that acquire a
// connection wait for it, within their context, and try again: no call fails. The
// embedded pgxpool.Pool, handed to a library, does all the same except for that
// one retry: there the call whose login was refused fails, and the next succeeds.
//
// A rotation proves the new credential before it is used, replaces connections
// while they are idle, and lets those in use finish. What is still open at the
// drain deadline (5 minutes, or what the lease leaves) is ended: its user sees
// [rotation.ErrEnded] or SQLSTATE 57P01, its session is terminated at the server,
// and an event says so. Then the lease is revoked. A failed revocation is tried
// again until the lease would have ended by itself, and never holds up the pool.
//
// [Pool.Close] takes 10 seconds at most. Connections that callers still hold after
// half of it are ended; [Pool.Shutdown] says which, and what else it could not do.
// If a caller never releases a connection, pgxpool's own Close waits for it in one
// goroutine for ever.
//
// # What a connection loses when it is replaced
//
// The same as when pgxpool replaces it for MaxConnLifetime: session state. A
// connection that is in use is not replaced, so that a transaction, a session
// lock, a temporary table, SET and LISTEN are kept until it is released or the
// drain deadline passes.
//
// # Limits
//
// The probe of a new credential and the end of old sessions each need one
// connection beyond MaxConns at the server, and so does each replacement while it
// lasts. Behind PgBouncer or RDS Proxy a socket is not a session: the pooler keeps
// server connections of the old user open after ours are gone. Behind a TCP load
// balancer the login that ends old sessions may reach another server than they are
// on.
package pgvault
