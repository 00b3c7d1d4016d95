package mysqlvault

import (
	"errors"

	"github.com/go-sql-driver/mysql"
)

// The server's refusals of a login
// (https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html,
// https://mariadb.com/docs/server/reference/error-codes/mariadb-error-code-reference).
const (
	erDBAccessDenied     = 1044 // the grant on the database is gone
	erAccessDenied       = 1045 // dropped, or wrong password
	erAccessNoPassword   = 1698 // the same, of a user that has none
	erMustChangePassword = 1820 // the password has expired, before 8.0 or in sandbox mode
	erPasswordExpired    = 1862 // the password has expired
	erAccountLocked      = 3118 // ACCOUNT LOCK, MySQL
	erAccountLockedMaria = 4151 // ACCOUNT LOCK, MariaDB
	erAccountBlocked     = 3955 // FAILED_LOGIN_ATTEMPTS, MySQL
	erHostNotPrivileged  = 1130 // no account left that matches this host
)

// What a live session is told whose rights have been taken away, or who never had them.
const (
	erTableAccessDenied  = 1142
	erColumnAccessDenied = 1143
	erSpecificAccess     = 1227 // an administrative privilege
	erRoutineDenied      = 1370
)

// refusedRight reports whether err, from a live session, may mean that its user is gone.
func refusedRight(err error) bool {
	switch codeOf(err) {
	case erDBAccessDenied, erTableAccessDenied, erColumnAccessDenied, erSpecificAccess, erRoutineDenied:
		return true
	}
	return false
}

// erTooManyConnections is what a server says that takes no more: nothing about the
// credential. The limits of a single user, 1203 and 1226, are not that: closing sessions
// of the old user makes no room for the new one.
const erTooManyConnections = 1040

// refusedLogin reports whether err, from a connect, is the server's refusal of this
// user or password.
func refusedLogin(err error) bool {
	switch codeOf(err) {
	case erDBAccessDenied, erAccessDenied, erAccessNoPassword, erMustChangePassword,
		erPasswordExpired, erAccountLocked, erAccountLockedMaria, erAccountBlocked, erHostNotPrivileged:
		return true
	}
	return false
}

// serverFull reports whether closing a connection would make room for another one.
func serverFull(err error) bool { return codeOf(err) == erTooManyConnections }

func codeOf(err error) uint16 {
	var e *mysql.MySQLError
	if errors.As(err, &e) {
		return e.Number
	}
	return 0
}
