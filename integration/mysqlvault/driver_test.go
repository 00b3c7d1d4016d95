package mysqlvault_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/mysqlvault"
	"github.com/vaultpool/vaultpool/rotation"
)

// pair is a DB of ours and one of the driver's own with the same settings.
type pair struct{ ours, raw *sql.DB }

func openPair(t *testing.T, params string) pair {
	t.Helper()
	s := open(t, setup{params: params, role: testbed.RoleOptions{Create: []string{`
		CREATE USER '{{name}}'@'%' IDENTIFIED BY '{{password}}';
		GRANT ALL ON ` + shared.MariaDB.Database + `.* TO '{{name}}'@'%';`}}})
	config, err := mysql.ParseDSN(shared.MariaDB.RootDSN)
	kit.Check(t, err)
	plain, err := mysql.ParseDSN(shared.MariaDB.DSN("app"))
	kit.Check(t, err)
	plain.User, plain.Passwd = config.User, config.Passwd
	separator := "?"
	dsn := plain.FormatDSN()
	if strings.Contains(dsn, "?") {
		separator = "&"
	}
	if params != "" {
		dsn += separator + params
	}
	raw, err := sql.Open("mysql", dsn)
	kit.Check(t, err)
	t.Cleanup(func() { kit.Check(t, raw.Close()) })
	return pair{s.DB, raw}
}

// same runs f on both and compares what it says.
func (p pair) same(t *testing.T, what string, f func(context.Context, *sql.DB) string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), kit.Patience)
	defer cancel()
	ours, raw := f(ctx, p.ours), f(ctx, p.raw)
	if ours != raw {
		t.Errorf("%s: ours says\n\t%s\nthe driver\n\t%s", what, ours, raw)
	}
}

func show(v any, err error) string {
	if err != nil {
		return "error " + err.Error()
	}
	return fmt.Sprintf("%T %v", v, v)
}

