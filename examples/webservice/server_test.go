package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/vaultpool/vaultpool/rotation"
)

// memory is a store for one request at a time.
type memory struct {
	items    []item
	balances map[int64]int64
	fail     error         // what every call returns, if set
	block    chan struct{} // what every call waits for, if set, or for its context
}

func (m *memory) ready(ctx context.Context) error {
	if m.block != nil {
		select {
		case <-m.block:
		case <-ctx.Done():
			return fmt.Errorf("wait for the store: %w", ctx.Err())
		}
	}
	return m.fail
}

func (m *memory) listItems(ctx context.Context, limit int) ([]item, error) {
	newest := []item{}
	for i := len(m.items) - 1; i >= 0 && len(newest) < limit; i-- {
		newest = append(newest, m.items[i])
	}
	return newest, m.ready(ctx)
}

func (m *memory) createItem(ctx context.Context, name string, quantity int32) (item, error) {
	if err := m.ready(ctx); err != nil {
		return item{}, err
	}
	m.items = append(m.items, item{ID: int64(len(m.items) + 1), Name: name, Quantity: quantity})
	return m.items[len(m.items)-1], nil
}

func (m *memory) item(ctx context.Context, id int64) (item, error) {
	if err := m.ready(ctx); err != nil {
		return item{}, err
	}
	if id < 1 || id > int64(len(m.items)) {
		return item{}, fmt.Errorf("item %d: %w", id, errNotFound)
	}
	return m.items[id-1], nil
}

func (m *memory) account(ctx context.Context, id int64) (account, error) {
	if err := m.ready(ctx); err != nil {
		return account{}, err
	}
	balance, ok := m.balances[id]
	if !ok {
		return account{}, fmt.Errorf("account %d: %w", id, errNotFound)
	}
	return account{ID: id, Balance: balance}, nil
}

func (m *memory) transfer(ctx context.Context, wanted transfer) (transfer, error) {
	if err := m.ready(ctx); err != nil {
		return transfer{}, err
	}
	if m.balances[wanted.From] < wanted.Amount {
		return transfer{}, fmt.Errorf("transfer: %w", errInsufficient)
	}
	m.balances[wanted.From] -= wanted.Amount
	m.balances[wanted.To] += wanted.Amount
	wanted.ID = 1
	return wanted, nil
}

type fixedStatus rotation.Status

func (s fixedStatus) Status() rotation.Status { return rotation.Status(s) }

// ask sends one request to a service on the store, and returns the answer's code, headers and body.
func ask(t *testing.T, store store, status rotation.Status, method, target, body string) *httptest.ResponseRecorder {
	t.Helper()
	handler := newServer(store, fixedStatus(status), time.Minute, slog.New(slog.DiscardHandler))
	request := httptest.NewRequestWithContext(t.Context(), method, target, strings.NewReader(body))
	recorder := httptest.NewRecorder()
	handler.ServeHTTP(recorder, request)
	return recorder
}

func TestRequests(t *testing.T) {
	tests := []struct {
		name, method, target, body string
		wantCode                   int
		want                       string
	}{
		{"list", "GET", "/items", "", 200, `"id":2,"name":"nut"`},
		{"list one", "GET", "/items?limit=1", "", 200, `[{"id":2`},
		{"list none", "GET", "/items?limit=0", "", 400, "limit must be a number from 1 to 100"},
		{"list nonsense", "GET", "/items?limit=x", "", 400, "limit must be"},
		{"create", "POST", "/items", `{"name":"washer","quantity":7}`, 201, `"id":3,"name":"washer","quantity":7`},
		{"create without name", "POST", "/items", `{"quantity":7}`, 400, "needs a name"},
		{"create unknown field", "POST", "/items", `{"title":"x"}`, 400, "title"},
		{"create nonsense", "POST", "/items", `{`, 400, "not the JSON"},
		{"create too much", "POST", "/items", `{"name":"` + strings.Repeat("x", maxBody) + `"}`, 400, "too large"},
		{"get", "GET", "/items/1", "", 200, `"name":"bolt"`},
		{"get missing", "GET", "/items/99", "", 404, "not found"},
		{"get nonsense", "GET", "/items/one", "", 400, "must be a number"},
		{"account", "GET", "/accounts/1", "", 200, `{"id":1,"balance":100}`},
		{"account missing", "GET", "/accounts/9", "", 404, "not found"},
		{"account nonsense", "GET", "/accounts/one", "", 400, "must be a number"},
		{"transfer", "POST", "/transfers", `{"from":1,"to":2,"amount":30}`, 201, `"amount":30`},
		{"transfer too much", "POST", "/transfers", `{"from":1,"to":2,"amount":101}`, 409, "too low"},
		{"transfer to itself", "POST", "/transfers", `{"from":1,"to":1,"amount":1}`, 400, "two different accounts"},
		{"transfer nothing", "POST", "/transfers", `{"from":1,"to":2,"amount":0}`, 400, "above 0"},
		{"transfer nonsense", "POST", "/transfers", `[]`, 400, "not the JSON"},
		{"wrong method", "DELETE", "/items/1", "", 405, ""},
		{"no such page", "GET", "/nothing", "", 404, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			store := &memory{items: []item{{ID: 1, Name: "bolt"}, {ID: 2, Name: "nut"}}, balances: map[int64]int64{1: 100, 2: 0}}
			answer := ask(t, store, rotation.Status{}, test.method, test.target, test.body)
			if answer.Code != test.wantCode || !strings.Contains(answer.Body.String(), test.want) {
				t.Errorf("%s %s: got %d %s, want %d with %q", test.method, test.target, answer.Code, answer.Body, test.wantCode, test.want)
			}
		})
	}
}

