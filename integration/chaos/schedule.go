package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// planned is a fault with its time and place.
type planned struct {
	fault *fault
	after time.Duration // from the episode's beginning to the injection
	hold  time.Duration // from the injection to the lifting; 0 for what happens once
	dice  int           // 0 to 99, for what the fault chooses itself
	token string        // a pool's next one, where its token is revoked

	injected, lifted time.Time // when it happened; lifted is injected for what happens once
}

// episode is one fault, or two that overlap, until all is well again.
type episode struct {
	number int
	gap    time.Duration // of peace before it
	faults []*planned
}

func (e *episode) String() string {
	names := make([]string, len(e.faults))
	for i, p := range e.faults {
		names[i] = p.String()
	}
	return strings.Join(names, " + ")
}

// String is the fault and how long it lasts.
func (p *planned) String() string {
	if p.hold == 0 {
		return p.fault.name
	}
	return fmt.Sprintf("%s for %v", p.fault.name, p.hold.Round(100*time.Millisecond))
}

// length is from the first injection to the last lifting.
func (e *episode) length() (most time.Duration) {
	for _, p := range e.faults {
		most = max(most, p.after+p.hold)
	}
	return most
}

// schedule deals faults like cards: each one comes once before any comes again. It depends on the seed alone, and not on
// how long anything took.
type schedule struct {
	random *rand.Rand
	faults []*fault
	deck   []*fault
	dealt  int
}

func newSchedule(seed uint64, faults []*fault) *schedule {
	return &schedule{random: rand.New(rand.NewPCG(seed, 0)), faults: faults}
}

// next is the next episode: a pair as often as a fault alone.
func (s *schedule) next() *episode {
	s.dealt++
	e := &episode{number: s.dealt, gap: s.between(500*time.Millisecond, 2500*time.Millisecond)}
	first := s.draw(nil)
	e.faults = append(e.faults, s.plan(first))
	if paired := s.random.IntN(2) == 0; paired && !first.alone {
		if second := s.draw(first); second != nil {
			e.faults = append(e.faults, s.plan(second))
		}
	}
	slices.SortStableFunc(e.faults, func(a, b *planned) int { return order(a) - order(b) })
	for _, p := range e.faults[1:] { // within the first, or just after it
		p.after = s.between(0, max(e.faults[0].hold*9/10, 300*time.Millisecond))
	}
	return e
}

// order puts revocations first: while Vault or the database is down nobody could make them.
func order(p *planned) int {
	if p.fault.subject == onCredential {
		return 0
	}
	return 1
}

// draw takes a card that may come together with another: any if that is nil, nil if there is none in the deck.
func (s *schedule) draw(with *fault) *fault {
	if with == nil && len(s.deck) == 0 {
		s.deck = slices.Clone(s.faults)
		s.random.Shuffle(len(s.deck), func(i, j int) { s.deck[i], s.deck[j] = s.deck[j], s.deck[i] })
	}
	at := slices.IndexFunc(s.deck, func(f *fault) bool {
		return with == nil || !f.alone && f.subject != with.subject
	})
	if at < 0 {
		return nil
	}
	f := s.deck[at]
	s.deck = slices.Delete(s.deck, at, at+1)
	return f
}

func (s *schedule) plan(f *fault) *planned {
	return &planned{fault: f, hold: s.between(f.least, f.most), dice: s.random.IntN(100)}
}

func (s *schedule) between(least, most time.Duration) time.Duration {
	return least + time.Duration(s.random.Int64N(int64(most-least)+1))
}

// action is one step of an episode.
type action struct {
	at   time.Duration // from its beginning
	of   *planned
	lift bool
}

// actions are the steps in their order.
func (e *episode) actions() (all []action) {
	for _, p := range e.faults {
		all = append(all, action{at: p.after, of: p})
		if p.fault.lift != nil {
			all = append(all, action{at: p.after + p.hold, of: p, lift: true})
		}
	}
	slices.SortStableFunc(all, func(a, b action) int { return int(a.at - b.at) })
	return all
}
