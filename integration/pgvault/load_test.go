package pgvault_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/vaultpool/vaultpool/rotation"
)

// ledger is one worker's account and what has to be in it.
type ledger struct {
	owner    string
	balance  int
	inserted int
}

// work does one of each: a transaction over two statements, a batch, a bulk insert, and a read of all that
// was written so far.
func (l *ledger) work(ctx context.Context, s *service) error {
	for _, step := range []func(context.Context, *service) error{l.transaction, l.batch, l.copy, l.verify} {
		if err := step(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

func (l *ledger) transaction(ctx context.Context, s *service) error {
	err := pgx.BeginFunc(ctx, s, func(tx pgx.Tx) error {
		var balance int
		if err := tx.QueryRow(ctx, "SELECT balance FROM accounts WHERE owner = $1 FOR UPDATE", l.owner).Scan(&balance); err != nil {
			return err
		}
		if balance != l.balance {
			return fmt.Errorf("the balance is %d, not %d", balance, l.balance)
		}
		tag, err := tx.Exec(ctx, "UPDATE accounts SET balance = $1 WHERE owner = $2", balance+1, l.owner)
		return affected(tag, err)
	})
	if err != nil {
		return fmt.Errorf("transaction: %w", err)
	}
	l.balance++
	return nil
}

func (l *ledger) batch(ctx context.Context, s *service) error {
	if err := sendBatch(ctx, s, &pgx.Batch{}, l.owner); err != nil {
		return fmt.Errorf("batch: %w", err)
	}
	l.inserted++
	return nil
}

func (l *ledger) copy(ctx context.Context, s *service) error {
	n, err := s.CopyFrom(ctx, pgx.Identifier{"items"}, []string{"name"}, pgx.CopyFromRows([][]any{{l.owner}, {l.owner}}))
	if err != nil || n != 2 {
		return fmt.Errorf("%d rows copied, error: %w", n, err)
	}
	l.inserted += 2
	return nil
}

func (l *ledger) verify(ctx context.Context, s *service) error {
	var balance, items int
	err := s.QueryRow(ctx, `SELECT balance, (SELECT count(*) FROM items WHERE name = $1) FROM accounts WHERE owner = $1`, l.owner).
		Scan(&balance, &items)
	if err == nil && (balance != l.balance || items != l.inserted) {
		err = fmt.Errorf("a balance of %d and %d items, not %d and %d", balance, items, l.balance, l.inserted)
	}
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	return nil
}

// Under a mixed load, first with leases of seconds that are replaced by themselves, then with
// one rotation after the other, nothing fails, every write is there, and nothing is left at the end.
func TestSteadyLoad(t *testing.T) {
	t.Parallel()
	const workers, byThemselves, rotations = 8, 3, 35
	s := open(t, setup{role: leaseOf(12*time.Second, 12*time.Second), params: "pool_max_conns=6"})
	check(t, s.bed.Postgres.Exec(t.Context(), "CREATE INDEX IF NOT EXISTS items_name ON items (name)"))
	stop := make(chan struct{})
	var running sync.WaitGroup
	t.Cleanup(running.Wait)
	ledgers := make([]*ledger, workers)
	for i := range ledgers {
		l := &ledger{owner: rowName(t, i)}
		ledgers[i] = l
		_, err := s.Exec(t.Context(), "INSERT INTO accounts (owner) VALUES ($1)", l.owner)
		check(t, err)
		running.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := l.work(context.Background(), s); err != nil {
					t.Errorf("with generation %d: %v", s.Rotator().Status().Generation, err)
					return
				}
			}
		})
	}
	s.events.Wait(t, rotation.Published, 1+byThemselves)
	for range rotations - byThemselves {
		id := s.Rotator().Status().Generation
		s.rotate(t)
		s.events.Wait(t, rotation.Revoked, id-1) // else there would be too many leases at once
	}
	close(stop)
	running.Wait()
	s.events.None(t, rotation.CredentialLost, rotation.LoginRefused)
	done := 0
	for _, l := range ledgers {
		done += l.balance
		check(t, l.verify(t.Context(), s))
	}
	check(t, s.Shutdown(t.Context()))
	s.checkNothingLeft(t)
	t.Logf("%d rounds of work over %d rotations", done, len(s.events.Of(rotation.Published, 0)))
}