func TestFailures(t *testing.T) {
	tests := []struct {
		name       string
		err        error
		wantCode   int
		retryAfter bool
	}{
		{"unknown", errors.New("relation is secret"), 500, false},
		{"no credential", &rotation.NoCredentialError{RetryAt: time.Now().Add(time.Minute)}, 503, true},
		{"no credential, attempt under way", &rotation.NoCredentialError{}, 503, false},
		{"too slow", context.DeadlineExceeded, 504, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			answer := ask(t, &memory{fail: fmt.Errorf("secret detail: %w", test.err)}, rotation.Status{}, "GET", "/items/1", "")
			if answer.Code != test.wantCode {
				t.Errorf("got %d, want %d", answer.Code, test.wantCode)
			}
			if strings.Contains(answer.Body.String(), "secret") {
				t.Errorf("the client was told too much: %s", answer.Body)
			}
			if got := answer.Header().Get("Retry-After") != ""; got != test.retryAfter {
				t.Errorf("Retry-After %q, want one: %v", answer.Header().Get("Retry-After"), test.retryAfter)
			}
		})
	}
}

// A request that takes too long is ended by its own timeout, not by the client's patience.
func TestTimeout(t *testing.T) {
	store := &memory{block: make(chan struct{})}
	handler := newServer(store, fixedStatus{}, time.Millisecond, slog.New(slog.DiscardHandler))
	recorder := httptest.NewRecorder()
	handler.ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/items/1", http.NoBody))
	if recorder.Code != http.StatusGatewayTimeout {
		t.Errorf("got %d, want %d", recorder.Code, http.StatusGatewayTimeout)
	}
}

func TestHealth(t *testing.T) {
	healthy := ask(t, &memory{}, rotation.Status{Usable: true}, "GET", "/healthz", "")
	if healthy.Code != http.StatusOK {
		t.Errorf("with a usable credential: got %d %s, want 200", healthy.Code, healthy.Body)
	}
	ill := ask(t, &memory{}, rotation.Status{LastError: errors.New("vault is sealed")}, "GET", "/healthz", "")
	if ill.Code != http.StatusServiceUnavailable || !strings.Contains(ill.Body.String(), "vault is sealed") {
		t.Errorf("without: got %d %s, want 503 with the reason", ill.Code, ill.Body)
	}
}

func TestStatus(t *testing.T) {
	answer := ask(t, &memory{}, rotation.Status{
		Generation: 3, User: "v-3", LeaseLeft: 1500 * time.Millisecond, Usable: true, Next: "renew",
		Generations: []rotation.GenerationStatus{
			{Generation: 2, User: "v-2", State: rotation.StateDraining, Connections: 4, Reason: "lease ceiling"},
			{Generation: 3, User: "v-3", State: rotation.StateCurrent, Connections: 16},
		},
		LastError: errors.New("renewal refused"),
	}, "GET", "/status", "")
	var page statusPage
	if err := json.Unmarshal(answer.Body.Bytes(), &page); err != nil {
		t.Fatalf("read the status page: %v", err)
	}
	if page.Generation != 3 || page.User != "v-3" || page.LeaseLeft != 1.5 || !page.Usable || page.LastError != "renewal refused" {
		t.Errorf("got %+v", page)
	}
	if len(page.Generations) != 2 || page.Generations[0].State != "draining" || page.Generations[0].Connections != 4 ||
		page.Generations[0].Reason != "lease ceiling" || page.Generations[1].Connections != 16 {
		t.Errorf("got generations %+v", page.Generations)
	}
	if strings.Contains(answer.Body.String(), "next_at") {
		t.Errorf("a time that is not known is shown: %s", answer.Body)
	}
}

