package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/vaultpool/vaultpool/rotation"
)

func TestClassify(t *testing.T) {
	for _, test := range []struct {
		err  error
		want class
	}{
		{fmt.Errorf("read: %w", errWrong), wrongData},
		{fmt.Errorf("write: %w", &pgconn.PgError{Code: "42501"}), pgPermission},
		{&mysql.MySQLError{Number: 1045}, myRefused},
		{&rotation.NoCredentialError{Err: context.DeadlineExceeded}, noCredential},
		{fmt.Errorf("read tcp: %w", rotation.ErrEnded), ended},
		{fmt.Errorf("dial: %w", context.DeadlineExceeded), deadline},
		{mysql.ErrInvalidConn, network},
		{errors.New("anything"), other},
	} {
		if got := classify(test.err); got != test.want {
			t.Errorf("%v is %s, want %s", test.err, got, test.want)
		}
	}
}

// settledServers is what is seen from outside while all is in order: a current generation and one that drains.
func settledServers() (outside, *poolStatus, func(string) string) {
	status := &poolStatus{Generation: 2, Usable: true, Unrevoked: 2, Generations: []generation{
		{ID: 1, User: "old", State: "draining", Connections: 1}, {ID: 2, User: "new", State: "current", Connections: 3},
	}}
	seen := outside{
		leases: map[string]time.Time{"L1": at(20), "L2": at(20)}, users: []string{"old", "new"},
		sessions: []session{{"old", 7, "idle"}, {"new", 8, "idle"}},
	}
	users := map[string]string{"L1": "old", "L2": "new", "L3": "lost"}
	return seen, status, func(lease string) string { return users[lease] }
}

func TestInvariants(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*outside, *poolStatus)
		want   string // "": all is in order
	}{
		{"all in order", func(*outside, *poolStatus) {}, ""},
		{"an answer was lost", func(o *outside, _ *poolStatus) { o.leases["L3"] = at(20); o.users = append(o.users, "lost") }, ""},
		{"too many of them", func(o *outside, _ *poolStatus) {
			for i := range maxUnrevoked {
				o.leases[fmt.Sprint("X", i)] = at(20)
			}
		}, "5 of them unknown to the pool"},
		{"Vault is late in removing what has ended", func(o *outside, _ *poolStatus) {
			for i := range maxUnrevoked {
				o.leases[fmt.Sprint("X", i)] = at(-1)
			}
		}, ""},
		{"over the cap", func(_ *outside, s *poolStatus) { s.Unrevoked = maxUnrevoked + 1 }, "6 leases unrevoked"},
		{"a user without a lease", func(o *outside, _ *poolStatus) { delete(o.leases, "L1"); o.sessions = o.sessions[1:] }, "1 users in the database have no lease"},
		{"a session of such a user", func(o *outside, _ *poolStatus) { delete(o.leases, "L1") }, "session 7 of a user without a lease"},
		{"a session of nobody", func(o *outside, _ *poolStatus) { o.sessions = append(o.sessions, session{"", 9, "idle"}) }, "session 9 of a user who does not exist"},
		{"a session of a user who was dropped", func(o *outside, _ *poolStatus) { o.users = o.users[1:] }, "session 7 of a user who does not exist"},
	} {
		seen, status, userOf := settledServers()
		test.change(&seen, status)
		found := strings.Join(compare(seen, status, userOf, at(0), 0), "; ")
		if (found == "") != (test.want == "") || !strings.Contains(found, test.want) {
			t.Errorf("%s: %q, want %q", test.name, found, test.want)
		}
	}
	seen, status, userOf := settledServers()
	seen.users = append(seen.users, "made by a Vault that failed")
	if found := compare(seen, status, userOf, at(0), 1); len(found) > 0 {
		t.Errorf("what Vault has left itself: %q", found)
	}
}

