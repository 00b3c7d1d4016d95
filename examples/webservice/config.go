package main

import (
	"flag"
	"fmt"
	"io"
	"time"
)

// config comes from flags; the environment gives some of their defaults. Vault's part of it comes from VAULT_* and
// is none of our business.
type config struct {
	listen         string
	operators      string // empty: as listen
	database       string // a key of schemas
	databaseURL    string
	requestTimeout time.Duration
	drainTimeout   time.Duration
	poolTimeout    time.Duration
	allowRotate    bool
	printSchema    bool
}

// What -db may be.
const (
	postgresName = "postgres"
	mysqlName    = "mysql"
)

var schemas = map[string]string{postgresName: postgresSchema, mysqlName: mysqlSchema}

var exampleURLs = map[string]string{
	postgresName: "postgres://127.0.0.1/app?vault_path=database/creds/app",
	mysqlName:    "tcp(127.0.0.1:3306)/app?vault_path=database/creds/app",
}

func parseConfig(args []string, getenv func(string) string, usage io.Writer) (config, error) {
	var cfg config
	flags := flag.NewFlagSet("webservice", flag.ContinueOnError)
	flags.SetOutput(usage)
	flags.StringVar(&cfg.listen, "listen", orDefault(getenv("LISTEN_ADDR"), "127.0.0.1:8080"),
		"`address` to serve HTTP on (LISTEN_ADDR)")
	flags.StringVar(&cfg.operators, "operators-listen", getenv("OPERATORS_LISTEN_ADDR"),
		"`address` to serve the status page, health checks and metrics on, which strangers have no business with; empty: as -listen (OPERATORS_LISTEN_ADDR)")
	flags.StringVar(&cfg.database, "db", orDefault(getenv("DB"), postgresName),
		"which `database`: postgres, or mysql for MySQL and MariaDB (DB)")
	flags.StringVar(&cfg.databaseURL, "database-url", getenv("DATABASE_URL"),
		"connection `string` with a vault_path parameter, without user and password (DATABASE_URL)")
	flags.DurationVar(&cfg.requestTimeout, "request-timeout", 5*time.Second,
		"how long a request may take")
	flags.DurationVar(&cfg.drainTimeout, "drain-timeout", 15*time.Second,
		"how long requests under way may take when the service stops")
	flags.DurationVar(&cfg.poolTimeout, "pool-timeout", 10*time.Second,
		"how long closing connections and revoking the lease may take after that")
	flags.BoolVar(&cfg.allowRotate, "allow-rotate", false,
		"let whoever reaches the status page replace the credential")
	flags.BoolVar(&cfg.printSchema, "print-schema", false, "print the SQL that creates the tables, and exit")
	if err := flags.Parse(args); err != nil {
		return config{}, err // flags has printed it, with the usage
	}
	if flags.NArg() > 0 {
		return config{}, fmt.Errorf("unexpected argument %q: everything is a flag, see -help", flags.Arg(0))
	}
	if schemas[cfg.database] == "" {
		return config{}, fmt.Errorf("-db is %q: it must be %s or %s", cfg.database, postgresName, mysqlName)
	}
	if cfg.databaseURL == "" && !cfg.printSchema {
		return config{}, fmt.Errorf("no database: set DATABASE_URL or -database-url, for example %s", exampleURLs[cfg.database])
	}
	for name, value := range map[string]time.Duration{
		"request-timeout": cfg.requestTimeout, "drain-timeout": cfg.drainTimeout, "pool-timeout": cfg.poolTimeout,
	} {
		if value <= 0 {
			return config{}, fmt.Errorf("-%s is %v: it must be positive", name, value)
		}
	}
	return cfg, nil
}

func orDefault(value, fallback string) string {
	if value == "" {
		return fallback
	}
	return value
}
