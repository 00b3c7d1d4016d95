package rotationhttp

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/vaultpool/vaultpool/rotation"
)

// How much a journal remembers.
const (
	keptEvents      = 100
	keptGenerations = 8
)

// journal remembers what a rotator reported: what a snapshot does not tell.
type journal struct {
	mu       sync.Mutex // guards what follows
	began    time.Time
	seq      uint64
	events   []Event
	failures map[failing]Failure
	lives    map[uint64]*Generation
	last     *Error
}

// failing is what fails: renewals, issues and proofs as such, revocations each for itself.
type failing struct {
	step       string
	generation uint64 // of a revocation
}

func newJournal() *journal {
	return &journal{began: time.Now(), failures: make(map[failing]Failure), lives: make(map[uint64]*Generation)}
}

// add takes an event. It is a subscriber's function.
func (j *journal) add(e rotation.Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.seq++
	entry := Event{
		Seq: j.seq, Time: stamp(e.Time), Kind: string(e.Kind), Generation: e.Generation, Reason: e.Reason,
		TTLSeconds: seconds(e.TTL), Connections: e.Connections, TookSeconds: seconds(e.Took),
		Attempt: e.Attempt, RetryAt: stamp(e.RetryAt), Missed: e.Missed,
	}
	if e.Err != nil {
		entry.Error = e.Err.Error()
		j.last = &Error{Event: entry.Kind, Error: entry.Error, At: entry.Time}
	}
	if j.events = append(j.events, entry); len(j.events) > keptEvents {
		j.events = slices.Delete(j.events, 0, len(j.events)-keptEvents)
	}
	j.judge(e, entry)
	j.live(e, entry.Time)
}

// judge notes which steps fail and which work again.
func (j *journal) judge(e rotation.Event, entry Event) {
	switch e.Kind {
	case rotation.IssueFailed:
		j.fails("issue", 0, entry)
	case rotation.CapReached:
		j.fails("cap", 0, entry)
	case rotation.ProbeFailed, rotation.Rejected:
		j.fails("probe", 0, entry)
	case rotation.RenewFailed:
		j.fails("renew", 0, entry)
	case rotation.RevokeFailed:
		j.fails("revoke", e.Generation, entry)
	case rotation.Issued, rotation.Refreshed, rotation.SameLease:
		j.works("issue", 0)
		j.works("cap", 0)
	case rotation.Renewed, rotation.CredentialLost: // what has ended is not renewed any more
		j.works("renew", 0)
	case rotation.Published:
		j.works("issue", 0)
		j.works("probe", 0)
		j.works("renew", 0)
	case rotation.Revoked, rotation.RevokeAbandoned:
		j.works("revoke", e.Generation)
		j.works("cap", 0)
	default: // says nothing about a step
	}
}

func (j *journal) fails(step string, generation uint64, e Event) {
	key := failing{step, generation}
	f, known := j.failures[key]
	if !known {
		f = Failure{Step: step, Since: e.Time}
	}
	f.Generation, f.Error, f.At, f.RetryAt = e.Generation, e.Error, e.Time, e.RetryAt
	f.Count = max(f.Count+1, e.Attempt)
	j.failures[key] = f
}

func (j *journal) works(step string, generation uint64) {
	delete(j.failures, failing{step, generation})
}

// live notes the stages of a generation's life.
func (j *journal) live(e rotation.Event, at time.Time) {
	if e.Generation == 0 {
		return
	}
	g := j.life(e.Generation)
	switch e.Kind {
	case rotation.Issued:
		g.Issued = at
	case rotation.Published:
		g.Published = at
	case rotation.Rejected:
		g.Reason, g.Draining = "rejected", at
	case rotation.Draining:
		g.Reason, g.Draining = e.Reason, at
	case rotation.Drained, rotation.SessionsEnded:
		g.Drained = at
	case rotation.Revoked, rotation.RevokeAbandoned:
		g.Retired = at
	default: // no stage
	}
}

// life returns the one of a generation, and forgets the oldest.
func (j *journal) life(generation uint64) *Generation {
	g, known := j.lives[generation]
	if !known {
		g = &Generation{Generation: generation, State: rotation.StateIssued, Pools: []Pool{}}
		j.lives[generation] = g
	}
	if len(j.lives) > keptGenerations {
		for _, old := range slices.Sorted(maps.Keys(j.lives)) {
			// Those that still live are looked up again from the next snapshot.
			if len(j.lives) > keptGenerations && old != generation {
				delete(j.lives, old)
			}
		}
	}
	return g
}

// fill adds what was heard to a report.
func (j *journal) fill(r *Report, s rotation.Status, now time.Time) {
	j.mu.Lock()
	defer j.mu.Unlock()
	r.Events = append([]Event{}, j.events...)
	r.LastError = j.last
	r.Failures = j.failing(s, now)
	for _, g := range s.Generations {
		j.life(g.Generation).update(g)
	}
	living := func(id uint64) bool {
		return slices.ContainsFunc(s.Generations, func(g rotation.GenerationStatus) bool { return g.Generation == id })
	}
	r.Generations = []Generation{}
	for _, id := range slices.Sorted(maps.Keys(j.lives)) {
		g := j.lives[id]
		// One that was just issued can be younger than the snapshot.
		if !living(id) && (id <= s.Generation || !g.Drained.IsZero() || !g.Retired.IsZero()) {
			g.retire(now)
		}
		r.Generations = append(r.Generations, *g)
	}
}

// update takes what a snapshot says of a generation that lives.
func (g *Generation) update(s rotation.GenerationStatus) {
	g.User, g.State, g.Dead, g.Connections, g.Pools = s.User, s.State, s.Dead, s.Connections, pools(s.ByAttachment)
	g.Issued, g.Expires, g.DrainBy = stamp(s.Issued), stamp(s.Expires), stamp(s.DrainBy)
	g.Reason = cmp.Or(s.Reason, g.Reason)
}

// retire is for one that no snapshot has any more.
func (g *Generation) retire(now time.Time) {
	g.State, g.Dead, g.Connections, g.Pools, g.DrainBy = rotation.StateRetired, true, 0, []Pool{}, time.Time{}
	if g.Retired.IsZero() { // without a lease to revoke it ends with its last connection
		g.Retired = g.Drained
	}
	if g.Retired.IsZero() {
		g.Retired = stamp(now)
	}
}

// failing lists what fails, what has failed for longest first.
func (j *journal) failing(s rotation.Status, now time.Time) []Failure {
	found := []Failure{}
	for _, f := range j.failures {
		// A host that refuses the current credential is looked at again only when it
		// refuses another login: no news is good news.
		if f.Step == "probe" && f.Generation == s.Generation && now.Sub(f.At) > time.Minute {
			continue
		}
		found = append(found, f)
	}
	if len(found) == 0 && s.LastError != nil && s.ErrorAt.Before(j.began) { // from before we listened
		found = append(found, Failure{
			Step: "last step", Generation: s.Generation, Error: s.LastError.Error(),
			Since: stamp(s.ErrorAt), At: stamp(s.ErrorAt), Count: s.Failures,
		})
	}
	slices.SortFunc(found, func(a, b Failure) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Step, b.Step), cmp.Compare(a.Generation, b.Generation))
	})
	return found
}
