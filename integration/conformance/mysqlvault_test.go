package conformance_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"testing"

	"github.com/go-sql-driver/mysql"

	"github.com/vaultpool/vaultpool/integration/internal/conformance"
	"github.com/vaultpool/vaultpool/mysqlvault"
	"github.com/vaultpool/vaultpool/rotation"
)

func TestMySQLVault(t *testing.T) {
	conformance.Run(t, &conformance.Adapter{
		Server: conformance.MariaDB(bed), Open: openMySQLVault, SQLPools: true,
		// The driver does not always let our reason through.
		Ended: func(err error) bool {
			return errors.Is(err, rotation.ErrEnded) || errors.Is(err, mysql.ErrInvalidConn) || errors.Is(err, driver.ErrBadConn)
		},
	})
}

func openMySQLVault(ctx context.Context, o conformance.Options) (*conformance.Pool, error) {
	config := &mysqlvault.Config{Config: mysql.NewConfig(), Rotator: o.Rotator}
	config.Net, config.Addr, config.DBName = "tcp", o.Addr, bed.MariaDB.Database
	if o.Rotator == nil {
		config.Vault, config.Rotation = o.Vault, o.Rotation
	}
	connector, err := mysqlvault.NewConnector(ctx, config)
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(connector)
	return setMaxConns(&conformance.Pool{DB: db, Rotator: connector.Rotator(), Close: db.Close}, o.MaxConns), nil
}
