package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// What is looked at from outside: Vault's leases, the databases' users, their sessions. What a pool says of itself is
// only used to compare. A server may need a moment to notice that a socket was closed or a lease has ended, so it is
// looked again until all is in order, within a bound.

const (
	settleBound = 20 * time.Second

	// maxUnrevoked is rotation.Config's default.
	maxUnrevoked = 5
)

// outside is what the servers say of one of our pools.
type outside struct {
	leases   map[string]time.Time // and when each ends
	users    []string
	sessions []session
}

// session is one of the pool's at the database. The user may be one who does not exist any more, and then has no name at
// PostgreSQL.
type session struct {
	user string
	id   int
	text string
}

// settled returns what is not in order, once it has had the time to settle.
func (r *runner) settled(ctx context.Context, l lane) []string {
	for bound := time.Now().Add(cmp.Or(r.settle, settleBound)); ; {
		problems := r.look(ctx, l)
		if len(problems) == 0 || time.Now().After(bound) || ctx.Err() != nil {
			return problems
		}
		pause(ctx, 200*time.Millisecond)
	}
}

// look compares what Vault, the database and the pool say.
func (r *runner) look(ctx context.Context, l lane) []string {
	seen, err := r.site.look(ctx, l)
	if err != nil {
		return []string{err.Error()}
	}
	status := r.ledger.now(l)
	return compare(seen, status, r.site.vault.userOf, time.Now(), r.site.vault.counts().Faulty)
}

// compare finds what contradicts the invariants. faulty is how many users Vault may have made and lost by itself, since
// it failed while it was asked for them.
func compare(seen outside, status *poolStatus, userOf func(lease string) string, now time.Time, faulty int) (problems []string) {
	complain := func(format string, values ...any) { problems = append(problems, fmt.Sprintf(format, values...)) }
	known := make(map[string]bool)
	for _, g := range status.Generations {
		known[g.User] = true
	}
	leased, unknown := make(map[string]bool), 0
	for id, ends := range seen.leases {
		user := userOf(id)
		leased[user] = true
		if !known[user] && ends.After(now) {
			unknown++
		}
	}
	if len(status.Generations) == 0 || status.Unrevoked > maxUnrevoked {
		complain("%d generations, %d leases unrevoked: at most %d", len(status.Generations), status.Unrevoked, maxUnrevoked)
	}
	// An answer that was lost on its way leaves a lease that only Vault knows of, until its end.
	if unknown > 0 && len(seen.leases) > maxUnrevoked {
		complain("%d leases in Vault, %d of them unknown to the pool: at most %d", len(seen.leases), unknown, maxUnrevoked)
	}
	orphans := 0
	for _, user := range seen.users {
		if !leased[user] {
			orphans++
		}
	}
	if orphans > faulty {
		complain("%d users in the database have no lease in Vault, which has failed %d issues: %q", orphans, faulty, seen.users)
	}
	for _, s := range seen.sessions {
		switch {
		case s.user == "" || !slices.Contains(seen.users, s.user):
			complain("session %d of a user who does not exist, %q: %s", s.id, s.user, s.text)
		case !leased[s.user]:
			complain("session %d of a user without a lease, %s: %s", s.id, s.user, s.text)
		}
	}
	return problems
}

// look asks the servers. Sessions come first: one of a user who is not in a later list was of one who was about to go.
func (s *site) look(ctx context.Context, l lane) (outside, error) {
	var seen outside
	var err error
	if seen.sessions, err = s.sessions(ctx, l); err != nil {
		return seen, err
	}
	if seen.users, err = s.roles[l].Users(ctx); err != nil {
		return seen, err
	}
	ids, err := s.roles[l].Leases(ctx)
	if err != nil {
		return seen, err
	}
	seen.leases = make(map[string]time.Time)
	for _, id := range ids {
		seen.leases[id] = s.endOf(ctx, id)
	}
	return seen, nil
}

// endOf is when a lease ends; the past if Vault does not know it any more.
func (s *site) endOf(ctx context.Context, lease string) time.Time {
	secret, err := s.bed.Vault.Client.Logical().WriteWithContext(ctx, "sys/leases/lookup", map[string]any{"lease_id": lease})
	if err != nil || secret == nil {
		return time.Time{}
	}
	text, _ := secret.Data["expire_time"].(string)
	ends, _ := time.Parse(time.RFC3339Nano, text)
	return ends
}

func (s *site) sessions(ctx context.Context, l lane) ([]session, error) {
	if l == pgOurs {
		return s.postgresSessions(ctx, l)
	}
	return s.mariadbSessions(ctx, l)
}

