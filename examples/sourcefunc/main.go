// Command sourcefunc queries PostgreSQL on Amazon RDS with IAM database authentication: the password is a token that
// this program signs, and that RDS takes for 15 minutes. It shows rotation.SourceFunc, for whatever else issues
// credentials that need no renewing and no revoking.
//
//	go run ./sourcefunc -user app -region eu-central-1 'postgres://db.abc.eu-central-1.rds.amazonaws.com/app?sslmode=verify-full&sslrootcert=global-bundle.pem'
//
// RDS demands TLS of such a login, and AWS publishes the certificates in global-bundle.pem. Once a minute it logs since
// when its session is open, which goes on long past the 15 minutes:
//
//	… level=INFO msg=query session_since=2026-01-05T10:12:03.441Z
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/vaultpool/vaultpool/pgvault"
	"github.com/vaultpool/vaultpool/rotation"
)

// signer returns a token for a login at endpoint, which is host:port. With the AWS SDK for Go it is
//
//	cfg, err := config.LoadDefaultConfig(ctx) // github.com/aws/aws-sdk-go-v2/config
//	if err != nil { … }
//	sign := func(ctx context.Context, endpoint, region, user string) (string, error) {
//		return auth.BuildAuthToken(ctx, endpoint, region, user, cfg.Credentials) // …/feature/rds/auth
//	}
//
// which signs without asking anybody, once it has the credentials of the instance or pod that it runs on. This
// example has no AWS SDK among its dependencies and takes the token from the aws command instead.
type signer func(ctx context.Context, endpoint, region, user string) (string, error)

// refreshAfter leaves a third of the 15 minutes for an attempt that fails to be repeated.
const refreshAfter = 10 * time.Minute

// iamSource issues tokens. The lease has no TTL, although a token has: RDS looks at it during the login and never
// again, so a session that is open has no reason to end with it, and a TTL would have the pool replace every
// connection each time. With RefreshAfter alone a new token is used for new logins from then on. Connections that
// are open stay, since the user is the same. Should a token end sooner, the first login that is refused has another
// one signed at once.
func iamSource(sign signer, endpoint, region, user string) rotation.SourceFunc {
	return func(ctx context.Context) (rotation.Credential, rotation.Lease, error) {
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second) // the pool sets no limit to an issue
		defer cancel()
		token, err := sign(ctx, endpoint, region, user)
		if err != nil {
			return rotation.Credential{}, rotation.Lease{}, fmt.Errorf("sign a token for %s at %s: %w", user, endpoint, err)
		}
		return rotation.NewCredential(user, token), rotation.Lease{RefreshAfter: refreshAfter}, nil
	}
}

func main() {
	user := flag.String("user", "app", "database `user` that has been granted rds_iam")
	region := flag.String("region", os.Getenv("AWS_REGION"), "AWS `region` of the database (AWS_REGION)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, awsCommand, *region, *user, flag.Arg(0), slog.New(slog.NewTextHandler(os.Stdout, nil))); err != nil {
		fmt.Fprintln(os.Stderr, "sourcefunc:", err)
		os.Exit(1)
	}
}

// run queries until ctx ends.
func run(ctx context.Context, sign signer, region, user, databaseURL string, logger *slog.Logger) (err error) {
	config, err := pgvault.ParseConfig(databaseURL)
	if err != nil {
		return err
	}
	endpoint := net.JoinHostPort(config.ConnConfig.Host, strconv.Itoa(int(config.ConnConfig.Port)))
	config.Source = iamSource(sign, endpoint, region, user)
	config.Rotation.Logger = logger
	pool, err := pgvault.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pool.Shutdown(context.WithoutCancel(ctx))) }()

	ticker := time.NewTicker(time.Minute)
	defer ticker.Stop()
	for {
		var opened time.Time
		err := pool.QueryRow(ctx, "SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()").Scan(&opened)
		if err == nil {
			logger.Info("query", "session_since", opened) // goes on past the 15 minutes
		} else if ctx.Err() == nil {
			logger.Error("query", "error", err) // the pool recovers by itself
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}