func TestMostWithin(t *testing.T) {
	var times []time.Time
	for _, s := range []float64{0, 1, 2, 9.9, 10, 11, 30} {
		times = append(times, at(s))
	}
	if got := mostWithin(times, 10*time.Second); got != 4 {
		t.Errorf("got %d, want 4", got)
	}
	if got := mostWithin(nil, time.Second); got != 0 {
		t.Errorf("got %d of nothing", got)
	}
}

// A pool that does not come back is found: while it says that it has no credential, and while its queries fail.
func TestWhatDoesNotHealIsFound(t *testing.T) {
	for _, test := range []struct {
		name  string
		spoil func(*ledger)
		want  string // "": it heals
	}{
		{"all well", func(*ledger) {}, ""},
		{"no credential", func(l *ledger) { l.status[pgOurs].Usable = false }, "pgvault: no usable credential"},
		{"the revoked one", func(l *ledger) { l.status[myOurs].Generation = 3 }, "mysqlvault: the revoked credential is still in use"},
		{"connections of a dead one", func(l *ledger) {
			l.status[pgOurs].Generations = []generation{{ID: 4, Dead: true, Connections: 1}}
		}, "pgvault: a dead credential still has connections"},
		{"an error that stays", func(l *ledger) { l.status[pgOurs].LastError = "issue: no" }, "has not succeeded since"},
		{"queries that fail", func(l *ledger) { l.lastBad[myControl] = time.Now().Add(time.Hour) }, "mysql: operations go on failing"},
		{"queries that do not return", func(l *ledger) { l.worked[pgControl] = time.Now() }, "pgxpool: no query has succeeded lately"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			l := newLedger()
			for _, lane := range lanes {
				l.worked[lane] = time.Now().Add(time.Hour) // it goes on working
				l.status[lane] = &poolStatus{Lane: lane, Generation: 5, Usable: true}
			}
			test.spoil(l)
			r := &runner{ledger: l, patience: 2 * quiet}
			e := &episode{faults: []*planned{happened(t, "lease revoked, mysqlvault", 0, 0)}}
			got := r.heal(e, time.Now(), map[lane]uint64{myOurs: 4})
			if (got.trouble == "") != (test.want == "") || !strings.Contains(got.trouble, test.want) {
				t.Errorf("%q, want %q", got.trouble, test.want)
			}
		})
	}
}

// cleanReport is that of a run in which all was well.
func cleanReport(t *testing.T) *report {
	t.Helper()
	r := &report{seed: 1, ran: time.Minute, reason: "the time is over", record: newRecord(), end: &ending{}}
	r.snapshot = newLedger().snapshot()
	for _, l := range lanes {
		r.snapshot.totals[l] = tick{OK: 100, Long: 10, Failed: 5}
		r.snapshot.seconds = []second{{at: at(0), p99: map[lane]time.Duration{l: time.Millisecond}}}
	}
	p := happened(t, "PostgreSQL restarted", 0, 2)
	e := &episode{faults: []*planned{p}}
	failures := append(many(5, failed(pgOurs, network, 1)), many(5, failed(pgControl, network, 1))...)
	w := window{faults: e.faults, began: at(0), over: at(4), healed: true}
	tallies := map[lane]tally{pgOurs: judge(w, pgOurs, nil, failures), myOurs: judge(w, myOurs, nil, failures)}
	r.record.add(e, w, healing{took: map[lane]time.Duration{pgOurs: 1500 * time.Millisecond}}, tallies, failures)
	return r
}

func TestSummary(t *testing.T) {
	r := cleanReport(t)
	if problems := r.problems(); len(problems) > 0 {
		t.Errorf("a clean run has %q", problems)
	}
	text := r.text()
	for _, want := range []string{"PostgreSQL restarted", "1.50s", "-seed=1", "all well", "0 leases, 0 users, 0 sessions, 0 sockets, 0 goroutines"} {
		if !strings.Contains(text, want) {
			t.Errorf("the summary lacks %q:\n%s", want, text)
		}
	}
	page := t.TempDir() + "/page.html"
	if err := r.draw(page); err != nil {
		t.Fatal(err)
	}
	if drawn, err := os.ReadFile(page); err != nil || strings.Count(string(drawn), "<circle") != 10 {
		t.Errorf("10 failures are not drawn as 10 dots: %v", err)
	}
}

