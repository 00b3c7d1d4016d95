package mysqlvault

import (
	"context"
	"database/sql/driver"
	"fmt"
)

// driverStmt is all that a statement of the driver can do.
type driverStmt interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
	driver.NamedValueChecker
	driver.ColumnConverter //nolint:staticcheck // forwarded, since the driver has it
}

var _ driverStmt = (*stmt)(nil)

// stmt is a prepared statement. database/sql keeps one for every connection that a
// sql.Stmt was used on, while those connections exchange their sessions.
type stmt struct {
	c      *conn
	query  string
	s      *session // where inner is prepared
	inner  driverStmt
	closed bool
}

func (s *session) prepare(ctx context.Context, query string) (driverStmt, error) {
	inner, err := s.PrepareContext(ctx, query)
	if err != nil {
		return nil, s.explain(err)
	}
	all, ok := inner.(driverStmt)
	if !ok {
		_ = inner.Close()
		return nil, fmt.Errorf("mysqlvault: this version of the driver returns a %T that lacks something database/sql uses", inner)
	}
	return all, nil
}

// ready returns the statement as it is prepared on the connection's session.
func (st *stmt) ready(ctx context.Context) (driverStmt, error) {
	s, err := st.c.ready(ctx)
	if err != nil || s == st.s {
		return st.inner, err
	}
	inner, err := s.prepare(ctx, st.query)
	if err != nil {
		return nil, err
	}
	st.s, st.inner = s, inner // the old one ended with its session
	return inner, nil
}

// Close may be called while the connection lies in the pool and its session is being
// exchanged, by a database/sql that holds its lock: so it waits for nothing.
func (st *stmt) Close() error {
	st.closed = true
	if !st.s.mu.TryLock() {
		return nil // the session is being closed, and the statement ends with it
	}
	defer st.s.mu.Unlock()
	return st.inner.Close()
}

// NumInput is the driver's: the query has as many parameters on any session.
func (st *stmt) NumInput() int { return st.inner.NumInput() }

// ColumnConverter is the driver's.
func (st *stmt) ColumnConverter(i int) driver.ValueConverter { return st.inner.ColumnConverter(i) }

// CheckNamedValue is the driver's.
func (st *stmt) CheckNamedValue(v *driver.NamedValue) error { return st.inner.CheckNamedValue(v) }

// ExecContext is the driver's.
func (st *stmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	inner, err := st.ready(ctx)
	if err != nil {
		return nil, err
	}
	result, err := inner.ExecContext(ctx, args)
	if err != nil {
		return nil, st.s.explain(err)
	}
	return result, nil
}

// QueryContext is the driver's.
func (st *stmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	inner, err := st.ready(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := inner.QueryContext(ctx, args)
	if err != nil {
		return nil, st.s.explain(err)
	}
	return rows, nil
}

// Exec is the driver's.
func (st *stmt) Exec(args []driver.Value) (driver.Result, error) {
	inner, err := st.ready(context.Background())
	if err != nil {
		return nil, err
	}
	result, err := inner.Exec(args)
	if err != nil {
		return nil, st.s.explain(err)
	}
	return result, nil
}

// Query is the driver's.
func (st *stmt) Query(args []driver.Value) (driver.Rows, error) {
	inner, err := st.ready(context.Background())
	if err != nil {
		return nil, err
	}
	rows, err := inner.Query(args)
	if err != nil {
		return nil, st.s.explain(err)
	}
	return rows, nil
}
