package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vaultpool/vaultpool/rotation"
)

func TestParseOptions(t *testing.T) {
	for _, test := range []struct {
		args         []string
		db, duration string // the environment
		want         options
		wantErr      string
	}{
		{nil, "", "", options{database: postgresName, outage: time.Second}, ""},
		{nil, "postgres", "", options{database: postgresName, outage: time.Second}, ""},
		{nil, "mysql", "90s", options{database: mysqlName, duration: 90 * time.Second, outage: time.Second}, ""},
		{[]string{"-duration", "5m", "-db", "postgres", "-outage", "0"}, "mysql", "90s", options{database: postgresName, duration: 5 * time.Minute}, ""},
		{[]string{"-outage", "3"}, "", "", options{}, `OUTAGE is "3"`},
		{[]string{"-outage", "-3s"}, "", "", options{}, `OUTAGE is "-3s"`},
		{nil, "oracle", "", options{}, `DB is "oracle": it must be postgres or mysql`},
		{[]string{"-db", "mariadb"}, "", "", options{}, `DB is "mariadb"`},
		{nil, "", "90", options{}, `DURATION is "90"`},
		{nil, "", "0s", options{}, `DURATION is "0s"`},
		{nil, "", "-1s", options{}, `DURATION is "-1s"`},
	} {
		environment := map[string]string{"DB": test.db, "DURATION": test.duration}
		got, err := parseOptions(test.args, func(name string) string { return environment[name] })
		if got != test.want || (err != nil) != (test.wantErr != "") || err != nil && !strings.Contains(err.Error(), test.wantErr) {
			t.Errorf("%v with %v: got %v, %v", test.args, environment, got, err)
		}
	}
}

func TestHistogram(t *testing.T) {
	var h histogram
	if got := h.quantile(0.99); got != 0 {
		t.Errorf("of nothing: got %v", got)
	}
	for i := 1; i <= 1000; i++ {
		h.add(time.Duration(i) * 100 * time.Microsecond)
	}
	for q, want := range map[float64]time.Duration{
		0: 100 * time.Microsecond, 0.5: 50 * time.Millisecond, 0.99: 99 * time.Millisecond, 0.999: 99900 * time.Microsecond,
	} {
		got := h.quantile(q)
		if got < want || float64(got) > 1.023*float64(want) {
			t.Errorf("quantile %v: got %v, want %v or up to 2.3 %% more", q, got, want)
		}
	}
	if got := h.quantile(1); got != 100*time.Millisecond || h.max != got {
		t.Errorf("the longest: got %v, want 100ms", got)
	}
	h.add(0)
	h.add(1000 * time.Hour) // beyond the last bucket
	if h.total != 1002 || h.quantile(1) == 0 {
		t.Errorf("extremes: total %d, longest %v", h.total, h.quantile(1))
	}
}

func good() *report {
	r := &report{
		database: "MariaDB", duration: 90 * time.Second, ran: 90 * time.Second, reason: "over",
		rotations: 4, renewals: 8, credentials: 5,
		jobs: &jobsResult{transactions: writes{asked: 3, confirmed: 3}, steps: 6, credentials: 2},
	}
	r.revocations.checked = 7
	r.load.requests = 100
	r.load.items = writes{asked: 10, confirmed: 10}
	r.load.transfers = writes{asked: 5, confirmed: 5}
	r.books = books{items: 10, transfers: 5, balances: 7, initial: 7}
	return r
}