// hazard 15: what database/sql can ask of a connection gives the same as without the wrapper.
func TestHazard15_SameAsTheDriver(t *testing.T) {
	t.Parallel()
	p := openPair(t, "parseTime=true&multiStatements=true")
	scan := func(row *sql.Row) string {
		var v any
		err := row.Scan(&v)
		return show(v, err)
	}
	for what, f := range map[string]func(context.Context, *sql.DB) string{
		"a big uint64": func(ctx context.Context, db *sql.DB) string {
			return scan(db.QueryRowContext(ctx, "SELECT CAST(? AS UNSIGNED)", uint64(math.MaxUint64)))
		},
		"a time": func(ctx context.Context, db *sql.DB) string {
			return scan(db.QueryRowContext(ctx, "SELECT TIMESTAMP '2026-01-02 03:04:05'"))
		},
		"bytes": func(ctx context.Context, db *sql.DB) string {
			return scan(db.QueryRowContext(ctx, "SELECT ?", []byte{0, 255}))
		},
		"null": func(ctx context.Context, db *sql.DB) string { return scan(db.QueryRowContext(ctx, "SELECT ?", nil)) },
		"no rows": func(ctx context.Context, db *sql.DB) string {
			return scan(db.QueryRowContext(ctx, "SELECT 1 FROM items WHERE id = -1"))
		},
		"a fault": func(ctx context.Context, db *sql.DB) string { return scan(db.QueryRowContext(ctx, "SELECT nonsense")) },
		"a struct": func(ctx context.Context, db *sql.DB) string {
			return scan(db.QueryRowContext(ctx, "SELECT ?", struct{}{}))
		},
		"too few": func(ctx context.Context, db *sql.DB) string { return scan(db.QueryRowContext(ctx, "SELECT ?")) },
		"types": func(ctx context.Context, db *sql.DB) string {
			rows, err := db.QueryContext(ctx, "SELECT id, name, created_at FROM items LIMIT 0")
			if err != nil {
				return show(nil, err)
			}
			defer func() { _ = rows.Close() }()
			types, err := rows.ColumnTypes()
			var b strings.Builder
			for _, c := range types {
				nullable, _ := c.Nullable()
				fmt.Fprint(&b, c.Name(), c.DatabaseTypeName(), c.ScanType(), nullable, " ")
			}
			return show(b.String(), errors.Join(err, rows.Err()))
		},
		"several results": func(ctx context.Context, db *sql.DB) string {
			rows, err := db.QueryContext(ctx, "SELECT 1; SELECT 'two', 3; DO 1")
			if err != nil {
				return show(nil, err)
			}
			defer func() { _ = rows.Close() }()
			var b strings.Builder
			for more := true; more; more = rows.NextResultSet() {
				columns, err := rows.Columns()
				fmt.Fprint(&b, columns, err)
				for rows.Next() {
					values, dest := make([]any, len(columns)), make([]any, len(columns))
					for i := range dest {
						dest[i] = &values[i]
					}
					fmt.Fprint(&b, rows.Scan(dest...), values)
				}
			}
			return show(b.String(), rows.Err())
		},
		"a statement":          statementTwice,
		"isolation":            isolationOf(&sql.TxOptions{Isolation: sql.LevelReadUncommitted}),
		"another isolation":    isolationOf(&sql.TxOptions{Isolation: sql.LevelReadCommitted}),
		"no such isolation":    isolationOf(&sql.TxOptions{Isolation: sql.LevelLinearizable}),
		"read only":            isolationOf(&sql.TxOptions{ReadOnly: true}),
		"rolled back":          rolledBack,
		"affected and last id": affected,
		"all that were affected": func(ctx context.Context, db *sql.DB) string {
			var all []int64
			err := onConn(ctx, db, func(dc any) error {
				r, err := dc.(driver.ExecerContext).ExecContext(ctx, "SET @x = 1; DELETE FROM items WHERE id = -1; SET @y = 2", nil)
				if err == nil {
					all = r.(mysql.Result).AllRowsAffected()
				}
				return err
			})
			return show(all, err)
		},
		"interfaces by Raw": interfaces,
		"a ping": func(ctx context.Context, db *sql.DB) string {
			conn, err := db.Conn(ctx)
			if err != nil {
				return show(nil, err)
			}
			defer func() { _ = conn.Close() }()
			before := conn.PingContext(ctx)
			_, _ = conn.ExecContext(ctx, "KILL CONNECTION_ID()")
			return fmt.Sprint(before, conn.PingContext(ctx))
		},
		"a done context": func(_ context.Context, db *sql.DB) string {
			ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
			defer cancel()
			_, err := db.ExecContext(ctx, "DO SLEEP(5)")
			return fmt.Sprint(errors.Is(err, context.DeadlineExceeded), err)
		},
	} {
		p.same(t, what, f)
	}
}

// hazard 15: the same with arguments that the driver writes into the query by itself, and with compression.
func TestHazard15_OtherSettings(t *testing.T) {
	t.Parallel()
	for _, params := range []string{"interpolateParams=true", "compress=true", "tls=skip-verify", "checkConnLiveness=false", "clientFoundRows=true&columnsWithAlias=true"} {
		t.Run(params, func(t *testing.T) {
			t.Parallel()
			p := openPair(t, params)
			p.same(t, "a row", func(ctx context.Context, db *sql.DB) string {
				var v any
				err := db.QueryRowContext(ctx, "SELECT CONCAT(?, i.name) FROM (SELECT 'x' AS name) i", strings.Repeat("long ", 1000)).Scan(&v)
				return show(v, err)
			})
			p.same(t, "a statement", statementTwice)
			p.same(t, "affected and last id", affected)
		})
	}
}

func statementTwice(ctx context.Context, db *sql.DB) string {
	stmt, err := db.PrepareContext(ctx, "SELECT ? + ?")
	if err != nil {
		return show(nil, err)
	}
	var a, b int
	err = errors.Join(stmt.QueryRowContext(ctx, 1, 2).Scan(&a), stmt.QueryRowContext(ctx, 3, 4).Scan(&b))
	_, wrong := stmt.QueryContext(ctx, 1)
	return show([]any{a, b, wrong}, errors.Join(err, stmt.Close()))
}

