package main

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// kept is how many failures are kept for the timeline.
const kept = 20000

// faultRecord is what is known of one kind of fault. What happened in a pair counts for both.
type faultRecord struct {
	alone, paired                           int
	ours, control, revoked, lapsed, surplus int
	healings                                []time.Duration // the longer of our two lanes
}

// bar is an episode on the timeline.
type bar struct {
	name         string
	began, ended time.Time // of the fault
	over         time.Time // when all was well again
}

// record is what has been found so far.
type record struct {
	mu       sync.Mutex // guards what follows
	faults   map[string]*faultRecord
	compared map[lane]*comparison
	texts    map[string]int // of failures in excess, and in peace
	peaceful int            // failures of ours in peace
	unsound  int            // failures of a control where none was to be expected
	problems []string
	denials  []time.Duration // how long live sessions were refused after a revocation alone
	denied   int             // how often
	bars     []bar
	dots     []*failure
}

// comparison is the sums of all episodes whose faults make operations on a database fail.
type comparison struct{ episodes, ours, control int }

func newRecord() *record {
	return &record{faults: make(map[string]*faultRecord), compared: make(map[lane]*comparison), texts: make(map[string]int)}
}

// add books an episode.
func (r *record) add(e *episode, w window, h healing, tallies map[lane]tally, failures []*failure) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range e.faults {
		r.addFault(p, e, h, tallies)
		r.bars = append(r.bars, bar{p.fault.name, p.injected, p.lifted, w.over})
	}
	for _, l := range ours {
		t := tallies[l]
		for text, n := range t.texts {
			r.texts[text] += n
		}
		r.compare(e, l, t)
	}
	r.addDenials(e, failures)
	r.dots = append(r.dots, failures[:min(len(failures), max(0, kept-len(r.dots)))]...)
}

func (r *record) addFault(p *planned, e *episode, h healing, tallies map[lane]tally) {
	f := r.faults[p.fault.name]
	if f == nil {
		f = &faultRecord{}
		r.faults[p.fault.name] = f
	}
	if len(e.faults) == 1 {
		f.alone++
	} else {
		f.paired++
	}
	var longest time.Duration
	for _, l := range ours {
		t := tallies[l]
		f.ours, f.control = f.ours+t.ours, f.control+t.control
		f.revoked, f.lapsed, f.surplus = f.revoked+t.by[byRevoked], f.lapsed+t.by[byLapse], f.surplus+t.by[excess]
		longest = max(longest, h.took[l])
	}
	f.healings = append(f.healings, longest)
}

// compare adds to the sums, and counts what fails in a control without a reason.
func (r *record) compare(e *episode, l lane, t tally) {
	touched := slices.ContainsFunc(e.faults, func(p *planned) bool { return p.fault.touches(l.database()) })
	if !touched {
		r.unsound += t.control
		return
	}
	if r.compared[l] == nil {
		r.compared[l] = &comparison{}
	}
	c := r.compared[l]
	c.episodes, c.ours, c.control = c.episodes+1, c.ours+t.by[byFault], c.control+t.control
}

// addDenials notes for how long PostgreSQL went on refusing live sessions after a revocation with nothing beside it. It
// counts from when there was a token again, where that was revoked.
func (r *record) addDenials(e *episode, failures []*failure) {
	if len(e.faults) != 1 || e.faults[0].fault.lane != pgOurs {
		return
	}
	var last time.Time
	for _, f := range failures {
		if f.Lane == pgOurs && f.Class.isLiveDenial() {
			r.denied++
			last = f.Ended
		}
	}
	if !last.IsZero() {
		r.denials = append(r.denials, max(last.Sub(e.faults[0].lifted), 0))
	}
}

// inPeace books a failure where there was no fault.
func (r *record) inPeace(f *failure) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.texts["in peace: "+describe(f)]++
	if f.Lane.isOurs() {
		r.peaceful++
	} else {
		r.unsound++
	}
	r.dots = append(r.dots, f)
}

// broken books an invariant that does not hold, once.
func (r *record) broken(problem string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Contains(r.problems, problem) {
		r.problems = append(r.problems, problem)
	}
}

// verdict lists what is wrong with what happened, empty if nothing is.
func (r *record) verdict() (found []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	found = slices.Clone(r.problems)
	if r.peaceful > 0 {
		found = append(found, fmt.Sprintf("%d operations of ours failed in peace", r.peaceful))
	}
	if r.unsound > 0 {
		found = append(found, fmt.Sprintf("%d operations of the controls failed where no fault touched them: the run proves nothing", r.unsound))
	}
	for i, text := range slices.Sorted(maps.Keys(r.texts)) {
		if i == shownTexts {
			found = append(found, fmt.Sprintf("in excess: %d texts more", len(r.texts)-i))
			break
		}
		found = append(found, fmt.Sprintf("in excess: %d× %s", r.texts[text], text))
	}
	for _, l := range ours {
		if c := r.compared[l]; c != nil && c.ours-c.control > allowanceInAll(c.control, c.episodes) {
			found = append(found, fmt.Sprintf("in excess: over %d episodes %s failed %d times and %s %d times",
				c.episodes, l, c.ours, l.control(), c.control))
		}
	}
	return found
}

// middle is the median, 0 of none.
func middle(times []time.Duration) time.Duration {
	if len(times) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(times))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

func longest(times []time.Duration) time.Duration {
	if len(times) == 0 {
		return 0
	}
	return slices.Max(times)
}
