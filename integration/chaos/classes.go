package main

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/vaultpool/vaultpool/rotation"
)

// class is a kind of error. The databases' own are named by their codes.
type class string

const (
	wrongData    class = "wrong data" // an answer that cannot be true: no fault excuses it
	noCredential class = "no credential"
	ended        class = "ended" // our connection, at its drain deadline
	deadline     class = "deadline"
	network      class = "network"
	other        class = "other"

	pgRefused      class = "28P01"
	pgNoRole       class = "28000"
	pgPermission   class = "42501" // what a live session is told once its role is gone
	pgNoObject     class = "42704" // likewise: the role itself
	myRefused      class = "1045"
	myNoDatabase   class = "1044"
	myNoTableGrant class = "1142"
	pgFull         class = "53300"
	myFull         class = "1040"
)

// isRefusal reports whether the database refused a login, or none was possible.
func (c class) isRefusal() bool {
	switch c {
	case pgRefused, pgNoRole, myRefused, myNoDatabase, noCredential:
		return true
	default:
		return false
	}
}

// isLiveDenial reports whether a session that goes on has lost its rights.
func (c class) isLiveDenial() bool {
	return c == pgPermission || c == pgNoObject || c == myNoTableGrant
}

// isFull reports whether the server has no room for another connection.
func (c class) isFull() bool { return c == pgFull || c == myFull }

// errWrong is wrapped by what the load finds wrong in an answer.
var errWrong = errors.New("wrong data")

// classify finds the kind of an error, the most telling first.
func classify(err error) class {
	var pgErr *pgconn.PgError
	var myErr *mysql.MySQLError
	var netErr net.Error
	switch {
	case errors.Is(err, errWrong):
		return wrongData
	case errors.As(err, new(*rotation.NoCredentialError)):
		return noCredential
	case errors.Is(err, rotation.ErrEnded):
		return ended
	case errors.As(err, &pgErr):
		return class(pgErr.Code)
	case errors.As(err, &myErr):
		return class(strconv.Itoa(int(myErr.Number)))
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return deadline
	case errors.As(err, &netErr), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, driver.ErrBadConn), errors.Is(err, mysql.ErrInvalidConn),
		errors.Is(err, net.ErrClosed), strings.Contains(err.Error(), "conn closed"):
		return network
	default:
		return other
	}
}