// isolationOf looks whether a transaction sees what another one has not committed, and may write.
func isolationOf(options *sql.TxOptions) func(context.Context, *sql.DB) string {
	return func(ctx context.Context, db *sql.DB) string {
		other, err := shared.MariaDB.Root.BeginTx(ctx, nil)
		if err != nil {
			return show(nil, err)
		}
		defer func() { _ = other.Rollback() }()
		name := fmt.Sprintf("uncommitted %p", db)
		if _, err := other.ExecContext(ctx, "INSERT INTO items (name) VALUES (?)", name); err != nil {
			return show(nil, err)
		}
		tx, err := db.BeginTx(ctx, options)
		if err != nil {
			return show(nil, err)
		}
		defer func() { _ = tx.Rollback() }()
		var seen int
		err = tx.QueryRowContext(ctx, "SELECT count(*) FROM items WHERE name = ?", name).Scan(&seen)
		_, writes := tx.ExecContext(ctx, "INSERT INTO items (name) VALUES ('isolation')")
		return show([]any{seen, writes}, err)
	}
}

func rolledBack(ctx context.Context, db *sql.DB) string {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return show(nil, err)
	}
	_, err = tx.ExecContext(ctx, "INSERT INTO items (name) VALUES ('rolled back')")
	err = errors.Join(err, tx.Rollback())
	var n int
	err = errors.Join(err, db.QueryRowContext(ctx, "SELECT count(*) FROM items WHERE name = 'rolled back'").Scan(&n))
	return show([]any{n, tx.Commit()}, err)
}

func affected(ctx context.Context, db *sql.DB) string {
	name := fmt.Sprintf("affected %p", db)
	r, err := db.ExecContext(ctx, "INSERT INTO items (name) VALUES (?)", name)
	if err != nil {
		return show(nil, err)
	}
	id, err := r.LastInsertId()
	same, err2 := db.ExecContext(ctx, "UPDATE items SET name = ? WHERE id = ?", name, id) // changes nothing
	if err2 != nil {
		return show(nil, err2)
	}
	n, err3 := same.RowsAffected()
	return show([]any{id > 0, n}, errors.Join(err, err3))
}

func onConn(ctx context.Context, db *sql.DB, f func(any) error) error {
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	return errors.Join(conn.Raw(f), conn.Close())
}

// interfaces lists what a connection and a statement can do, and uses the legacy half, which database/sql
// does not.
func interfaces(ctx context.Context, db *sql.DB) string {
	var b strings.Builder
	err := onConn(ctx, db, func(dc any) error {
		is := func(name string, ok bool) { fmt.Fprint(&b, name, ok, " ") }
		_, ok := dc.(driver.Pinger)
		is("Pinger", ok)
		_, ok = dc.(driver.ConnBeginTx)
		is("ConnBeginTx", ok)
		_, ok = dc.(driver.ConnPrepareContext)
		is("ConnPrepareContext", ok)
		_, ok = dc.(driver.ExecerContext)
		is("ExecerContext", ok)
		_, ok = dc.(driver.QueryerContext)
		is("QueryerContext", ok)
		_, ok = dc.(driver.NamedValueChecker)
		is("NamedValueChecker", ok)
		_, ok = dc.(driver.SessionResetter)
		is("SessionResetter", ok)
		_, ok = dc.(driver.Validator)
		is("Validator", ok)
		_, err := dc.(driver.Execer).Exec("SET @legacy = ?", []driver.Value{int64(1)}) //nolint:staticcheck // that is the point
		fmt.Fprint(&b, "skips ", errors.Is(err, driver.ErrSkip), err, " ")
		if _, err = dc.(driver.Execer).Exec("SET @legacy = 7", nil); err != nil { //nolint:staticcheck // likewise
			return err
		}
		rows, err := dc.(driver.Queryer).Query("SELECT @legacy", nil) //nolint:staticcheck // likewise
		if err != nil {
			return err
		}
		row := make([]driver.Value, 1)
		fmt.Fprintf(&b, "%v %s ", rows.Next(row), show(row[0], nil))
		fmt.Fprint(&b, rows.Next(row) == io.EOF, rows.Close()) //nolint:errorlint // exactly io.EOF
		tx, err := dc.(driver.Conn).Begin()                    //nolint:staticcheck // likewise
		if err != nil {
			return err
		}
		st, err := dc.(driver.Conn).Prepare("SELECT ? + 1")
		if err != nil {
			return err
		}
		_, ok = st.(driver.StmtExecContext)
		is("StmtExecContext", ok)
		_, ok = st.(driver.StmtQueryContext)
		is("StmtQueryContext", ok)
		_, ok = st.(driver.NamedValueChecker)
		is("stmt's NamedValueChecker", ok)
		v, err := st.(driver.ColumnConverter).ColumnConverter(0).ConvertValue(uint64(math.MaxUint64)) //nolint:staticcheck // likewise
		fmt.Fprint(&b, st.NumInput(), v, err)
		if rows, err = st.Query([]driver.Value{int64(1)}); err != nil { //nolint:staticcheck // likewise
			return err
		}
		fmt.Fprint(&b, rows.Next(row), row, rows.Close(), st.Close(), st.Close(), tx.Rollback())
		return nil
	})
	return show(b.String(), err)
}

