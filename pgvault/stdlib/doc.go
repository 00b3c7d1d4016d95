// Package stdlib is [pgvault] for database/sql, over pgx's own stdlib: swap
// sql.Open("pgx", …) for sql.Open("pgvault", …) and say in the connection string which
// Vault role to use.
//
//	db, err := sql.Open("pgvault", "postgres://db.internal/app?vault_path=database/creds/app")
//
// A program that has a [pgvault.Pool] already shares it by [OpenDB].
//
// # What happens on failure
//
// As in package [pgvault], through every path of database/sql: a refused login (the
// lease was revoked, the role dropped) starts one rotation, and whoever needs the
// connection waits for it within the context of the call and goes on. No call fails,
// and none sees driver.ErrBadConn for it. A [database/sql.Tx], a [database/sql.Conn] and
// open rows keep their connection across a rotation until they are done, or until the
// drain deadline (5 minutes, or what the lease leaves), at which their session is
// ended, and an event says so. What they do next fails with an error that wraps
// [rotation.ErrEnded], and driver.ErrBadConn where nothing was sent any more; only a
// sql.Stmt of theirs says driver.ErrBadConn alone.
//
// sql.Open fails on a connection string that is wrong, and sends nothing. The pool
// starts when the first connection is needed. The credential is then issued in the
// background, once, however many callers come and go: each waits for it within the
// context of its own call, and fails with a *[rotation.NoCredentialError] as soon as
// waiting is a matter of luck: when Vault denies the path, fails twice, or does not
// answer for 10 s. Those that come later succeed once that is mended. A service that
// wants to know at its start calls [database/sql.DB.PingContext]; vault_start_timeout,
// which is [pgvault.New]'s, has no say.
//
// sql.DB.Close drains the pool and revokes the lease, in 10 seconds at most
// (vault_close_timeout). Connections that callers still hold after half of it are
// ended, and its error says how many, and what else could not be done.
//
// # One pool, and it is pgvault's
//
// database/sql keeps no idle connection of this driver: each goes back to the pgvault
// pool after every use, where it can be replaced during a rotation, is pinged after a
// pause, and serves other users of that pool. So SetMaxIdleConns, SetConnMaxIdleTime and
// SetConnMaxLifetime have nothing to act on, and [database/sql.DBStats].Idle is 0. Size
// the pool by pool_max_conns, pool_min_conns, pool_max_conn_idle_time and
// pool_max_conn_lifetime in the connection string. SetMaxOpenConns works, on top of
// pool_max_conns.
//
// A [database/sql.Stmt] follows its DB to whatever connection it gets, is prepared there
// for each use and deallocated after it, which costs two round trips more. Plain queries
// do not pay that, since pgx keeps their statements by itself; nor does a statement that
// is used within one sql.Tx or sql.Conn.
//
// A package that wraps drivers must pass [database/sql/driver.Validator] on. Where one
// does not, SetMaxIdleConns(0) comes close, and is needed: but a DB at its limit then
// hands a connection from one caller to the next, past the pool, and a rotation waits
// for it until the drain deadline. The same is true of pgx's own OpenDBFromPool.
package stdlib
