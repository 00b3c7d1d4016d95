package mysqlvault_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/vaultpool/vaultpool/mysqlvault"
	"github.com/vaultpool/vaultpool/rotation"
)

// Everything mysql.ParseDSN takes, and where the credentials come from.
func ExampleParseConfig() {
	config, err := mysqlvault.ParseConfig("tcp(db.internal:3306)/app?parseTime=true" +
		"&vault_path=database/creds/app&vault_drain_timeout=2m")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(config.Addr, config.DBName, config.ParseTime)
	fmt.Println(config.Vault.Path, config.Rotation.DrainTimeout)
	fmt.Println(config.FormatDSN())
	// Output:
	// db.internal:3306 app true
	// database/creds/app 2m0s
	// tcp(db.internal:3306)/app?parseTime=true&vault_drain_timeout=2m0s&vault_path=database%2Fcreds%2Fapp
}

// A user in the DSN is an error: Vault issues it.
func ExampleParseConfig_mistakes() {
	_, err := mysqlvault.ParseConfig("jack:secret@tcp(db.internal)/app?vault_path=database/creds/app")
	fmt.Println(err)
	// Output:
	// mysqlvault: the DSN or Config sets the password (Passwd); remove it: user and password are issued, by Vault or whatever the source is, and change while the pool is open
}

// The whole change to a service: the import, the driver's name, and one parameter.
func Example() {
	db, err := sql.Open("mysqlvault", "tcp(db.internal:3306)/app?vault_path=database/creds/app")
	if err != nil {
		log.Print(err)
		return
	}
	defer func() { _ = db.Close() }() // drains, then revokes the lease

	var name string
	err = db.QueryRowContext(context.Background(), "SELECT name FROM items WHERE id = ?", 1).Scan(&name)
	var none *rotation.NoCredentialError
	if errors.As(err, &none) {
		log.Printf("no login since %s", none.Since)
	}
}

// Any source of credentials serves. As with sql.Open, it is no error that the database
// is not there yet.
func ExampleNewConnector() {
	config := &mysqlvault.Config{Config: mysql.NewConfig()}
	config.Addr, config.DBName = "127.0.0.1:1", "app"
	config.Source = rotation.SourceFunc(func(context.Context) (rotation.Credential, rotation.Lease, error) {
		return rotation.NewCredential("app", "an authentication token"), rotation.Lease{TTL: 15 * time.Minute}, nil
	})
	connector, err := mysqlvault.NewConnector(context.Background(), config)
	if err != nil {
		fmt.Println(err)
		return
	}
	db := sql.OpenDB(connector)
	defer func() { _ = db.Close() }()
	fmt.Println(mysqlvault.RotatorOf(db).Status().User)
	// Output: app
}

// What a DSN cannot say comes from a Config. The DSN may then be empty, or set
// parameters of this library's.
func ExampleRegisterDriver() {
	config, err := mysqlvault.ParseConfig("tcp(127.0.0.1:1)/app?parseTime=true")
	if err != nil {
		fmt.Println(err)
		return
	}
	config.Source = rotation.SourceFunc(func(context.Context) (rotation.Credential, rotation.Lease, error) {
		return rotation.NewCredential("app", "an authentication token"), rotation.Lease{TTL: 15 * time.Minute}, nil
	})
	if err := mysqlvault.RegisterDriver("orders", config); err != nil {
		fmt.Println(err)
		return
	}
	db, err := sql.Open("orders", "vault_drain_timeout=1m") // sends nothing
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = db.Close() }()
	fmt.Println("open connections:", db.Stats().OpenConnections)
	// Output: open connections: 0
}
