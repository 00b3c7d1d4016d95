package pgvault

import (
	"errors"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/vaultpool/vaultpool/rotation"
)

// refusedLogin reports whether err, from a connect, is the server's refusal of
// this user or password, rather than of the connection
// (https://www.postgresql.org/docs/current/errcodes-appendix.html):
//
//	28P01  invalid_password: dropped, expired, or wrong password
//	28000  invalid_authorization_specification: may not log in, or dropped just now
//	42501  insufficient_privilege: the grant on the database is gone
//	08P01  from PgBouncer, with "password authentication failed"
//
// With several hosts or with sslmode=prefer there are several attempts, and one
// refusal is enough. But that no line of pg_hba.conf matches is also what a server
// that takes TLS only says to the attempt without, which pgconn makes after any
// fault of the one with: it counts if nothing else went wrong.
func refusedLogin(err error) bool {
	refused, noRule, otherwise := false, false, false
	eachAttempt(err, func(e *pgconn.PgError) {
		switch {
		case e == nil:
			otherwise = true
		case e.Code == "28000" && e.Routine == "ClientAuthentication":
			noRule = true
		case e.Code == "28P01", e.Code == "28000", e.Code == "42501",
			e.Code == "08P01" && strings.Contains(e.Message, "password authentication failed"):
			refused = true
		default:
			otherwise = true
		}
	})
	return refused || noRule && !otherwise
}

// serverFull reports whether err, from a connect, says that there is no room for another
// connection: 53300, too_many_connections, of the server, a database or a role.
func serverFull(err error) bool {
	full := false
	eachAttempt(err, func(e *pgconn.PgError) { full = full || e != nil && e.Code == "53300" })
	return full
}

// watchErrors has a live session that is refused something tell the engine, before
// the user's handler, or pgx's, decides whether the connection may go on:
//
//	42501  insufficient_privilege: its grants are gone, or it never had them
//	42704  undefined_object: the role is gone
func (t *target) watchErrors(c *pgx.ConnConfig) {
	user := c.OnPgError
	c.OnPgError = func(pc *pgconn.PgConn, e *pgconn.PgError) bool {
		if e.Code == "42501" || e.Code == "42704" {
			t.suspect(pc, e)
		}
		return user == nil || user(pc, e)
	}
}

func (t *target) suspect(pc *pgconn.PgConn, e *pgconn.PgError) {
	conn := trackedSocket(pc)
	if conn == nil || conn.Session() == nil { // it is not logged in: a refused login
		return
	}
	if g := conn.Generation(); g != nil {
		t.att.Suspect(g, e)
	}
}

// eachAttempt visits the end of every branch of an error's tree: the server's
// error, or nil where it is something else. errors.As finds the first only.
func eachAttempt(err error, visit func(*pgconn.PgError)) {
	switch e := err.(type) { //nolint:errorlint // walks the tree itself
	case nil:
		return
	case *pgconn.PgError:
		visit(e)
	case interface{ Unwrap() []error }:
		for _, err := range e.Unwrap() {
			eachAttempt(err, visit)
		}
	default:
		if inner := errors.Unwrap(err); inner != nil {
			eachAttempt(inner, visit)
		} else {
			visit(nil)
		}
	}
}

// credentialAtFault reports whether a failed acquire may succeed with another
// credential: the login was refused, or not even tried because there is none, or
// took so long that its credential ended meanwhile.
func credentialAtFault(err error) bool {
	var none *rotation.NoCredentialError
	if errors.As(err, &none) {
		return true
	}
	var connect *pgconn.ConnectError
	return errors.As(err, &connect) && (refusedLogin(err) || errors.Is(err, rotation.ErrEnded))
}
