// Package rotation keeps a leased database credential current under open
// connections: it issues one, renews its lease, replaces it before it ends, and
// revokes it when the last connection that was made with it is gone. It knows no
// driver and no Vault, and imports the standard library only.
//
// # What happens on failure
//
// A renewal that fails is tried again, with backoff and jitter, until it is time to
// rotate: a fifth of the TTL, or DrainTimeout, before the end. One that says that
// the lease is gone ([ErrLeaseGone]) or may not be renewed ([ErrDenied]) starts a
// rotation at once. An issue that fails is tried again likewise, for as long as the
// Rotator lives; the credential in use stays until there is a better one. Once it
// has ended, or the database refuses it, logins fail at once with a
// *[NoCredentialError], open connections go on, and the Rotator goes on trying.
//
// A new credential that the database refuses is given back unused and the old one
// stays. That a database cannot be reached, or is full, says nothing against it.
//
// A revocation that fails is tried again until the lease would have ended by
// itself, and is reported each time; it holds nothing up, but Config.MaxUnrevoked
// leases at once are the most there are.
//
// # A generation
//
// One credential, its lease and every socket opened with it are a [Generation]. It
// is issued, proven, current, draining, and retired. A socket is counted from
// [Conn.Bind], before its login, until it is closed, so that the Rotator knows
// exactly what a credential still has, whatever the pool above thinks of it. That
// count is the one thing that revocation waits for. At the drain deadline what is
// left is ended first, at the server too.
//
// # Writing an adapter
//
// A pool takes part by a [Target], which it hands to [Rotator.Attach]:
//
//  1. Its dialer passes each socket through [Attachment.Track].
//  2. Before the login, [Attachment.BindCurrent] counts the socket and returns the
//     generation whose [Credential] to log in with.
//  3. A login that the database refuses is reported to [Attachment.Refused], and
//     may be tried again when [Attachment.Await] returns nil.
//  4. A connection whose generation is [Generation.Dead] is not handed out.
//  5. [Attachment.Prove] before the pool is handed to its user, and
//     [Attachment.Close] after the pool is closed.
package rotation
