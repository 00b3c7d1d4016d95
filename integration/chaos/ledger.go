package main

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// life is what is known of one generation of one of our pools.
type life struct {
	user    string
	expires time.Time // the latest that was seen
	ended   time.Time // when a later one was first seen in its place; zero while it is current
}

// second is what all lanes did in one second of the run, for the timeline and the live line.
type second struct {
	at     time.Time
	failed map[lane]int
	p99    map[lane]time.Duration
}

// ledger is what the load process has said so far.
type ledger struct {
	mu       sync.Mutex // guards what follows
	ready    chan struct{}
	isReady  bool
	failures []*failure // since they were last taken
	ticks    map[lane]tick
	worked   map[lane]time.Time // when a short query last succeeded, as far as ticks tell
	lastBad  map[lane]time.Time // when an operation last failed
	status   map[lane]*poolStatus
	lives    map[lane]map[uint64]*life
	events   map[lane]map[string]int
	totals   map[lane]tick
	seconds  []second
	most     map[lane]int // unrevoked leases at once
	end      *ending
	wrote    map[lane]sums
}

func newLedger() *ledger {
	l := &ledger{
		ready: make(chan struct{}), ticks: make(map[lane]tick), worked: make(map[lane]time.Time),
		lastBad: make(map[lane]time.Time), status: make(map[lane]*poolStatus),
		lives: make(map[lane]map[uint64]*life), events: make(map[lane]map[string]int), totals: make(map[lane]tick), most: make(map[lane]int),
	}
	for _, lane := range ours {
		l.lives[lane], l.events[lane] = make(map[uint64]*life), make(map[string]int)
	}
	return l
}

// receive takes a message of the load process.
func (l *ledger) receive(m message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case m.Ready && !l.isReady:
		l.isReady = true
		close(l.ready)
	case m.Tick != nil:
		l.addTick(m.Time, *m.Tick)
	case m.Failure != nil:
		l.failures = append(l.failures, m.Failure)
		l.lastBad[m.Failure.Lane] = m.Failure.Ended
	case m.Status != nil:
		l.addStatus(m.Time, m.Status)
	case m.Event != nil:
		l.events[m.Event.Lane][m.Event.Kind]++
	case m.End != nil:
		l.end, l.wrote = m.End, m.Wrote
	}
}

func (l *ledger) addTick(at time.Time, t tick) {
	l.ticks[t.Lane] = t
	if t.OK > 0 {
		l.worked[t.Lane] = at
	}
	total := l.totals[t.Lane]
	total.OK, total.Long, total.Failed = total.OK+t.OK, total.Long+t.Long, total.Failed+t.Failed
	l.totals[t.Lane] = total

	start := at.Truncate(time.Second)
	if n := len(l.seconds); n == 0 || l.seconds[n-1].at.Before(start) {
		l.seconds = append(l.seconds, second{at: start, failed: make(map[lane]int), p99: make(map[lane]time.Duration)})
	}
	s := l.seconds[len(l.seconds)-1]
	s.failed[t.Lane] += t.Failed
	s.p99[t.Lane] = max(s.p99[t.Lane], t.P99)
}

func (l *ledger) addStatus(at time.Time, s *poolStatus) {
	l.status[s.Lane] = s
	l.most[s.Lane] = max(l.most[s.Lane], s.Unrevoked)
	lives := l.lives[s.Lane]
	for _, g := range s.Generations {
		if lives[g.ID] == nil {
			lives[g.ID] = &life{}
		}
		lives[g.ID].user, lives[g.ID].expires = g.User, g.Expires
	}
	for id, one := range lives {
		if id < s.Generation && one.ended.IsZero() {
			one.ended = at
		}
	}
}

// take returns the failures since it was last called.
func (l *ledger) take() []*failure {
	l.mu.Lock()
	defer l.mu.Unlock()
	found := l.failures
	l.failures = nil
	return found
}

// now returns the newest status of one of our pools, nil before the first.
func (l *ledger) now(lane lane) *poolStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.status[lane]
}

// currentUser is whom a pool of ours logs in as.
func (l *ledger) currentUser(lane lane) string {
	s := l.now(lane)
	if s == nil {
		return ""
	}
	for _, g := range s.Generations {
		if g.ID == s.Generation {
			return g.User
		}
	}
	return ""
}

// livesOf returns what is known of a pool's generations.
func (l *ledger) livesOf(lane lane) []life {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []life
	for _, id := range slices.Sorted(maps.Keys(l.lives[lane])) {
		all = append(all, *l.lives[lane][id])
	}
	return all
}

// knew reports whether a pool has had a user's credential.
func (l *ledger) knew(lane lane, user string) bool {
	return slices.ContainsFunc(l.livesOf(lane), func(one life) bool { return one.user == user })
}

// forget drops generations that ended before a time: they have no more to say.
func (l *ledger) forget(before time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, lives := range l.lives {
		maps.DeleteFunc(lives, func(_ uint64, one *life) bool {
			return !one.ended.IsZero() && one.ended.Before(before) && one.expires.Before(before)
		})
	}
}

// condition is how a lane is doing.
type condition struct {
	lastFailed time.Time
	trouble    string // "" if there is none at this moment
}

// fresh is how old a report may be while the load process runs.
const fresh = 3 * tickInterval

// condition looks at a lane as it is now. generation is the one of before a revocation, which must not be current any
// more.
func (l *ledger) condition(lane lane, now time.Time, revoked uint64) condition {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := condition{lastFailed: l.lastBad[lane]}
	switch {
	case now.Sub(l.worked[lane]) > fresh:
		c.trouble = "no query has succeeded lately"
	case lane.isOurs():
		c.trouble = troubleOf(l.status[lane], revoked)
	}
	return c
}

// troubleOf looks at what a pool says of itself.
func troubleOf(s *poolStatus, revoked uint64) string {
	switch {
	case s == nil:
		return "no status"
	case !s.Usable:
		return "no usable credential: " + s.LastError
	case s.Generation <= revoked:
		return "the revoked credential is still in use"
	}
	for _, g := range s.Generations {
		if g.Dead && g.Connections > 0 {
			return "a dead credential still has connections"
		}
	}
	// A revocation that failed may be tried again much later, and the lease may end by itself before.
	if s.LastError != "" && !strings.Contains(s.LastError, "revoke the lease") {
		return "what failed last has not succeeded since: " + s.LastError
	}
	return ""
}

// snapshot is for the live line and the report.
type snapshot struct {
	totals, ticks map[lane]tick
	status        map[lane]*poolStatus
	events        map[lane]map[string]int
	most          map[lane]int
	seconds       []second
}

func (l *ledger) snapshot() snapshot {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := snapshot{
		totals: maps.Clone(l.totals), ticks: maps.Clone(l.ticks), status: maps.Clone(l.status), most: maps.Clone(l.most),
		seconds: slices.Clone(l.seconds), events: make(map[lane]map[string]int),
	}
	for lane, kinds := range l.events {
		s.events[lane] = maps.Clone(kinds)
	}
	return s
}

// ending is what the load process has said last.
func (l *ledger) ending() (*ending, map[lane]sums) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.end, l.wrote
}