func TestReport(t *testing.T) {
	if found := good().problems(); len(found) > 0 {
		t.Errorf("all is well, but: %v", found)
	}
	if text := good().text(); !strings.Contains(text, "all well") || strings.Contains(text, "PROBLEM") {
		t.Errorf("got\n%s", text)
	}
	short := good()
	short.ran, short.rotations = 89*time.Second, 0
	if found := short.problems(); len(found) > 0 {
		t.Errorf("a short run need not rotate, but: %v", found)
	}
	postgres := good()
	postgres.jobs, postgres.revocations.checked = nil, 5
	if found := postgres.problems(); len(found) > 0 || strings.Contains(postgres.text(), "jobs") {
		t.Errorf("there need not be jobs: %v\n%s", found, postgres.text())
	}
	unsure := good()
	unsure.load.failed, unsure.load.items.confirmed = 1, 9
	if found := unsure.problems(); len(found) != 1 {
		t.Errorf("one failed request may have had its effect: %v", found)
	}
	for want, spoil := range map[string]func(*report){
		"no request was sent":             func(r *report) { r.load.requests = 0 },
		"1 requests failed":               func(r *report) { r.load.failed = 1 },
		"exit status 1":                   func(r *report) { r.service = errors.New("exit status 1") },
		"3 rotations":                     func(r *report) { r.rotations = 3 },
		"is not known: sealed":            func(r *report) { r.left.err = errors.New("sealed") },
		"database/creds/r/x":              func(r *report) { r.left.leases = []string{"database/creds/r/x"} },
		"the users v-token-1":             func(r *report) { r.left.users = []string{"v-token-1"} },
		"the sessions of v-a, v-b":        func(r *report) { r.left.sessions = []string{"v-a", "v-b"} },
		"7 credentials but only 6":        func(r *report) { r.revocations.checked = 6 },
		"is not known: timeout":           func(r *report) { r.revocations.err = errors.New("timeout") },
		"revocation: v-c":                 func(r *report) { r.revocations.alive = []string{"v-c"} },
		"2 jobs failed":                   func(r *report) { r.jobs.failed = 2 },
		"ended with: still held":          func(r *report) { r.jobs.err = errors.New("still held") },
		"5 steps":                         func(r *report) { r.jobs.steps = 5 },
		"1 statements that were given up": func(r *report) { r.jobs.changes = 1 },
		"8 steps":                         func(r *report) { r.jobs.steps = 8 },
		"is not known: gone":              func(r *report) { r.books.err = errors.New("gone") },
		"9 items":                         func(r *report) { r.books.items = 9 },
		"11 items":                        func(r *report) { r.books.items = 11 },
		"6 transfers":                     func(r *report) { r.books.transfers = 6 },
		"the accounts hold 8, no":         func(r *report) { r.books.balances = 8 },
	} {
		r := good()
		spoil(r)
		found := r.problems()
		if len(found) != 1 || !strings.Contains(found[0], want) {
			t.Errorf("want one problem with %q, got %v", want, found)
		}
		if !strings.Contains(r.text(), want) {
			t.Errorf("the summary does not say %q:\n%s", want, r.text())
		}
	}
}

func TestEvents(t *testing.T) {
	var e event
	text := `{"event":"issued","generation":2,"reason":"lease ceiling","ttl":8000000000,"took":12345678}`
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		t.Fatalf("read an event: %v", err)
	}
	if got, want := e.String(), "issued         generation 2, lease 8s, took 12ms (lease ceiling)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	counts := events{}
	for _, e := range []event{
		{Kind: "published", Generation: 1},
		{Kind: "renewed", Generation: 1},
		{Kind: "renewed", Generation: 1},
		{Kind: "issued", Generation: 2},
		{Kind: "published", Generation: 2},
		{Kind: "published", Generation: 3},
		{Kind: "issued", Generation: 4},
	} {
		counts.add(e)
	}
	if counts.renewals() != 2 || counts.rotations() != 2 || counts.credentials() != 4 {
		t.Errorf("got %d renewals, %d rotations and %d credentials, want 2, 2 and 4",
			counts.renewals(), counts.rotations(), counts.credentials())
	}
	own := newEvent(rotation.Event{Kind: rotation.RevokeFailed, Generation: 2, Attempt: 1, Err: errors.New("vault is sealed")})
	if got, want := own.String(), "revoke failed  generation 2, attempt 1: vault is sealed"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestLiveLine(t *testing.T) {
	status := &status{Generation: 2, User: "v-token-r0001-abcdefghijklmnopqrst-1763759012"}
	status.Lease.Left = 5.25
	text := `[{"generation":1,"connections":3},{"generation":2,"connections":17}]`
	if err := json.Unmarshal([]byte(text), &status.Generations); err != nil {
		t.Fatal(err)
	}
	second := &histogram{}
	second.add(1500 * time.Microsecond)
	total := loadResult{requests: 100, failed: 1}
	got := liveLine(120, 62*time.Second, status, nil, second, total)
	want := "1:02  gen 2 v-token-…-1763759012  lease  5.2s  conns 17 new 3 old  100 requests  1 failed  p99 1.5ms"
	if got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	total.requests = 360000
	if got := liveLine(80, 15*time.Minute, status, nil, second, total); strings.Contains(got, "v-token") || len(got) > 79 {
		t.Errorf("too wide for 80 columns: %q", got)
	}
	if got := liveLine(80, time.Second, nil, errors.New("refused"), second, total); !strings.Contains(got, "no status: refused") {
		t.Errorf("got %q", got)
	}
}