// LOAD DATA LOCAL reads from this process by the driver's registry.
func TestLoadData(t *testing.T) {
	t.Parallel()
	p := openPair(t, "")
	execute(t, "SET GLOBAL local_infile = ON")
	mysql.RegisterReaderHandler(t.Name(), func() io.Reader { return strings.NewReader("one\ntwo\n") })
	defer mysql.DeregisterReaderHandler(t.Name())
	p.same(t, "load", func(ctx context.Context, db *sql.DB) string {
		r, err := db.ExecContext(ctx, "LOAD DATA LOCAL INFILE 'Reader::"+t.Name()+"' INTO TABLE items (name)")
		if err != nil {
			return show(nil, err)
		}
		n, err := r.RowsAffected()
		return show(n, err)
	})
}

// The user's BeforeConnect and DialFunc run for every connection, and the driver's parameters are set on
// sessions that came in the place of others.
func TestHooksAndParameters(t *testing.T) {
	t.Parallel()
	called := make(chan string, 100)
	s := open(t, setup{params: "sql_mode=%27ANSI%27", configure: func(c *mysqlvault.Config) {
		c.Rotation.DrainTimeout = time.Second
		kit.Check(t, c.Apply(mysql.BeforeConnect(func(_ context.Context, c *mysql.Config) error {
			called <- c.User
			return nil
		})))
	}})
	mode := func() (m string) {
		kit.Check(t, s.QueryRowContext(t.Context(), "SELECT @@sql_mode").Scan(&m))
		return m
	}
	s.fill(t, 1)
	before, old := mode(), s.user()
	s.rotate(t)
	s.waitRevoked(t, 1, old)
	if after := mode(); !strings.Contains(before, "ANSI") || after != before {
		t.Errorf("sql_mode is %q before and %q after", before, after)
	}
	users := map[string]int{}
	for len(called) > 0 {
		users[<-called]++
	}
	if users[old] == 0 || users[s.user()] == 0 {
		t.Errorf("BeforeConnect was called for %v", users)
	}
	s.events.None(t, rotation.DrainDeadline)
}

// The wrapper allocates nothing that the driver does not, after a rotation either.
func TestNoAllocations(t *testing.T) { // alone: others' allocations count
	p := openPair(t, "interpolateParams=true")
	prepared := openPair(t, "")
	for what, allocs := range map[string]func(*sql.DB) float64{
		"a query": func(db *sql.DB) float64 {
			return testing.AllocsPerRun(500, func() {
				var n int
				if err := db.QueryRowContext(context.Background(), "SELECT 1").Scan(&n); err != nil {
					t.Fatal(err)
				}
			})
		},
		"arguments": func(db *sql.DB) float64 {
			return testing.AllocsPerRun(500, func() {
				var n int
				if err := db.QueryRowContext(context.Background(), "SELECT ?", 7).Scan(&n); err != nil {
					t.Fatal(err)
				}
			})
		},
	} {
		for name, p := range map[string]pair{"interpolated": p, "prepared": prepared} {
			if ours, raw := allocs(p.ours), allocs(p.raw); ours > raw {
				t.Errorf("%s, %s: %v allocations, the driver %v", what, name, ours, raw)
			}
		}
	}
}
