package main

import (
	"context"
	"errors"
	"fmt"
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

func (m *memory) listItems(ctx context.Context, limit int32) ([]item, error) {
	newest := []item{}
	for i := len(m.items) - 1; i >= 0 && len(newest) < int(limit); i-- {
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

// handler is a service on the store.
func handler(store store, timeout time.Duration) http.Handler {
	mux := http.NewServeMux()
	(&server{store: store, timeout: timeout, logger: slog.New(slog.DiscardHandler)}).mount(mux)
	return mux
}

// ask sends one request, and returns the answer's code, headers and body.
func ask(t *testing.T, handler http.Handler, method, target, body string) *httptest.ResponseRecorder {
	t.Helper()
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
			answer := ask(t, handler(store, time.Minute), test.method, test.target, test.body)
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
			failing := &memory{fail: fmt.Errorf("secret detail: %w", test.err)}
			answer := ask(t, handler(failing, time.Minute), "GET", "/items/1", "")
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
	answer := ask(t, handler(&memory{block: make(chan struct{})}, time.Millisecond), "GET", "/items/1", "")
	if answer.Code != http.StatusGatewayTimeout {
		t.Errorf("got %d, want %d", answer.Code, http.StatusGatewayTimeout)
	}
}
