package mysqlvault

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"

	"github.com/vaultpool/vaultpool/internal/registration"
	"github.com/vaultpool/vaultpool/internal/vaultparams"
	"github.com/vaultpool/vaultpool/rotation"
)

// DriverName is what importing this package registers with database/sql.
const DriverName = "mysqlvault"

func init() { sql.Register(DriverName, &Driver{}) }

// Driver is what database/sql knows by a name.
type Driver struct {
	config    *Config    // what [RegisterDriver] was given; nil for DriverName
	connector *Connector // whose driver it is; nil for one that is registered
}

// RegisterDriver makes sql.Open(name, dsn) use config, for what a DSN cannot say. The
// DSN may then be empty, or override vault_* parameters and nothing else:
// "vault_path=database/creds/report&vault_drain_timeout=1m". Each sql.DB has its own
// lease, unless config.Rotator is set. It returns an error if config is not usable or
// the name is taken; a name cannot be given back, since database/sql has no means for
// it. The config is copied.
func RegisterDriver(name string, config *Config) error {
	if err := config.check(); err != nil {
		return err
	}
	if err := config.origin().Resolve(context.Background()); err != nil {
		return fmt.Errorf("mysqlvault: %w", err)
	}
	if err := registration.Register(name, &Driver{config: config.Clone()}); err != nil {
		return fmt.Errorf("mysqlvault: %w", err)
	}
	return nil
}

// Open is what database/sql calls of drivers that have no OpenConnector. A connection
// alone would have nobody to renew its lease.
func (d *Driver) Open(string) (driver.Conn, error) {
	return nil, errors.New("mysqlvault: Driver.Open: use sql.Open, or OpenConnector: a connection alone has nobody to renew its lease, and to revoke it")
}

// OpenConnector is what sql.Open calls. It sends nothing: the connector asks Vault when
// it is first used, and each caller waits for that within its own context.
func (d *Driver) OpenConnector(dsn string) (driver.Connector, error) {
	config, err := d.merge(dsn)
	if err != nil {
		return nil, err
	}
	return newConnector(context.Background(), config)
}

// merge is what a DSN means for this driver.
func (d *Driver) merge(dsn string) (*Config, error) {
	if d.config == nil {
		return ParseConfig(dsn)
	}
	config := d.config.Clone()
	if err := vaultparams.Override(dsn, &config.Vault, &config.Rotation); err != nil {
		return nil, fmt.Errorf("mysqlvault: DSN of a driver registered with a Config: %w", err)
	}
	return config, nil
}

// RotatorOf returns the rotator behind a sql.DB that was opened by [Open], by
// sql.Open with a driver of this package's, or from a [Connector]; nil for any other,
// one whose driver was wrapped included. It starts the rotator if no connection has
// been opened yet.
func RotatorOf(db *sql.DB) *rotation.Rotator {
	if d, ok := db.Driver().(*Driver); ok && d.connector != nil {
		return d.connector.Rotator()
	}
	return nil
}
