package stdlib

import (
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"

	"github.com/vaultpool/vaultpool/internal/registration"
	"github.com/vaultpool/vaultpool/internal/vaultparams"
	"github.com/vaultpool/vaultpool/pgvault"
	"github.com/vaultpool/vaultpool/rotation"
)

// DriverName is what importing this package registers with database/sql.
const DriverName = "pgvault"

var _ driver.DriverContext = (*Driver)(nil)

func init() { sql.Register(DriverName, &Driver{}) }

// Driver is what database/sql knows by a name.
type Driver struct {
	config    *pgvault.Config // what [RegisterDriver] was given; nil for DriverName
	connector *Connector      // whose driver it is; nil for one that is registered
}

// RegisterDriver makes sql.Open(name, connString) use config, for what a connection
// string cannot say. The string may then be empty, or override vault_* parameters and
// nothing else: "vault_path=database/creds/report&vault_drain_timeout=1m". Each sql.DB
// has its own pool and lease, unless config.Rotator is set. It returns an error if
// config is not usable or the name is taken; a name cannot be given back, since
// database/sql has no means for it. The config must come from [pgvault.ParseConfig],
// and is copied.
func RegisterDriver(name string, config *pgvault.Config) error {
	if err := config.Validate(); err != nil {
		return err
	}
	if err := registration.Register(name, &Driver{config: config.Copy()}); err != nil {
		return fmt.Errorf("pgvault: %w", err)
	}
	return nil
}

// Open is what database/sql calls of drivers that have no OpenConnector. A connection
// alone would have nobody to renew its lease.
func (d *Driver) Open(string) (driver.Conn, error) {
	return nil, errors.New("pgvault: Driver.Open: use sql.Open, or OpenConnector: a connection alone has nobody to close its lease with it")
}

// OpenConnector is what sql.Open calls. It sends nothing: the pool starts when it is
// first used, and each caller waits for its credential within its own context.
func (d *Driver) OpenConnector(connString string) (driver.Connector, error) {
	config, err := d.merge(connString)
	if err != nil {
		return nil, err
	}
	if err := config.Validate(); err != nil {
		return nil, err
	}
	return &Connector{config: config}, nil
}

// merge is what a connection string means for this driver.
func (d *Driver) merge(connString string) (*pgvault.Config, error) {
	if d.config == nil {
		return pgvault.ParseConfig(connString)
	}
	config := d.config.Copy()
	if err := vaultparams.Override(connString, &config.Vault, &config.Rotation); err != nil {
		return nil, fmt.Errorf("pgvault: connection string of a driver registered with a Config: %w", err)
	}
	return config, nil
}

// RotatorOf returns the rotator behind a sql.DB that was opened by sql.Open with a
// driver of this package's, by [OpenDB], or from a [Connector]; nil for any other, one
// whose driver was wrapped included. It starts the pool if no connection has been
// opened yet.
func RotatorOf(db *sql.DB) *rotation.Rotator {
	if d, ok := db.Driver().(*Driver); ok && d.connector != nil {
		return d.connector.Rotator()
	}
	return nil
}
