package main

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // and mysql, by mysqlvault

	"github.com/vaultpool/vaultpool/integration/testbed"
)

// The demo itself, on real servers, stopped as by Ctrl-C while a rotation is under way: the new credential is in place
// and the old one's connections are being replaced. No request may fail, and nothing may be left.
func TestStoppedInMidRotation(t *testing.T) {
	for _, database := range []string{postgresName, mysqlName} {
		t.Run(database, func(t *testing.T) { stopInMidRotation(t, database) })
	}
}

func stopInMidRotation(t *testing.T, database string) {
	t.Helper()
	stopped := errors.New("stopped in mid-rotation")
	report, said := runUntil(t, options{database: database, audit: true}, func(line string) error {
		if strings.Contains(line, " draining ") && !strings.Contains(line, "jobs:") {
			return stopped
		}
		return nil
	})
	if report.reason != stopped.Error() {
		t.Errorf("it ended because %s, without a rotation", report.reason)
	}
	if !strings.Contains(said, " conns ") {
		t.Error("the status page was never read")
	}
	if len(report.secrets) < 4 { // a token and a password for each of two, at least
		t.Errorf("%d secrets are known", len(report.secrets))
	}
	for _, secret := range report.secrets { // hazard 45
		if strings.Contains(said+report.text(), secret) {
			t.Error("a secret was printed")
		}
	}
	if report.rotations != 1 || report.renewals == 0 {
		t.Errorf("%d rotations and %d renewals: want 1, and at least 1", report.rotations, report.renewals)
	}
	if report.revocations.checked < 2 {
		t.Errorf("%d revocations were looked at, want 2 at least", report.revocations.checked)
	}
	if jobs := report.jobs; database == mysqlName && (jobs == nil || jobs.transactions.confirmed == 0 || jobs.abandoned == 0 || jobs.lookups == 0) {
		t.Errorf("the jobs did not do everything: %+v", jobs)
	}
}

// runUntil runs the demo until enough, which is given each line that it says, returns a reason to stop it. It returns
// all that was said, too.
func runUntil(t *testing.T, o options, enough func(line string) error) (_ *report, said string) {
	t.Helper()
	runtime.LockOSThread() // as in main: the service ends with the thread that started it
	defer runtime.UnlockOSThread()
	out, screenOut, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	screen := newScreen(screenOut)
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	read := make(chan struct{})
	var lines strings.Builder
	go func() {
		defer close(read)
		scanner := bufio.NewScanner(out)
		for scanner.Scan() {
			t.Log(scanner.Text())
			lines.WriteString(scanner.Text() + "\n")
			if reason := enough(scanner.Text()); reason != nil {
				cancel(reason)
			}
		}
	}()
	o.duration = 5 * time.Minute
	report, err := runDemo(ctx, o, screen)
	screen.close()
	_ = screenOut.Close()
	<-read
	if err != nil {
		t.Fatal(err)
	}
	t.Log(report.text())
	for _, problem := range report.problems() {
		t.Error(problem)
	}
	return report, lines.String()
}

// The look after a revocation finds a session that lives on although its user is gone, and only such a one.
func TestRevocationsFindWhatLivesOn(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	bed, err := testbed.Start(ctx, testbed.Options{Postgres: true, MariaDB: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := bed.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, test := range []struct {
		database database
		driver   string
		logIn    func(user, password string) string
	}{
		{&postgres{bed}, "pgx", func(user, password string) string {
			address := bed.Postgres.URLFor(user, password)
			if strings.Contains(address, "?") {
				return address + "&application_name=" + serviceName
			}
			return address + "?application_name=" + serviceName
		}},
		{&mariadb{bed}, "mysql", bed.MariaDB.DSNFor},
	} {
		t.Run(test.database.name(), func(t *testing.T) {
			role, err := test.database.role(ctx, testbed.RoleOptions{})
			if err != nil {
				t.Fatal(err)
			}
			s := &setting{bed: bed, database: test.database, role: role}
			credential, err := role.Issue(ctx)
			if err != nil {
				t.Fatal(err)
			}
			db, err := sql.Open(test.driver, test.logIn(credential.User, credential.Password))
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			if err := db.PingContext(ctx); err != nil {
				t.Fatal(err)
			}
			expectAlive(ctx, t, s, 1, 0)

			_, err = bed.Vault.Client.Logical().WriteWithContext(ctx, "sys/leases/revoke", map[string]any{"lease_id": credential.LeaseID, "sync": true})
			if err != nil {
				t.Fatal(err)
			}
			expectAlive(ctx, t, s, 1, 1)
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			expectAlive(ctx, t, s, 0, 0)
		})
	}
}

// expectAlive counts sessions, and those of them whose user is gone.
func expectAlive(ctx context.Context, t *testing.T, s *setting, want, wantOrphans int) {
	t.Helper()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	screen := newScreen(null)
	defer screen.close()
	revocations := newRevocations(s, screen)
	revocations.check()
	result := revocations.result()
	if result.err != nil || result.checked != 1 || len(result.alive) != wantOrphans {
		t.Errorf("got %+v, want %d sessions of users who are gone", result, wantOrphans)
	}
	all, err := s.settled(ctx, settleTimeout, s.database.sessions)
	if err != nil || len(all) != want {
		t.Errorf("got the sessions %q, %v, want %d", all, err, want)
	}
}
