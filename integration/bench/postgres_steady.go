package main

import "context"

// setups are what is measured while nothing happens: calls of pools that have all their connections, and Acquire of one
// that has nothing idle.
func (postgres) setups(e *env) []setup {
	return []setup{
		{form: form{conns: e.conns, maxConns: e.conns}, rotates: true, operations: []operation{
			{"Acquire and Release", 1, acquireRelease},
			{"Acquire and Release", 8, acquireRelease},
			{"QueryRow", 1, pgxQueryRow},
			{"QueryRow", 8, pgxQueryRow},
		}},
		{form: form{maxConns: 1}, operations: []operation{{"Acquire that logs in", 1, acquireHijack}}},
	}
}

func acquireRelease(p pool) func(context.Context) error {
	calls := p.(*pgxPool).pgxCalls //nolint:forcetypeassert // our own pools
	return func(ctx context.Context) error {
		c, err := calls.Acquire(ctx)
		if err != nil {
			return err
		}
		c.Release()
		return nil
	}
}

func pgxQueryRow(p pool) func(context.Context) error {
	calls := p.(*pgxPool).pgxCalls //nolint:forcetypeassert // our own pools
	return func(ctx context.Context) error {
		var one int
		return calls.QueryRow(ctx, "select 1").Scan(&one)
	}
}

// acquireHijack takes the connection away from the pool, so that the next one has to be built as well.
func acquireHijack(p pool) func(context.Context) error {
	calls := p.(*pgxPool).pgxCalls //nolint:forcetypeassert // our own pools
	return func(ctx context.Context) error {
		c, err := calls.Acquire(ctx)
		if err != nil {
			return err
		}
		return c.Hijack().Close(ctx)
	}
}
