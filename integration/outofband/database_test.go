package outofband_test

import (
	"context"
	"testing"

	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/rotation"
)

// database is a server, and the adapter that is tried on it.
type database interface {
	connection() string // what Vault calls it
	role(ctx context.Context, options testbed.RoleOptions) (*testbed.Role, error)
	open(ctx context.Context, params string, o poolOptions) (pool, error)

	createUser(t *testing.T, user, password string) // with the rights of a role's users
	changePassword(t *testing.T, user, password string)
	dropUser(t *testing.T, user string)
	sessions(ctx context.Context, user string) ([]testbed.Session, error)

	isDenied(err error) bool // to a session that is open, something it has no right to
}

// poolOptions are those that a program sets in code, if it does.
type poolOptions struct {
	plain    bool // nothing in code: the string says it all
	maxConns int  // 0: 4
	warm     bool // all connections are open, and stay
	rotation rotation.Config
}

// pool is what a program does with a pool. All but held ends with the call.
type pool interface {
	read(ctx context.Context) error
	write(ctx context.Context) error
	readForbidden(ctx context.Context) error
	reconnect(ctx context.Context) error // takes a connection and closes it, so that another one is opened
	hold(ctx context.Context) (held, error)

	Rotator() *rotation.Rotator
	isWarm(maxConns int) bool // all connections are open
	close(ctx context.Context) error
}

// held is a connection in use.
type held interface {
	id(ctx context.Context) (id int, user string, err error) // as the server says
	release()
}
