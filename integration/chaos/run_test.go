package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// The tests' program is the load process too.
func TestMain(m *testing.M) {
	if os.Getenv(loadVariable) != "" {
		os.Exit(loadMain(os.Stdin, os.Stdout))
	}
	code := m.Run()
	if err := goleak.Find(); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// testScreen writes to the test's log, and calls seen with every line.
type testScreen struct {
	t    *testing.T
	seen func(line string)

	mu   sync.Mutex // guards over
	over bool       // the test has ended and takes no more lines
}

func (s *testScreen) Write(line []byte) (int, error) {
	text := strings.TrimSuffix(string(line), "\n")
	if s.seen != nil {
		s.seen(text)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.over {
		s.t.Log(text)
	}
	return len(line), nil
}

func newTestScreen(t *testing.T, seen func(string)) *screen {
	t.Helper()
	s := &testScreen{t: t, seen: seen}
	t.Cleanup(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.over = true
	})
	return &screen{out: s}
}

// pick takes faults out of the catalogue.
func pick(t *testing.T, names ...string) (found []*fault) {
	t.Helper()
	for _, name := range names {
		i := slices.IndexFunc(catalogue(), func(f *fault) bool { return f.name == name })
		if i < 0 {
			t.Fatalf("there is no fault %q", name)
		}
		found = append(found, catalogue()[i])
	}
	return found
}

// The suite itself, on real servers, with a few faults: it has to be clean.
func TestSuite(t *testing.T) {
	faults := pick(t, "Vault killed", "PostgreSQL restarted", "prefix revoked, mysqlvault", "MariaDB silent")
	report, err := runSuite(t.Context(), options{duration: 25 * time.Second, seed: 1, faults: faults}, newTestScreen(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	t.Log(report.text())
	for _, problem := range report.problems() {
		t.Error(problem)
	}
	if len(report.record.faults) < 3 {
		t.Errorf("%d kinds of faults in %v, want 3 at least", len(report.record.faults), report.ran)
	}
	if restarted := report.record.faults["PostgreSQL restarted"]; restarted != nil && restarted.control == 0 {
		t.Error("the control has not noticed that PostgreSQL was restarted")
	}
	page := filepath.Join(t.TempDir(), "timeline.html")
	if err := report.draw(page); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(page)
	if err != nil || !strings.Contains(string(text), "Vault killed") || !strings.Contains(string(text), "</svg>") {
		t.Errorf("the timeline has %d bytes, without a fault that was injected: %v", len(text), err)
	}
}

// Stopped in the midst of a fault, it lifts it, closes the pools and leaves nothing behind.
func TestStoppedInTheMidstOfAFault(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	stopped := errors.New("stopped by the test")
	screen := newTestScreen(t, func(line string) {
		if strings.Contains(line, "inject") {
			cancel(stopped)
		}
	})
	report, err := runSuite(ctx, options{duration: 5 * time.Minute, seed: 1, faults: pick(t, longer("Vault sealed"))}, screen)
	if err != nil {
		t.Fatal(err)
	}
	if report.reason != stopped.Error() {
		t.Errorf("it ended because %s", report.reason)
	}
	for _, problem := range report.problems() {
		t.Error(problem)
	}
}

// A suite that cannot fail proves nothing. Here a fault says that it is Vault's, which excuses nothing by itself, and ends
// our sessions at the server, takes away rights for good, and leaves a user and a lease behind.
func TestSuiteFindsWhatIsWrong(t *testing.T) {
	sabotage := &fault{
		name: "sabotage", subject: onVault, least: 2 * time.Second, most: 2 * time.Second,
		inject: func(ctx context.Context, s *site, _ *planned) error {
			s.vault.addSecret("terminating connection") // as if it were one: the errors that follow show it
			for range 10 {
				if err := s.bed.Postgres.Exec(ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '"+applicationName(pgOurs)+"'"); err != nil {
					return err
				}
				pause(ctx, 100*time.Millisecond)
			}
			return s.bed.MariaDB.Exec(ctx, "CREATE USER 'v-x-"+s.roles[myOurs].Name+"-stray'@'%' IDENTIFIED BY 'x'")
		},
		lift: func(ctx context.Context, s *site, _ *planned) error {
			for range maxUnrevoked { // with a token of the test's: no pool knows of them
				if _, err := s.roles[pgOurs].Issue(ctx); err != nil {
					return err
				}
			}
			return nil
		},
	}
	report, err := runSuite(t.Context(), options{duration: 20 * time.Second, seed: 1, faults: []*fault{sabotage}, settle: time.Second}, newTestScreen(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	problems := strings.Join(report.problems(), "\n")
	t.Log(problems)
	for _, want := range []string{
		"shows a password or a token", "in excess", "pgvault: short query", "of them unknown to the pool",
		"users in the database have no lease in Vault", "left in the databases",
	} {
		if !strings.Contains(problems, want) {
			t.Errorf("not found: %q", want)
		}
	}
	if report.record.faults["sabotage"].surplus == 0 {
		t.Error("no failure is in excess")
	}
}