func TestProblems(t *testing.T) {
	for _, test := range []struct {
		spoil func(*report)
		want  string
	}{
		{func(r *report) { r.record.inPeace(failed(pgOurs, network, 1)) }, "1 operations of ours failed in peace"},
		{func(r *report) { r.record.inPeace(failed(pgControl, network, 1)) }, "proves nothing"},
		{func(r *report) { r.record.broken("a session of nobody") }, "a session of nobody"},
		{func(r *report) { r.record.texts["too much"] = 3 }, "in excess: 3× too much"},
		{func(r *report) { r.err = errors.New("it broke") }, "it broke"},
		{func(r *report) { r.closing = errors.New("it hung") }, "it hung"},
		{func(r *report) { r.snapshot.totals[myControl] = tick{} }, "mysql has done nothing"},
		{func(r *report) { r.snapshot.most[pgOurs] = maxUnrevoked + 1 }, "6 unrevoked leases"},
		{func(r *report) { r.requests.Most = mostRequests + 1 }, "requests at Vault within"},
		{func(r *report) { r.end = nil }, "is not known"},
		{func(r *report) { r.end.Errors = []string{"not revoked"} }, "not revoked"},
		{func(r *report) { r.end.Goroutines = "one" }, "goroutines are left"},
		{func(r *report) { r.end.Sockets = []string{"socket:[1]"} }, "1 sockets are left"},
		{func(r *report) { r.left.err = errors.New("no answer") }, "no answer"},
		{func(r *report) { r.left.leases = []string{"L1"} }, "left in Vault: L1"},
		{func(r *report) { r.left.users = []string{"u"} }, "the users u"},
		{func(r *report) { r.left.sessions = []string{"s"} }, "the sessions of s"},
		{func(r *report) { r.left.rows = []string{"a row is missing"} }, "a row is missing"},
	} {
		r := cleanReport(t)
		test.spoil(r)
		if found := strings.Join(r.problems(), "; "); !strings.Contains(found, test.want) || !strings.Contains(r.text(), "PROBLEM") {
			t.Errorf("got %q, want %q", found, test.want)
		}
	}
}

func TestOptions(t *testing.T) {
	o, err := parseOptions([]string{"-duration=2m", "-seed=9", "-html=x", "-only=^Vault"})
	if err != nil || o.duration != 2*time.Minute || o.seed != 9 || o.html != "x" || len(o.faults) < 5 || len(o.faults) == len(catalogue()) {
		t.Errorf("got %+v, %v", o, err)
	}
	if o, err := parseOptions(nil); err != nil || o.duration != 5*time.Minute || o.seed == 0 || len(o.faults) != len(catalogue()) {
		t.Errorf("got %+v, %v", o, err)
	}
	for _, wrong := range []string{"-duration=0s", "-duration=-1m", "more", "-only=(", "-only=no such fault"} {
		if _, err := parseOptions([]string{wrong}); err == nil {
			t.Errorf("%s is taken", wrong)
		}
	}
}

// What is left in the load process is found. It cannot run beside other tests, whose goroutines it would find.
func TestLeftInProcess(t *testing.T) {
	if end := leftInProcess(); len(end.Sockets) > 0 || end.Goroutines != "" {
		t.Fatalf("before there is anything: %+v", end)
	}
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { <-done }()
	end := leftInProcess()
	close(done)
	if err := listener.Close(); err != nil {
		t.Error(err)
	}
	if len(end.Sockets) != 1 || end.Goroutines == "" {
		t.Errorf("a socket and a goroutine are found as %+v", end)
	}
}
