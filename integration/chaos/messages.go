package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// The databases, and what runs on them.
const (
	postgresName = "PostgreSQL"
	mariadbName  = "MariaDB"
)

// lane is one of the four pools with a load of its own.
type lane string

const (
	pgOurs    lane = "pgvault"
	pgControl lane = "pgxpool"
	myOurs    lane = "mysqlvault"
	myControl lane = "mysql"
)

// lanes are all, in the order in which they are shown.
var lanes = []lane{pgOurs, pgControl, myOurs, myControl}

// ours are those whose credentials come from Vault.
var ours = []lane{pgOurs, myOurs}

// control is the pool with a static login beside one of ours.
func (l lane) control() lane {
	if l == pgOurs {
		return pgControl
	}
	return myControl
}

func (l lane) isOurs() bool { return l == pgOurs || l == myOurs }

// database is the name of the server that the lane works on.
func (l lane) database() string {
	if l == pgOurs || l == pgControl {
		return postgresName
	}
	return mariadbName
}

// settings is what the load process is told, in the first line of its standard input. It holds passwords, and goes
// nowhere else.
type settings struct {
	Addresses map[lane]string `json:"addresses"` // connection string or DSN of each
	VaultAddr string          `json:"vault_addr"`
}

// message is one line of what the load process says. One of the pointers is set.
type message struct {
	Time    time.Time     `json:"time"`
	Ready   bool          `json:"ready,omitempty"`
	Tick    *tick         `json:"tick,omitempty"`
	Failure *failure      `json:"failure,omitempty"`
	Status  *poolStatus   `json:"status,omitempty"`
	Event   *poolEvent    `json:"event,omitempty"`
	End     *ending       `json:"end,omitempty"`
	Wrote   map[lane]sums `json:"wrote,omitempty"`
}

// said is everything in a message that comes from errors and events, and that people get to see.
func (m message) said() string {
	switch {
	case m.Failure != nil:
		return m.Failure.Text
	case m.Status != nil:
		return m.Status.LastError
	case m.Event != nil:
		return m.Event.Text
	case m.End != nil:
		return strings.Join(m.End.Errors, " ")
	default:
		return ""
	}
}

// of is the lane that a message with something said is of.
func (m message) of() lane {
	switch {
	case m.Failure != nil:
		return m.Failure.Lane
	case m.Status != nil:
		return m.Status.Lane
	case m.Event != nil:
		return m.Event.Lane
	default:
		return ""
	}
}

// tick is what a lane did since the last one.
type tick struct {
	Lane   lane          `json:"lane"`
	OK     int           `json:"ok"`   // short queries
	Long   int           `json:"long"` // transactions
	Failed int           `json:"failed"`
	P99    time.Duration `json:"p99"` // of the short queries that succeeded
}

// failure is one operation that failed.
type failure struct {
	Lane  lane      `json:"lane"`
	Long  bool      `json:"long"` // a transaction
	Began time.Time `json:"began"`
	Ended time.Time `json:"ended"`
	Class class     `json:"class"`
	Text  string    `json:"text"`
}

// poolStatus is rotation.Status, as far as it is judged from outside.
type poolStatus struct {
	Lane        lane         `json:"lane"`
	Generation  uint64       `json:"generation"`
	Usable      bool         `json:"usable"`
	Unrevoked   int          `json:"unrevoked"`
	LastError   string       `json:"last_error,omitempty"`
	LeaseLeft   float64      `json:"lease_left"` // seconds
	Generations []generation `json:"generations"`
}

// generation is rotation.GenerationStatus.
type generation struct {
	ID          uint64    `json:"id"`
	User        string    `json:"user"`
	State       string    `json:"state"`
	Dead        bool      `json:"dead"`
	Connections int       `json:"connections"`
	Expires     time.Time `json:"expires"`
}

// poolEvent is a rotation.Event in short.
type poolEvent struct {
	Lane       lane   `json:"lane"`
	Kind       string `json:"kind"`
	Generation uint64 `json:"generation"`
	Text       string `json:"text"`
}

// sums is what a lane has asked the database to keep, and what was confirmed.
type sums struct {
	Rows         writes `json:"rows"`
	Transactions writes `json:"transactions"`
}

// writes counts what should be in the database: at least what was confirmed, at most what was asked for.
type writes struct {
	Asked     int `json:"asked"`
	Confirmed int `json:"confirmed"`
}

func (w writes) fit(stored int) bool { return w.Confirmed <= stored && stored <= w.Asked }

// ending is what is left of the load process's pools once they are closed.
type ending struct {
	Errors     []string `json:"errors,omitempty"` // of closing
	Goroutines string   `json:"goroutines,omitempty"`
	Sockets    []string `json:"sockets,omitempty"`
}

// reporter writes messages, each on a line.
type reporter struct {
	mu  sync.Mutex // held while writing: lines must not mix
	out *json.Encoder
	err error
}

func newReporter(w io.Writer) *reporter { return &reporter{out: json.NewEncoder(w)} }

func (r *reporter) send(m message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m.Time = time.Now()
	if err := r.out.Encode(m); err != nil && r.err == nil {
		r.err = fmt.Errorf("report: %w", err)
	}
}
