package pgvault

import (
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/vaultpool/vaultpool/rotation"
)

// answer is what one host says to a login: a SQLSTATE, with a message where it matters, or nothing, for a
// network that fails.
type answer struct{ code, message, routine string }

func (a answer) give() (*pgproto3.ErrorResponse, error) {
	if a.code == "" {
		return nil, &net.OpError{Op: "dial", Err: errors.New("no route to host")}
	}
	return &pgproto3.ErrorResponse{Severity: "FATAL", Code: a.code, Message: a.message, Routine: a.routine}, nil
}

var (
	badPassword = answer{code: "28P01", message: "password authentication failed for user"}
	noLogin     = answer{code: "28000", message: "role is not permitted to log in", routine: "InitializeSessionUserId"}
	noRole      = answer{code: "28000", message: "role does not exist", routine: "InitializeSessionUserId"}
	noRule      = answer{code: "28000", message: "no pg_hba.conf entry for host, no encryption", routine: "ClientAuthentication"}
	noGrant     = answer{code: "42501", message: "permission denied for database"}
	pgBouncer   = answer{code: "08P01", message: "password authentication failed"}
	protocol    = answer{code: "08P01", message: "unsupported startup parameter"}
	full        = answer{code: "53300", message: "too many connections for role"}
	shutdown    = answer{code: "57P01", message: "terminating connection due to administrator command"}
	starting    = answer{code: "57P03", message: "the database system is starting up"}
	noDatabase  = answer{code: "3D000", message: "database does not exist"}
	unreachable = answer{}
)

// hazards 35, 36, 37 and 38: which failed connects are a refusal of the login.
func TestRefusedLogin(t *testing.T) {
	for name, c := range map[string]struct {
		answers []answer // of one host each
		refused bool
	}{
		"wrong password":            {[]answer{badPassword}, true},
		"NOLOGIN":                   {[]answer{noLogin}, true},
		"dropped just now":          {[]answer{noRole}, true},
		"no grant on the database":  {[]answer{noGrant}, true},
		"wrong password, PgBouncer": {[]answer{pgBouncer}, true},
		"another protocol fault":    {[]answer{protocol}, false},
		"full":                      {[]answer{full}, false},
		"shut down":                 {[]answer{shutdown}, false},
		"starting":                  {[]answer{starting}, false},
		"no such database":          {[]answer{noDatabase}, false},
		"unreachable":               {[]answer{unreachable}, false},
		"one refuses, one is down":  {[]answer{noLogin, unreachable}, true},
		"one is down, one refuses":  {[]answer{unreachable, badPassword}, true},
		"one is full, one refuses":  {[]answer{full, noLogin}, true},
		"no rule lets it in":        {[]answer{noRule}, true},
		"down, and without TLS no":  {[]answer{unreachable, noRule}, false},
		"full, and without TLS no":  {[]answer{full, noRule}, false},
		"refused with TLS and not":  {[]answer{noLogin, noRule}, true},
		"all are down":              {[]answer{unreachable, unreachable}, false},
		"one is down, one is full":  {[]answer{unreachable, full}, false},
	} {
		hosts, answers := "", make(map[string]answer)
		for i, a := range c.answers {
			hosts += fmt.Sprintf(",h%d:1", i)
			answers[fmt.Sprintf("h%d:1", i)] = a
		}
		err := connectError(t, hosts[1:], func(addr string) (*pgproto3.ErrorResponse, error) { return answers[addr].give() })
		if got := refusedLogin(err); got != c.refused {
			t.Errorf("%s: refused is %v, where the error is %v", name, got, err)
		}
		if got := credentialAtFault(err); got != c.refused {
			t.Errorf("%s: at fault is %v, where the error is %v", name, got, err)
		}
		if got := credentialAtFault(fmt.Errorf("wrapped: %w", err)); got != c.refused {
			t.Errorf("%s, wrapped: at fault is %v", name, got)
		}
	}
}

// What fails on an open connection is not retried, whatever its SQLSTATE: it may have been done.
func TestCredentialAtFault_NotAConnect(t *testing.T) {
	for _, err := range []error{
		nil,
		errors.New("something"),
		&pgconn.PgError{Code: "42501"},
		&pgconn.PgError{Code: "28P01"},
		fmt.Errorf("exec: %w", rotation.ErrEnded),
		fmt.Errorf("attach: %w", rotation.ErrClosed),
	} {
		if credentialAtFault(err) {
			t.Errorf("%v: would be tried again", err)
		}
	}
}

func TestCredentialAtFault_NoCredential(t *testing.T) {
	err := fmt.Errorf("acquire: %w", &rotation.NoCredentialError{Since: time.Now(), Reason: "a test"})
	if !credentialAtFault(err) {
		t.Errorf("%v: would not be tried again", err)
	}
}

// A login that was under way when its credential ended has had no effect.
func TestCredentialAtFault_EndedDuringLogin(t *testing.T) {
	err := connectError(t, "db:1", func(string) (*pgproto3.ErrorResponse, error) {
		return nil, fmt.Errorf("read: %w", rotation.ErrEnded)
	})
	if !credentialAtFault(err) {
		t.Errorf("%v: would not be tried again", err)
	}
}
