package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/vaultpool/vaultpool/integration/testbed"
)

const (
	settleTimeout = 2 * time.Second // for the server to notice that sockets were closed

	// A run of at least this long must have seen this many rotations: that is what it is for.
	longRun      = 90 * time.Second
	minRotations = 4
)

// report is what there is to say in the end.
type report struct {
	database    string        // its name, for people
	duration    time.Duration // what was asked for; 0 if nothing was
	ran         time.Duration
	reason      string // why it ended
	load        loadResult
	renewals    int
	rotations   int
	credentials int     // the service had in all
	metrics     metrics // what the service said of itself
	story       storyResult
	service     error       // how the service ended; nil in good order
	jobs        *jobsResult // nil where there are none
	revocations revocationsResult
	left        leftovers
	books       books
	secrets     []string // that Vault handed out, if options.audit
}

// leftovers is what the service should have removed.
type leftovers struct {
	leases, users, sessions []string
	err                     error // why that is not known
}

// books is what the database has, compared with what the service confirmed.
type books struct {
	items, transfers  int
	balances, initial int64
	err               error // why that is not known
}

// inspect asks Vault and the database, not the service.
func inspect(ctx context.Context, s *setting) (leftovers, books) {
	var left leftovers
	if left.leases, left.err = s.role.Leases(ctx); left.err == nil {
		left.users, left.err = s.role.Users(ctx)
	}
	if left.err == nil {
		left.sessions, left.err = s.settled(ctx, settleTimeout, s.database.sessions)
	}
	found, err := s.database.books(ctx)
	found.initial, found.err = s.balances, err
	return left, found
}

// settled returns the sessions that look finds. Those whose sockets are closed already get a moment to end.
func (s *setting) settled(ctx context.Context, moment time.Duration, look func(context.Context, *testbed.Role) ([]string, error)) ([]string, error) {
	for deadline := time.Now().Add(moment); ; {
		found, err := look(ctx, s.role)
		if err != nil || len(found) == 0 || time.Now().After(deadline) {
			return found, err
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return found, nil
		}
	}
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
	complain(r.story.err != nil, "%v", r.story.err)
	complain(r.duration > 0 && r.ran >= longRun && r.rotations < minRotations,
		"%d rotations in %v, at least %d were due", r.rotations, r.ran.Round(time.Second), minRotations)

	credentials := r.credentials
	if r.jobs != nil {
		credentials += r.jobs.credentials
		found = append(found, r.jobs.problems()...)
	}
	complain(r.revocations.checked < credentials, "%d credentials but only %d revocations", credentials, r.revocations.checked)
	complain(r.revocations.err != nil, "whether sessions outlived a revocation is not known: %v", r.revocations.err)
	for _, session := range r.revocations.alive {
		complain(true, "alive after the revocation: %s", session)
	}

	complain(r.left.err != nil, "what was left behind is not known: %v", r.left.err)
	complain(len(r.left.leases) > 0, "left in Vault: %s", strings.Join(r.left.leases, ", "))
	complain(len(r.left.users) > 0, "left in %s: the users %s", r.database, strings.Join(r.left.users, ", "))
	complain(len(r.left.sessions) > 0, "left in %s: the sessions of %s", r.database, strings.Join(r.left.sessions, ", "))

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

// rows says what the episodes came to.
func (s *storyResult) rows(row func(name, format string, values ...any)) {
	if s.outage > 0 {
		row("Vault sealed", "for %v, when a renewal was due", s.outage.Round(10*time.Millisecond))
	}
	if s.rush != nil {
		row("rush", "%d requests by %d at once, %d failed; p50 %s  p99 %s  max %s", s.rush.requests, rushWorkers, s.rush.failed,
			milliseconds(s.rush.latency.quantile(0.5)), milliseconds(s.rush.latency.quantile(0.99)), milliseconds(s.rush.latency.max))
	}
	if lost := s.lost; lost != nil {
		row("Vault sealed", "for %v, longer than the lease: %d requests while it lasted, %d failed; then no credential for %v, and a new one %v after unsealing",
			lost.sealed.Round(100*time.Millisecond), lost.requests, lost.failed, lost.lost.Round(100*time.Millisecond), lost.recovery.Round(10*time.Millisecond))
	}
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
	r.story.rows(row)
	row("metrics", "%s", &r.metrics)
	if r.jobs != nil {
		row("jobs", "%s", r.jobs)
	}
	row("revocations", "%d, each looked at from outside: %d sessions outlived their user",
		r.revocations.checked, len(r.revocations.alive))
	row("left in Vault", "%d leases", len(r.left.leases))
	row("left in "+r.database, "%d users, %d sessions", len(r.left.users), len(r.left.sessions))
	problems := r.problems()
	if len(problems) == 0 {
		row("result", "all well: no request failed, no session outlived its user, nothing was left behind")
	}
	for _, problem := range problems {
		row("PROBLEM", "%s", problem)
	}
	return strings.TrimSuffix(b.String(), "\n")
}
