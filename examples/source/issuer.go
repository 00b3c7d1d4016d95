package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/vaultpool/vaultpool/rotation"
)

// issueTimeout bounds an issue. The context of one is never cancelled: who had given up would not know of the user that
// is made all the same.
const issueTimeout = 10 * time.Second

// issuer makes users of PostgreSQL. What is issued, renewed and revoked is called a lease; here its ID is the user's name.
//
// PostgreSQL refuses logins from VALID UNTIL on, by its own clock, but drops nobody: after a crash the last user stays.
// Whoever runs this in earnest drops those whose time is over, now and then.
type issuer struct {
	admin  *pgxpool.Pool // of a user who may create roles
	group  string        // whose members may use the tables; users own nothing, so that dropping them cannot fail
	ttl    time.Duration
	maxTTL time.Duration
}

// Issue makes a rotation.Source of it.
func (s *issuer) Issue(ctx context.Context) (rotation.Credential, rotation.Lease, error) {
	ctx, cancel := context.WithTimeout(ctx, issueTimeout)
	defer cancel()
	born, ttl := time.Now(), min(s.ttl, s.maxTTL)
	user, password := fmt.Sprintf("app_%d_%s", born.Unix(), rand.Text()), rand.Text()
	err := s.execute(ctx, "CREATE ROLE %I LOGIN PASSWORD %L VALID UNTIL %L IN ROLE %I", user, password, born.Add(ttl), s.group)
	if err != nil {
		return rotation.Credential{}, rotation.Lease{}, fmt.Errorf("create the role %s: %w", user, err)
	}
	lease := rotation.Lease{ID: user, TTL: ttl, Renewable: true, Revocable: true}
	return rotation.NewCredential(user, password), lease, nil
}

// Renew makes a rotation.Renewer of it. It grants less than it was asked for where that would exceed maxTTL; the pool then
// takes another user in good time.
func (s *issuer) Renew(ctx context.Context, lease rotation.Lease, increment time.Duration) (rotation.Lease, error) {
	var born int64
	if _, err := fmt.Sscanf(lease.ID, "app_%d_", &born); err != nil {
		return lease, fmt.Errorf("renew %q: %w: no user of ours is called that", lease.ID, rotation.ErrInvalid)
	}
	now, ceiling := time.Now(), time.Unix(born, 0).Add(s.maxTTL)
	if !now.Before(ceiling) {
		return lease, fmt.Errorf("renew %s: %w: it is older than %v", lease.ID, rotation.ErrLeaseGone, s.maxTTL)
	}
	lease.TTL = min(increment, ceiling.Sub(now))
	lease.Capped = lease.TTL < increment
	if err := s.execute(ctx, "ALTER ROLE %I VALID UNTIL %L", lease.ID, now.Add(lease.TTL)); err != nil {
		return lease, fmt.Errorf("renew %s: %w", lease.ID, err)
	}
	return lease, nil
}

// Revoke makes a rotation.Revoker of it. It is called when no connection of the user is left.
func (s *issuer) Revoke(ctx context.Context, lease rotation.Lease) error {
	if err := s.execute(ctx, "DROP ROLE IF EXISTS %I", lease.ID); err != nil {
		return fmt.Errorf("drop the role %s: %w", lease.ID, err)
	}
	return nil
}

// execute runs a statement that takes no parameters of its own. PostgreSQL puts in the arguments, quoted.
func (s *issuer) execute(ctx context.Context, statement string, arguments ...any) error {
	texts := make([]string, len(arguments))
	for i, argument := range arguments {
		texts[i] = fmt.Sprint(argument)
		if at, ok := argument.(time.Time); ok {
			texts[i] = at.UTC().Format(time.RFC3339Nano)
		}
	}
	var quoted string
	if err := s.admin.QueryRow(ctx, "SELECT format($1, VARIADIC $2::text[])", statement, texts).Scan(&quoted); err != nil {
		return err
	}
	_, err := s.admin.Exec(ctx, quoted)
	var refused *pgconn.PgError
	if errors.As(err, &refused) && refused.Code == "42704" { // undefined_object
		return fmt.Errorf("%w: %w", rotation.ErrLeaseGone, err)
	}
	return err
}
