package main

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"
	_ "unsafe" // for go:linkname

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"

	"github.com/vaultpool/vaultpool/mysqlvault"
	"github.com/vaultpool/vaultpool/pgvault"
	"github.com/vaultpool/vaultpool/rotation"
)

// loadVariable in the environment makes this program the load process. It is a process of its own, so that it can be
// stopped and continued as a whole, and so that what is left in it in the end is the pools' and nobody else's.
const loadVariable = "VAULTPOOL_CHAOS_LOAD"

// loadMain is the load process: it opens the four pools, works until its input ends, closes them, and says what is
// left. It returns the exit code.
func loadMain(in io.Reader, out io.Writer) int {
	r := newReporter(out)
	if err := load(bufio.NewReader(in), r); err != nil {
		fmt.Fprintln(os.Stderr, "the load process:", err)
		return 1
	}
	return 0
}

func load(in *bufio.Reader, r *reporter) error {
	line, err := in.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("read what to do: %w", err)
	}
	var told settings
	if err := json.Unmarshal(line, &told); err != nil {
		return errors.New("what to do is not JSON") // it may hold passwords
	}
	p := &pools{reporter: r}
	if err := p.open(told); err != nil {
		return errors.Join(err, p.close())
	}
	r.send(message{Ready: true})
	p.run(in)
	closing := p.close()
	end := leftInProcess()
	if closing != nil {
		end.Errors = strings.Split(closing.Error(), "\n")
	}
	r.send(message{End: &end, Wrote: p.wrote()})
	return r.err
}

// instruction is what the load process is told while it works.
type instruction struct {
	Skew time.Duration `json:"skew"` // by how much the wall clock is wrong
}

// wallSkew is the engine's own: its wall clock is this much ahead. A process has no clock of its own that could be set.
//
//go:linkname wallSkew github.com/vaultpool/vaultpool/rotation.wallSkew
var wallSkew atomic.Int64

// pools is the four of them, with their load.
type pools struct {
	reporter *reporter
	works    []*work
	rotators map[lane]*rotation.Rotator
	closers  []func() error
}

func (p *pools) open(told settings) error {
	p.rotators = make(map[lane]*rotation.Rotator)
	if err := mysql.SetLogger(&mysql.NopLogger{}); err != nil {
		return err
	}
	for _, l := range lanes {
		store, err := p.openLane(l, told.Addresses[l])
		if err != nil {
			return fmt.Errorf("open %s: %w", l, err)
		}
		p.works = append(p.works, &work{lane: l, store: store, reporter: p.reporter})
	}
	return nil
}

func (p *pools) openLane(l lane, address string) (store, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	switch l {
	case pgOurs:
		return p.openPgvault(ctx, address)
	case pgControl:
		return p.openPgxpool(ctx, address)
	case myOurs:
		return p.openMysqlvault(ctx, address)
	default:
		return p.openMysql(ctx, address)
	}
}

func setSize(c *pgxpool.Config) {
	c.MaxConns, c.MaxConnLifetime, c.MaxConnLifetimeJitter = poolSize, connLifetime, connLifetime/3
	c.ConnConfig.ConnectTimeout = shortTimeout
}

func (p *pools) openPgvault(ctx context.Context, address string) (store, error) {
	config, err := pgvault.ParseConfig(address)
	if err != nil {
		return nil, err
	}
	setSize(config.Config)
	pool, err := pgvault.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	p.follow(pgOurs, pool.Rotator())
	p.closers = append(p.closers, func() error { return pool.Shutdown(context.Background()) })
	return &pgxStore{pool}, nil
}

func (p *pools) openPgxpool(ctx context.Context, address string) (store, error) {
	config, err := pgxpool.ParseConfig(address)
	if err != nil {
		return nil, err
	}
	setSize(config)
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	p.closers = append(p.closers, func() error { pool.Close(); return nil })
	return &pgxStore{pool}, nil
}

