package pgvault

import (
	"context"
	"net"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgxpool"
)

// serve is a PostgreSQL server that answers a login with refusal, or accepts it if that is nil, and every
// query with an error. What it says about credentials is tested on a real one; here it brings pgx's own
// types about.
func serve(conn net.Conn, refusal *pgproto3.ErrorResponse) {
	defer func() { _ = conn.Close() }()
	backend := pgproto3.NewBackend(conn, conn)
	if _, err := backend.ReceiveStartupMessage(); err != nil {
		return
	}
	if refusal != nil {
		backend.Send(refusal)
		_ = backend.Flush()
		return
	}
	backend.Send(&pgproto3.AuthenticationOk{})
	backend.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	for backend.Flush() == nil {
		message, err := backend.Receive()
		if err != nil {
			return
		}
		if _, ok := message.(*pgproto3.Query); ok {
			backend.Send(&pgproto3.ErrorResponse{Severity: "ERROR", Code: "42601", Message: "no query is understood here"})
			backend.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		}
	}
}

// fakeConfig is a pool's config whose connections are served by answer, which has the address that was
// dialled. An error stands for a network that fails.
func fakeConfig(t testing.TB, hosts string, answer func(addr string) (*pgproto3.ErrorResponse, error)) *pgxpool.Config {
	t.Helper()
	c, err := pgxpool.ParseConfig("postgres://" + hosts + "/app?sslmode=disable&pool_max_conns=2&default_query_exec_mode=simple_protocol")
	if err != nil {
		t.Fatal(err)
	}
	c.ConnConfig.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil }
	c.ConnConfig.DialFunc = func(_ context.Context, _, addr string) (net.Conn, error) {
		refusal, err := answer(addr)
		if err != nil {
			return nil, err
		}
		client, server := net.Pipe()
		go serve(server, refusal)
		return client, nil
	}
	return c
}

func accept(string) (*pgproto3.ErrorResponse, error) { return nil, nil }

func openPool(t testing.TB, c *pgxpool.Config) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.NewWithConfig(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// connectError is what pgx makes of a login that hosts answer so.
func connectError(t testing.TB, hosts string, answer func(addr string) (*pgproto3.ErrorResponse, error)) error {
	t.Helper()
	conn, err := pgx.ConnectConfig(t.Context(), fakeConfig(t, hosts, answer).ConnConfig)
	if err == nil {
		_ = conn.Close(context.Background())
		t.Fatal("connected")
	}
	return err
}