// Where there is no terminal every line is plain, also the live ones.
func TestScreenPlain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	s := newScreen(out)
	s.printf("an %s", "event")
	s.live(func(int) string { return "second one" })
	_, _ = fmt.Fprintf(s, "testbed: %d\n", 1)
	s.clear()
	s.close()
	s.printf("too late")
	s.close()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if want := "an event\nsecond one\ntestbed: 1\n"; string(text) != want {
		t.Errorf("got %q, want %q", text, want)
	}
}

// fakeService answers as examples/webservice does, and can be told to lie.
type fakeService struct {
	mu    sync.Mutex
	items map[int64]item
	lie   atomic.Bool
}

func (f *fakeService) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var answer any
	var id int64
	switch path := r.Method + " " + r.URL.Path; {
	case path == "POST /items":
		var made item
		_ = json.NewDecoder(r.Body).Decode(&made)
		made.ID = int64(len(f.items) + 1)
		f.items[made.ID] = made
		answer = made
	case path == "GET /items":
		answer = []item{{ID: int64(len(f.items))}}
	case path == "POST /transfers":
		var wanted map[string]int64
		_ = json.NewDecoder(r.Body).Decode(&wanted)
		wanted["id"] = 1
		answer = wanted
	case strings.HasPrefix(path, "GET /accounts/"):
		_, _ = fmt.Sscanf(r.URL.Path, "/accounts/%d", &id)
		answer = map[string]int64{"id": id, "balance": 1}
	default:
		_, _ = fmt.Sscanf(r.URL.Path, "/items/%d", &id)
		found := f.items[id]
		if f.lie.Load() {
			found.Name = "something else"
		}
		answer = found
	}
	_ = json.NewEncoder(w).Encode(answer)
}

// The load believes nothing: a right status code with a wrong answer is a failure.
func TestLoadChecksAnswers(t *testing.T) {
	fake := &fakeService{items: map[int64]item{}}
	server := httptest.NewServer(fake)
	defer server.Close()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	screen := newScreen(null)
	defer screen.close()

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	l := startLoad(ctx, server.URL, screen)
	defer l.stop()
	wait := func(what string, seen func(loadResult) bool) {
		t.Helper()
		for !seen(l.result()) {
			select {
			case <-ctx.Done():
				t.Fatalf("%s: not seen in %+v", what, l.result().requests)
			case <-time.After(time.Millisecond):
			}
		}
	}
	wait("requests of all kinds", func(r loadResult) bool {
		return r.requests > 100 && r.items.confirmed > 0 && r.transfers.confirmed > 0
	})
	if r := l.result(); r.failed != 0 {
		t.Fatalf("%d of %d honest answers were taken for failures", r.failed, r.requests)
	}
	fake.lie.Store(true)
	wait("a wrong answer", func(r loadResult) bool { return r.failed > 0 })
	fake.lie.Store(false)

	l.stop()
	if r := l.result(); r.latency.total != r.requests {
		t.Errorf("%d requests but %d latencies", r.requests, r.latency.total)
	}
}
