package main

import "context"

// setups are what is measured while nothing happens: calls of pools that have all their connections, and Conn of one
// that keeps none.
func (mariadb) setups(e *env) []setup {
	full := form{conns: e.conns, maxConns: e.conns}
	interpolating := full
	interpolating.interpolate = true
	return []setup{
		{form: full, rotates: true, operations: []operation{
			{"Conn and Close", 1, connClose},
			{"Conn and Close", 8, connClose},
			{"QueryRow", 1, sqlQueryRow},
			{"QueryRow", 8, sqlQueryRow},
			{"QueryRow with an argument, prepared", 1, sqlQueryRowArg},
			{"QueryRow with an argument, prepared", 8, sqlQueryRowArg},
		}},
		{form: interpolating, rotates: true, operations: []operation{
			{"QueryRow with an argument, interpolated", 1, sqlQueryRowArg},
			{"QueryRow with an argument, interpolated", 8, sqlQueryRowArg},
		}},
		{form: form{maxConns: 1}, operations: []operation{{"Conn that logs in", 1, connClose}}},
	}
}

func connClose(p pool) func(context.Context) error {
	db := p.(*sqlPool).DB //nolint:forcetypeassert // our own pools
	return func(ctx context.Context) error {
		c, err := db.Conn(ctx)
		if err != nil {
			return err
		}
		return c.Close()
	}
}

func sqlQueryRow(p pool) func(context.Context) error {
	db := p.(*sqlPool).DB //nolint:forcetypeassert // our own pools
	return func(ctx context.Context) error {
		var one int
		return db.QueryRowContext(ctx, "SELECT 1").Scan(&one)
	}
}

func sqlQueryRowArg(p pool) func(context.Context) error {
	db := p.(*sqlPool).DB //nolint:forcetypeassert // our own pools
	return func(ctx context.Context) error {
		var one int
		return db.QueryRowContext(ctx, "SELECT ?", 1).Scan(&one)
	}
}
