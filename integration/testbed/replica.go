package testbed

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// PostgresReplica is a streaming replica of a testbed's PostgreSQL: whoever may log in there may log
// in here, to read, as soon as the change that made him so has been replayed. It follows within
// milliseconds, unless it is told to wait.
type PostgresReplica struct {
	Addr      string        // host:port
	Superuser *pgxpool.Pool // the primary's superuser, in its database; Close closes it

	bed    *Bed
	server *postgresServer
	slot   string
	once   sync.Once
	err    error
}

// PostgresReplica copies the server, which must have been started with Options.PostgresReplicas, and
// starts the copy. It takes about two seconds. The replica ends with the testbed, or with its Close.
func (b *Bed) PostgresReplica(ctx context.Context) (*PostgresReplica, error) {
	if b.Postgres == nil || !b.options.PostgresReplicas {
		return nil, errors.New("make a replica of PostgreSQL: the testbed was started without Options.PostgresReplicas")
	}
	r := &PostgresReplica{bed: b, slot: b.names.next("replica")}
	if err := r.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("make a replica of PostgreSQL: %w", err), r.Close(context.WithoutCancel(ctx)))
	}
	b.onClose(r.Close)
	return r, nil
}

func (r *PostgresReplica) start(ctx context.Context) error {
	primary := r.bed.Postgres.server
	r.server = &postgresServer{
		bed: r.bed, binaries: primary.binaries, credential: primary.credential, password: primary.password,
		dir: r.bed.dir.join(r.slot),
	}
	if err := makeOwnedDir(r.server.dir, r.server.credential); err != nil {
		return err
	}
	if err := r.copyFrom(ctx, primary); err != nil {
		return err
	}
	var err error
	if r.server.address, err = freeAddress(); err != nil {
		return err
	}
	r.Addr = r.server.address
	if err := r.server.start(ctx); err != nil {
		return err
	}
	super, err := url.Parse(r.server.superURL())
	if err != nil {
		return errors.New("read the superuser's URL") // whose text holds the password
	}
	super.Path = "/" + r.bed.Postgres.Database
	if r.Superuser, err = pgxpool.New(ctx, super.String()); err != nil {
		return fmt.Errorf("make the superuser's pool: %w", err)
	}
	return nil
}

// copyFrom makes the data directory, with what a replica needs to follow the primary. The slot keeps
// what it has not read yet, also while it is stopped.
func (r *PostgresReplica) copyFrom(ctx context.Context, primary *postgresServer) error {
	host, port, err := net.SplitHostPort(primary.address)
	if err != nil {
		return fmt.Errorf("read the address: %w", err)
	}
	server, err := filepath.EvalSymlinks(filepath.Join(r.server.binaries, "postgres")) // a link to it alone may be in PATH
	if err != nil {
		return fmt.Errorf("find the server's own directory: %w", err)
	}
	command := exec.Command(filepath.Join(filepath.Dir(server), "pg_basebackup"), //nolint:noctx // runTool watches the context
		"--pgdata", r.server.dataDir(), "--dbname", "host="+host+" port="+port+" user="+superuser+" sslmode=disable",
		"--checkpoint=fast", "--no-sync", "--write-recovery-conf", "--create-slot", "--slot", r.slot)
	command.Dir, command.Env = r.server.dir, append(databaseEnv(), "PGPASSWORD="+primary.password)
	return r.bed.processes.runTool(ctx, processSpec{
		name: "pg_basebackup", command: command, logFile: r.bed.dir.join(r.slot + "-basebackup.log"),
		credential: r.server.credential, deathSig: syscall.SIGKILL,
	})
}

// URL returns postgres://host:port/database?sslmode=disable, without a user, for the database of ours.
func (r *PostgresReplica) URL() string {
	return (&url.URL{
		Scheme: "postgres", Host: r.Addr, Path: "/" + r.bed.Postgres.Database, RawQuery: "sslmode=disable",
	}).String()
}

// Lag keeps the replica where it is, until CatchUp: what commits from now on is received and not
// replayed. It holds over Stop and Restart, and has taken effect when it returns.
func (r *PostgresReplica) Lag(ctx context.Context) error {
	// First the pause, since a replay that waits for the delay to pass does not see it; no pause survives a restart.
	err := r.execute(ctx, "SELECT pg_wal_replay_pause()")
	for state := ""; err == nil && state != "paused"; {
		if err = r.Superuser.QueryRow(ctx, "SELECT pg_get_wal_replay_pause_state()").Scan(&state); err == nil {
			err = sleep(ctx, time.Millisecond)
		}
	}
	if err != nil {
		return fmt.Errorf("pause the replica's replay: %w", err)
	}
	return r.execute(ctx, "ALTER SYSTEM SET recovery_min_apply_delay = '1d'", "SELECT pg_reload_conf()")
}

// CatchUp ends Lag.
func (r *PostgresReplica) CatchUp(ctx context.Context) error {
	return r.execute(ctx, "ALTER SYSTEM RESET recovery_min_apply_delay", "SELECT pg_reload_conf()", "SELECT pg_wal_replay_resume()")
}

func (r *PostgresReplica) execute(ctx context.Context, statements ...string) error {
	for _, sql := range statements {
		if _, err := r.Superuser.Exec(ctx, sql); err != nil {
			return fmt.Errorf("change the replica's replay: %w", err)
		}
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Stop shuts the replica down, ending all sessions as an administrator would. Connections are refused
// until Restart.
func (r *PostgresReplica) Stop(ctx context.Context) error {
	return r.server.process.stop(ctx, syscall.SIGINT)
}

// Restart starts the replica again, at the same address, after Stop if it runs. It lets users in before
// it has caught up with the primary.
func (r *PostgresReplica) Restart(ctx context.Context) error {
	if err := r.Stop(ctx); err != nil {
		return fmt.Errorf("restart the replica: %w", err)
	}
	if err := r.server.start(ctx); err != nil {
		return fmt.Errorf("restart the replica: %w", err)
	}
	r.Superuser.Reset() // its connections are dead
	return nil
}

// Close ends the replica and removes its data. Idempotent.
func (r *PostgresReplica) Close(ctx context.Context) error {
	r.once.Do(func() {
		if r.Superuser != nil {
			r.Superuser.Close()
		}
		if r.server != nil {
			r.err = errors.Join(r.server.close(ctx), os.RemoveAll(r.server.dir))
		}
	})
	return r.err
}
