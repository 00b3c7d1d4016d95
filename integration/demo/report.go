package main

import (
	"context"
	"fmt"
	"strings"
	"time"
)

const (
	settleTimeout = 2 * time.Second // for the server to notice that sockets were closed

	// A run of at least this long must have seen this many rotations: that is what it is for.
	longRun      = 90 * time.Second
	minRotations = 4
)

// report is what there is to say in the end.
type report struct {
	duration  time.Duration // what was asked for; 0 if nothing was
	ran       time.Duration
	reason    string // why it ended
	load      loadResult
	renewals  int
	rotations int
	service   error // how the service ended; nil in good order
	left      leftovers
	books     books
}

// leftovers is what the service should have removed.
type leftovers struct {
	leases, roles []string
	sessions      int
	err           error // why that is not known
}

// books is what the database has, compared with what the service confirmed.
type books struct {
	items, transfers  int
	balances, initial int64
	err               error // why that is not known
}

// inspect asks Vault and PostgreSQL, not the service.
func inspect(ctx context.Context, s *setting) (leftovers, books) {
	var left leftovers
	if left.leases, left.err = s.role.Leases(ctx); left.err == nil {
		left.roles, left.err = s.role.Users(ctx)
	}
	if left.err == nil {
		left.sessions, left.err = s.sessions(ctx)
	}
	return left, s.audit(ctx)
}

// sessions counts the service's sessions. Those whose sockets are closed already get a moment to end.
func (s *setting) sessions(ctx context.Context) (int, error) {
	for deadline := time.Now().Add(settleTimeout); ; {
		var found int
		err := s.bed.Postgres.Superuser.QueryRow(ctx,
			"SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND datname = current_database()",
			serviceName).Scan(&found)
		if err != nil {
			return 0, fmt.Errorf("count the service's sessions: %w", err)
		}
		if found == 0 || time.Now().After(deadline) {
			return found, nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return found, nil
		}
	}
}

func (s *setting) audit(ctx context.Context) books {
	b := books{initial: s.balances}
	b.err = s.bed.Postgres.Superuser.QueryRow(ctx, `
		SELECT (SELECT count(*) FROM items), (SELECT count(*) FROM transfers), (SELECT sum(balance) FROM accounts)`).
		Scan(&b.items, &b.transfers, &b.balances)
	return b
}

// problems says what is wrong, for people; empty means that all is well.
func (r *report) problems() []string {
	var found []string
	complain := func(is bool, format string, values ...any) {
		if is {
			found = append(found, fmt.Sprintf(format, values...))
		}
	}
	complain(r.load.requests == 0, "no request was sent")
	complain(r.load.failed > 0, "%d requests failed", r.load.failed)
	complain(r.service != nil, "%v", r.service)
	complain(r.duration > 0 && r.ran >= longRun && r.rotations < minRotations,
		"%d rotations in %v, at least %d were due", r.rotations, r.ran.Round(time.Second), minRotations)

	complain(r.left.err != nil, "what was left behind is not known: %v", r.left.err)
	complain(len(r.left.leases) > 0, "left in Vault: %s", strings.Join(r.left.leases, ", "))
	complain(len(r.left.roles) > 0, "left in PostgreSQL: the roles %s", strings.Join(r.left.roles, ", "))
	complain(r.left.sessions > 0, "left in PostgreSQL: %d sessions", r.left.sessions)

	complain(r.books.err != nil, "what the database has is not known: %v", r.books.err)
	if r.books.err == nil {
		complain(!r.load.items.fit(r.books.items), "%d items in the database: %s", r.books.items, &r.load.items)
		complain(!r.load.transfers.fit(r.books.transfers), "%d transfers in the database: %s", r.books.transfers, &r.load.transfers)
		complain(r.books.balances != r.books.initial, "the accounts hold %d, not %d as in the beginning", r.books.balances, r.books.initial)
	}
	return found
}

// fit says whether that many in the database are right. A request that failed may have had its effect or not.
func (w *writes) fit(stored int) bool { return w.confirmed <= stored && stored <= w.asked }

func (w *writes) String() string {
	return fmt.Sprintf("%d asked for, %d confirmed", w.asked, w.confirmed)
}

// text is the summary.
func (r *report) text() string {
	var b strings.Builder
	row := func(name, format string, values ...any) {
		fmt.Fprintf(&b, "%-20s %s\n", name, fmt.Sprintf(format, values...))
	}
	latency := &r.load.latency
	b.WriteString("\nsummary\n")
	row("ran", "%s (%s)", r.ran.Round(100*time.Millisecond), r.reason)
	row("requests", "%d, %d failed", r.load.requests, r.load.failed)
	row("latency", "p50 %s  p99 %s  p99.9 %s  max %s", milliseconds(latency.quantile(0.5)),
		milliseconds(latency.quantile(0.99)), milliseconds(latency.quantile(0.999)), milliseconds(latency.max))
	row("credentials", "%d rotations, %d renewals", r.rotations, r.renewals)
	row("in the database", "%d items and %d transfers; %d and %d were confirmed",
		r.books.items, r.books.transfers, r.load.items.confirmed, r.load.transfers.confirmed)
	row("left in Vault", "%d leases", len(r.left.leases))
	row("left in PostgreSQL", "%d roles, %d sessions", len(r.left.roles), r.left.sessions)
	problems := r.problems()
	if len(problems) == 0 {
		row("result", "all well: no request failed, nothing was left behind")
	}
	for _, problem := range problems {
		row("PROBLEM", "%s", problem)
	}
	return strings.TrimSuffix(b.String(), "\n")
}