func TestLogEvent(t *testing.T) {
	var log strings.Builder
	logger := slog.New(slog.NewJSONHandler(&log, nil))
	logEvent(logger, rotation.Event{Kind: rotation.Renewed, Generation: 2, TTL: 8 * time.Second})
	logEvent(logger, rotation.Event{Kind: rotation.RenewFailed, Generation: 2, Err: errors.New("vault is sealed")})
	var lines [2]struct {
		Level    string `json:"level"`
		Rotation struct {
			Event      string        `json:"event"`
			Generation uint64        `json:"generation"`
			TTL        time.Duration `json:"ttl"`
			Error      string        `json:"error"`
		} `json:"rotation"`
	}
	decoder := json.NewDecoder(strings.NewReader(log.String()))
	for i := range lines {
		if err := decoder.Decode(&lines[i]); err != nil {
			t.Fatalf("read line %d of %q: %v", i, log.String(), err)
		}
	}
	if lines[0].Level != "INFO" || lines[0].Rotation.Event != "renewed" || lines[0].Rotation.TTL != 8*time.Second {
		t.Errorf("a renewal was logged as %+v", lines[0])
	}
	if lines[1].Level != "WARN" || lines[1].Rotation.Error != "vault is sealed" {
		t.Errorf("a failure was logged as %+v", lines[1])
	}
}

func TestConfig(t *testing.T) {
	environment := map[string]string{"DATABASE_URL": "postgres://db/app", "LISTEN_ADDR": "127.0.0.1:9"}
	getenv := func(name string) string { return environment[name] }

	cfg, err := parseConfig([]string{"-request-timeout", "2s"}, getenv, io.Discard)
	if err != nil || cfg.databaseURL != "postgres://db/app" || cfg.listen != "127.0.0.1:9" || cfg.requestTimeout != 2*time.Second {
		t.Errorf("from the environment: %+v, %v", cfg, err)
	}
	cfg, err = parseConfig([]string{"-database-url", "postgres://other/app"}, getenv, io.Discard)
	if err != nil || cfg.databaseURL != "postgres://other/app" {
		t.Errorf("a flag goes before the environment: %+v, %v", cfg, err)
	}
	if cfg.database != postgresName {
		t.Errorf("without -db: got %q, want %q", cfg.database, postgresName)
	}
	environment["DB"] = "mysql"
	if cfg, err = parseConfig(nil, getenv, io.Discard); err != nil || cfg.database != mysqlName {
		t.Errorf("with DB=mysql: %+v, %v", cfg, err)
	}
	if cfg, err = parseConfig([]string{"-db", "postgres"}, getenv, io.Discard); err != nil || cfg.database != postgresName {
		t.Errorf("-db goes before DB: %+v, %v", cfg, err)
	}
	for want, args := range map[string][]string{
		"unexpected argument": {"serve"},
		"must be positive":    {"-pool-timeout", "0s"},
		"not defined":         {"-nonsense"},
		`-db is "oracle"`:     {"-db", "oracle"},
	} {
		if _, err := parseConfig(args, getenv, io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: got %v, want an error with %q", args, err, want)
		}
	}
	nothing := func(string) string { return "" }
	for name, example := range exampleURLs {
		_, err := parseConfig([]string{"-db", name}, nothing, io.Discard)
		if err == nil || !strings.Contains(err.Error(), "DATABASE_URL") || !strings.Contains(err.Error(), example) {
			t.Errorf("%s without a URL: got %v, want an error that names DATABASE_URL with an example", name, err)
		}
	}
}

func TestPrintSchema(t *testing.T) {
	for name, own := range map[string]string{"postgres": "timestamptz", "mysql": "datetime(6)"} {
		var out strings.Builder
		if err := run(t.Context(), []string{"-print-schema", "-db", name}, func(string) string { return "" }, &out); err != nil {
			t.Fatalf("print the schema of %s: %v", name, err)
		}
		for _, want := range []string{"CREATE TABLE IF NOT EXISTS items", own} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%s: no %q in %q", name, want, out.String())
			}
		}
	}
}

// What keeps the service from starting says why; a URL for the other database is no URL.
func TestOpenFails(t *testing.T) {
	for want, args := range map[string][]string{
		"open the database: pgvault":    {"-database-url", "tcp(127.0.0.1:3306)/app?vault_path=database/creds/app"},
		"open the database: mysqlvault": {"-db", "mysql", "-database-url", "postgres://127.0.0.1/app?vault_path=database/creds/app"},
		"vault_path":                    {"-db", "mysql", "-database-url", "tcp(127.0.0.1:3306)/app"},
	} {
		err := run(t.Context(), args, func(string) string { return "" }, io.Discard)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: got %v, want an error with %q", args, err, want)
		}
	}
}
