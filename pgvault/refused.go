package pgvault

import (
	"errors"
	"strings"

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
// Behind several hosts or TLS fallbacks there are several errors; one is enough.
func refusedLogin(err error) bool {
	refused := false
	eachPgError(err, func(e *pgconn.PgError) {
		switch e.Code {
		case "28P01", "28000", "42501":
			refused = true
		case "08P01":
			refused = refused || strings.Contains(e.Message, "password authentication failed")
		}
	})
	return refused
}

// eachPgError visits every server error in the tree; errors.As finds one only.
func eachPgError(err error, visit func(*pgconn.PgError)) {
	switch e := err.(type) { //nolint:errorlint // walks the tree itself
	case nil:
		return
	case *pgconn.PgError:
		visit(e)
	case interface{ Unwrap() []error }:
		for _, err := range e.Unwrap() {
			eachPgError(err, visit)
		}
	default:
		eachPgError(errors.Unwrap(err), visit)
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
