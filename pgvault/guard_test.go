package pgvault

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/vaultpool/vaultpool/rotation"
)

// These tests hold pgxpool and puddle to what they do today and do not promise. When one fails after an
// update, what it names has to be done in another way.

// puddle asks a context for Done once when Acquire begins, and a second time, in the same goroutine, when it
// has decided to build a connection. See deciding.
func TestGuard_PuddleAsksTwiceOnceItBuilds(t *testing.T) {
	failure := errors.New("no connection today")
	c := fakeConfig(t, "db", accept)
	building := make(chan struct{})
	c.BeforeConnect = func(context.Context, *pgx.ConnConfig) error { <-building; return failure }
	pool := openPool(t, c)
	decided := 0 // without a lock: the race detector sees whether this goroutine is the one
	_, err := pool.Acquire(&deciding{Context: t.Context(), decided: func() {
		decided++
		if n := pool.Stat().ConstructingConns(); n != 1 {
			t.Errorf("%d connections are being built when Done is asked for the second time, not 1", n)
		}
		close(building)
	}})
	if !errors.Is(err, failure) {
		t.Errorf("Acquire returned %v", err)
	}
	if decided != 1 {
		t.Errorf("decided %d times", decided)
	}
}

// It does not ask a second time if it takes an idle connection.
func TestGuard_PuddleAsksOnceForAnIdleOne(t *testing.T) {
	pool := openPool(t, fakeConfig(t, "db", accept))
	for attempt := range 2 {
		d := &deciding{Context: t.Context(), decided: func() {
			if attempt > 0 {
				t.Error("Done was asked for twice, where a connection is idle")
			}
		}}
		conn, err := pool.Acquire(d)
		if err != nil {
			t.Fatal(err)
		}
		conn.Release()
		if n := d.asked.Load(); n == 0 {
			t.Error("Done was never asked for")
		}
	}
}

// It asks a second time, too, when it begins to wait for a slot of a pool that is full, so that whoever
// holds connections back until then gives them.
func TestGuard_PuddleAsksTwiceWhenItWaits(t *testing.T) {
	pool := openPool(t, fakeConfig(t, "db", accept))
	first, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	second, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer second.Release()
	third, err := pool.Acquire(&deciding{Context: t.Context(), decided: first.Release})
	if err != nil {
		t.Fatal(err)
	}
	third.Release()
}

// TotalConns counts a hijacked connection no longer, so that its slot is free at once. See replacer.replace.
func TestGuard_HijackFreesTheSlot(t *testing.T) {
	pool := openPool(t, fakeConfig(t, "db", accept))
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	hijacked := conn.Hijack()
	defer func() { _ = hijacked.Close(context.Background()) }()
	if n := pool.Stat().TotalConns(); n != 0 {
		t.Errorf("%d connections after the only one was hijacked", n)
	}
}

// pgxpool's QueryRow returns a pointer, except where no connection was acquired, and scanning that does
// nothing but return the error. See failedRow.
func TestGuard_RowOfNoConnection(t *testing.T) {
	failure := errors.New("no connection today")
	c := fakeConfig(t, "db", accept)
	c.BeforeConnect = func(context.Context, *pgx.ConnConfig) error { return failure }
	row := openPool(t, c).QueryRow(t.Context(), "SELECT 1")
	if !failedRow(row) {
		t.Errorf("a %T does not look like the row of no connection", row)
	}
	for range 2 {
		if err := row.Scan(); !errors.Is(err, failure) {
			t.Errorf("scanning it returned %v", err)
		}
	}
	row = openPool(t, fakeConfig(t, "db", accept)).QueryRow(t.Context(), "SELECT 1")
	if failedRow(row) {
		t.Errorf("a %T looks like the row of no connection", row)
	}
	if err := row.Scan(); err == nil { // gives the connection back
		t.Error("the fake server understood a query")
	}
}

// pgxpool's SendBatch returns what pgx.FailedBatchResults makes where no connection was acquired, and
// something else where one was. See failedBatch.
func TestGuard_BatchOfNoConnection(t *testing.T) {
	failure := errors.New("no connection today")
	c := fakeConfig(t, "db", accept)
	c.BeforeConnect = func(context.Context, *pgx.ConnConfig) error { return failure }
	broken, pool := openPool(t, c), openPool(t, fakeConfig(t, "db", accept))
	for name, newBatch := range map[string]func() *pgx.Batch{
		"plain":         func() *pgx.Batch { return &pgx.Batch{} },
		"a transaction": inTransaction,
	} {
		called := false
		b := newBatch()
		b.Queue("SELECT 1").Query(func(pgx.Rows) error { called = true; return nil })
		results := broken.SendBatch(t.Context(), b)
		if !failedBatch(results) {
			t.Errorf("%s: a %T does not look like the results of no connection", name, results)
		}
		if err := results.Close(); !errors.Is(err, failure) {
			t.Errorf("%s: closing them returned %v", name, err)
		}
		if called {
			t.Errorf("%s: closing them ran the callbacks of the batch, which will be sent again", name)
		}
		b = newBatch()
		b.Queue("SELECT 1")
		results = pool.SendBatch(t.Context(), b)
		if failedBatch(results) {
			t.Errorf("%s: a %T looks like the results of no connection", name, results)
		}
		if err := results.Close(); err == nil {
			t.Errorf("%s: the fake server understood a query", name)
		}
		if tx := results.Tx(); tx != nil {
			_ = tx.Rollback(t.Context()) // gives the connection back
		}
	}
}

// pgxpool panics on a config that its ParseConfig did not make: New returns an error instead, and gives back
// what it was issued until then.
func TestGuard_ConfigNotFromParseConfig(t *testing.T) {
	connConfig, err := pgx.ParseConfig("postgres://127.0.0.1:1/app")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]*Config{
		"nil":           nil,
		"empty":         {},
		"no ConnConfig": {Config: &pgxpool.Config{MaxConns: 4}},
		"pgx's config":  {Config: &pgxpool.Config{MaxConns: 4, ConnConfig: connConfig}},
		"an empty one":  {Config: &pgxpool.Config{MaxConns: 4, ConnConfig: &pgx.ConnConfig{}}},
	} {
		source := &countingSource{}
		if c != nil {
			c.Source = source
		}
		if _, err := NewWithConfig(t.Context(), c); err == nil || !strings.Contains(err.Error(), "ParseConfig") {
			t.Errorf("%s: the error is %v", name, err)
		}
		if source.issued != source.revoked {
			t.Errorf("%s: %d credentials were issued and %d revoked", name, source.issued, source.revoked)
		}
	}
}

type countingSource struct{ issued, revoked int }

func (s *countingSource) Issue(context.Context) (rotation.Credential, rotation.Lease, error) {
	s.issued++
	return rotation.NewCredential("u", "p"), rotation.Lease{ID: "l", TTL: time.Hour, Revocable: true}, nil
}

func (s *countingSource) Revoke(context.Context, rotation.Lease) error {
	s.revoked++
	return nil
}