func (p *pools) openMysqlvault(ctx context.Context, address string) (store, error) {
	config, err := mysqlvault.ParseConfig(address)
	if err != nil {
		return nil, err
	}
	connector, err := mysqlvault.NewConnector(ctx, config)
	if err != nil {
		return nil, err
	}
	p.follow(myOurs, connector.Rotator())
	return p.sized(sql.OpenDB(connector)), nil
}

func (p *pools) openMysql(_ context.Context, address string) (store, error) {
	db, err := sql.Open("mysql", address)
	if err != nil {
		return nil, err
	}
	return p.sized(db), nil
}

func (p *pools) sized(db *sql.DB) store {
	db.SetMaxOpenConns(poolSize)
	db.SetMaxIdleConns(poolSize)
	db.SetConnMaxLifetime(connLifetime)
	p.closers = append(p.closers, db.Close)
	return &sqlStore{db}
}

// follow reports what a rotator does.
func (p *pools) follow(l lane, r *rotation.Rotator) {
	p.rotators[l] = r
	r.Subscribe(func(e rotation.Event) {
		p.reporter.send(message{Event: &poolEvent{
			Lane: l, Kind: string(e.Kind), Generation: e.Generation, Text: cut(e.LogValue().String(), 400),
		}})
		p.reporter.send(message{Status: newStatus(l, r.Status())})
	})
}

func newStatus(l lane, s rotation.Status) *poolStatus {
	status := &poolStatus{
		Lane: l, Generation: s.Generation, Usable: s.Usable, Unrevoked: s.Unrevoked, LeaseLeft: s.LeaseLeft.Seconds(),
	}
	if s.LastError != nil {
		status.LastError = cut(s.LastError.Error(), 300)
	}
	for _, g := range s.Generations {
		status.Generations = append(status.Generations, generation{
			ID: g.Generation, User: g.User, State: string(g.State), Dead: g.Dead, Connections: g.Connections, Expires: g.Expires,
		})
	}
	return status
}

// run works until the input ends.
func (p *pools) run(in io.Reader) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for _, w := range p.works {
		w.start(ctx)
	}
	told := make(chan struct{})
	go func() {
		defer close(told)
		eachLine(in, func(line []byte) {
			var o instruction
			if err := json.Unmarshal(line, &o); err == nil {
				wallSkew.Store(int64(o.Skew))
			}
		})
	}()
	ticker := time.NewTicker(tickInterval)
	defer ticker.Stop()
	for working := true; working; {
		select {
		case <-told:
			working = false
		case <-ticker.C:
			p.tell()
		}
	}
	cancel()
	for _, w := range p.works {
		w.working.Wait()
	}
	p.tell()
}

// tell reports what there is to say regularly.
func (p *pools) tell() {
	for _, w := range p.works {
		p.reporter.send(message{Tick: w.take()})
	}
	for _, l := range ours {
		p.reporter.send(message{Status: newStatus(l, p.rotators[l].Status())})
	}
}

func (p *pools) wrote() map[lane]sums {
	all := make(map[lane]sums)
	for _, w := range p.works {
		all[w.lane] = w.total()
	}
	return all
}

func (p *pools) close() error {
	var errs []error
	for _, c := range p.closers {
		errs = append(errs, c())
	}
	return errors.Join(errs...)
}

// leftInProcess looks for goroutines and sockets, none of which should be there once the pools are closed.
func leftInProcess() ending {
	var end ending
	if err := goleak.Find(); err != nil {
		end.Goroutines = err.Error()
	}
	found, err := filepath.Glob("/proc/self/fd/*")
	if err != nil || len(found) == 0 {
		end.Sockets = []string{"the open files of the process cannot be listed"}
	}
	for _, file := range found {
		if target, err := os.Readlink(file); err == nil && strings.HasPrefix(target, "socket:") {
			end.Sockets = append(end.Sockets, target)
		}
	}
	return end
}