// postgresSessions goes by the application's name.
func (s *site) postgresSessions(ctx context.Context, l lane) ([]session, error) {
	rows, err := s.bed.Postgres.Superuser.Query(ctx, `
		SELECT coalesce(r.rolname, ''), a.pid, coalesce(a.state, '') || ' ' || coalesce(a.query, '')
		FROM pg_stat_activity a LEFT JOIN pg_roles r ON r.oid = a.usesysid WHERE a.application_name = $1`, applicationName(l))
	if err != nil {
		return nil, fmt.Errorf("list PostgreSQL's sessions: %w", err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (one session, err error) {
		err = row.Scan(&one.user, &one.id, &one.text)
		return one, err
	})
	if err != nil {
		return nil, fmt.Errorf("list PostgreSQL's sessions: %w", err)
	}
	return found, nil
}

func (s *site) mariadbSessions(ctx context.Context, l lane) ([]session, error) {
	rows, err := s.bed.MariaDB.Root.QueryContext(ctx, `
		SELECT user, id, concat(command, ' ', coalesce(info, '')) FROM information_schema.processlist WHERE user LIKE ?`,
		"v-%-"+s.roles[l].Name+"-%")
	if err != nil {
		return nil, fmt.Errorf("list MariaDB's sessions: %w", err)
	}
	defer func() { _ = rows.Close() }() // its error is that of rows.Err
	var found []session
	for rows.Next() {
		var one session
		if err := rows.Scan(&one.user, &one.id, &one.text); err != nil {
			return nil, fmt.Errorf("list MariaDB's sessions: %w", err)
		}
		found = append(found, one)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list MariaDB's sessions: %w", err)
	}
	return found, nil
}

// leftovers is what is still there after the pools were closed.
type leftovers struct {
	leases, users, sessions []string
	rows                    []string // what is wrong with what the load has written
	err                     error    // why that is not known
}

// left looks at the servers after the end. What a pool knew of must be gone at once. Leases that only Vault knows of,
// since its answer was lost, end by themselves: wait is the time for it. knew says whose users a pool has had.
func (s *site) left(ctx context.Context, wrote map[lane]sums, knew func(lane, string) bool, wait time.Duration) leftovers {
	bound := time.Now().Add(wait)
	var kept []string
	for first := true; ; first = false {
		left := s.lookForLeft(ctx, func(l lane, lease string) {
			if first && knew(l, s.vault.userOf(lease)) {
				kept = append(kept, lease)
			}
		})
		nothing := len(left.leases)+len(left.users)+len(left.sessions) == 0 && left.err == nil
		if nothing || time.Now().After(bound) || !pause(ctx, 200*time.Millisecond) {
			left.rows = s.audit(ctx, wrote)
			for _, lease := range kept {
				if !slices.Contains(left.leases, lease) {
					left.leases = append(left.leases, lease)
				}
			}
			return left
		}
	}
}

func (s *site) lookForLeft(ctx context.Context, each func(lane, string)) (left leftovers) {
	for _, l := range ours {
		seen, err := s.look(ctx, l)
		if err != nil {
			left.err = err
			return left
		}
		for id, ends := range seen.leases {
			if left.leases = append(left.leases, id); ends.After(time.Now()) {
				each(l, id)
			}
		}
		left.users = append(left.users, seen.users...)
		for _, one := range seen.sessions {
			left.sessions = append(left.sessions, fmt.Sprintf("%s %s: %s", l, one.user, one.text))
		}
	}
	return left
}

// audit compares what is in the tables with what the load was told.
func (s *site) audit(ctx context.Context, wrote map[lane]sums) (problems []string) {
	const rowsQuery = "SELECT count(*) FROM chaos_rows WHERE lane = '%s'"
	const stepsQuery = "SELECT count(*), count(DISTINCT worker, n) FROM chaos_steps WHERE lane = '%s'"
	const stepsQueryPG = "SELECT count(*), count(DISTINCT (worker, n)) FROM chaos_steps WHERE lane = '%s'"
	for _, l := range lanes {
		var rows, steps, transactions int
		var err error
		if l.database() == postgresName {
			err = s.bed.Postgres.Superuser.QueryRow(ctx, fmt.Sprintf(rowsQuery, l)).Scan(&rows)
			if err == nil {
				err = s.bed.Postgres.Superuser.QueryRow(ctx, fmt.Sprintf(stepsQueryPG, l)).Scan(&steps, &transactions)
			}
		} else {
			err = s.bed.MariaDB.Root.QueryRowContext(ctx, fmt.Sprintf(rowsQuery, l)).Scan(&rows)
			if err == nil {
				err = s.bed.MariaDB.Root.QueryRowContext(ctx, fmt.Sprintf(stepsQuery, l)).Scan(&steps, &transactions)
			}
		}
		switch told := wrote[l]; {
		case err != nil:
			problems = append(problems, fmt.Sprintf("%s: count the rows: %v", l, err))
		case !told.Rows.fit(rows):
			problems = append(problems, fmt.Sprintf("%s: %d rows, but %d confirmed of %d", l, rows, told.Rows.Confirmed, told.Rows.Asked))
		case steps != 2*transactions || !told.Transactions.fit(transactions):
			problems = append(problems, fmt.Sprintf("%s: %d steps of %d transactions, but %d confirmed of %d", l, steps, transactions, told.Transactions.Confirmed, told.Transactions.Asked))
		}
	}
	return problems
}
