// Package mysqlvault is go-sql-driver/mysql with credentials from HashiCorp Vault, for
// MySQL and MariaDB: swap sql.Open("mysql", …) for sql.Open("mysqlvault", …), or for
// [Open], say in the DSN which Vault role to use, and the sql.DB lives through lease
// renewals and rotations.
//
//	db, err := mysqlvault.Open(ctx, "tcp(db.internal:3306)/app?parseTime=true&vault_path=database/creds/app")
//
// # What happens on failure
//
// A renewal that fails is tried again until a fifth of the lease is left; then the
// credential is replaced. While Vault does not answer, the DB goes on with the
// connections it has and opens new ones for as long as the lease lasts. After that,
// open connections are still handed out, and a call that needs a new one fails at once
// with a *[rotation.NoCredentialError], which says since when and why. It recovers by
// itself.
//
// A login that is refused (the lease was revoked, the user dropped) starts one
// rotation, however many connections notice. Whoever needs the connection waits for
// that, within the context of the call, and goes on: no call fails, and none sees
// driver.ErrBadConn for it.
//
// A rotation proves the new credential before it is used. Then new sessions are logged
// in, one after the other, and put into the connections of the sql.DB in the place of
// old ones, while those lie in the pool, or as they come out of it: no caller waits for
// a login, unless uses are longer than a quarter of the drain window and nothing is ever
// idle, or the old credential is dead. A session in use stays until its connection is
// given back, so that a transaction, a sql.Conn and open rows are not disturbed; a
// sql.Stmt prepares itself again.
//
// What is in use still at the drain deadline (5 minutes, or what the lease leaves) is
// ended: its session is killed at the server, which would otherwise go on with its
// statement, and commit it, even after the user is dropped. (Where the credential is
// dead by then, nobody can log in to do that.) An event says so, and the error wraps
// [rotation.ErrEnded] where the driver lets that through; in the middle of rows it is
// mysql.ErrInvalidConn. Then the lease is revoked. A failed revocation is tried again
// until the lease would have ended by itself, and never holds up the DB.
//
// The driver closes a connection when the context of its call is done, and the server
// goes on with the statement. Such sessions are killed too before their lease is
// revoked.
//
// sql.DB.Close takes 10 seconds at most. Connections that callers still hold after half
// of it are ended, and its error says how many, and what else could not be done.
//
// # What a connection loses when its session is replaced
//
// Session state that was set on an earlier use and not set anew: SET, user variables,
// temporary tables, GET_LOCK. The driver's own parameters are set on every session.
// What is done within one use, by sql.Conn or sql.Tx, keeps its session.
//
// # Limits
//
// A replacement needs one connection beyond the pool's at the server while it lasts,
// and so does the probe of a new credential; the end of old sessions takes one, and up to
// eight for a moment where there is room. Where the server is full, an old session is
// closed first. Behind ProxySQL or RDS Proxy a socket is
// not a session: the proxy keeps server connections of the old user open after ours are
// gone. Behind a TCP load balancer the login that ends old sessions may reach another
// server than they are on. A dialer registered with mysql.RegisterDialContext under a
// network's own name ("tcp") is not called: set Config.DialFunc.
package mysqlvault
