package main

import (
	"fmt"
	"testing"
	"time"
)

func TestScheduleIsReproducible(t *testing.T) {
	list := func(seed uint64) (all string) {
		s := newSchedule(seed, catalogue())
		for range 200 {
			e := s.next()
			all += fmt.Sprintf("%d %v %s", e.number, e.gap, e)
			for _, p := range e.faults {
				all += fmt.Sprintf(" %v %d", p.after, p.dice)
			}
			all += "\n"
		}
		return all
	}
	if first, again := list(1), list(1); first != again {
		t.Error("the same seed gave two schedules")
	}
	if list(1) == list(2) {
		t.Error("two seeds gave the same schedule")
	}
}

func TestScheduleDealsEachFaultOnceBeforeAnyAgain(t *testing.T) {
	faults := catalogue()
	for seed := range uint64(20) {
		s := newSchedule(seed, faults)
		seen := make(map[string]int)
		for n := 0; n < 3*len(faults); {
			round := n / len(faults)
			for _, p := range s.next().faults {
				if seen[p.fault.name] > round+1 || seen[p.fault.name] < round-1 {
					t.Fatalf("seed %d: %s came %d times in round %d", seed, p.fault.name, seen[p.fault.name], round)
				}
				seen[p.fault.name]++
				n++
			}
		}
		for _, f := range faults {
			if seen[f.name] < 2 {
				t.Errorf("seed %d: %s came %d times in three rounds", seed, f.name, seen[f.name])
			}
		}
	}
}

func TestPairs(t *testing.T) {
	pairs := 0
	s := newSchedule(3, catalogue())
	for range 500 {
		e := s.next()
		if len(e.faults) == 1 {
			continue
		}
		pairs++
		first, second := e.faults[0], e.faults[1]
		if first.fault.subject == second.fault.subject || first.fault.alone || second.fault.alone {
			t.Errorf("%s must not come together", e)
		}
		if second.fault.subject == onCredential {
			t.Errorf("%s: the revocation has to come first", e)
		}
		if first.after != 0 || second.after < 0 || second.after > max(first.hold, 300*time.Millisecond) {
			t.Errorf("%s: they begin after %v and %v, and do not overlap", e, first.after, second.after)
		}
	}
	if pairs < 100 {
		t.Errorf("only %d pairs among 500", pairs)
	}
}

func TestActionsAreInOrder(t *testing.T) {
	s := newSchedule(4, catalogue())
	for range 200 {
		e := s.next()
		injected, last := make(map[*planned]bool), time.Duration(0)
		for _, a := range e.actions() {
			if a.at < last {
				t.Errorf("%s: a step at %v after one at %v", e, a.at, last)
			}
			if last = a.at; a.lift && !injected[a.of] {
				t.Errorf("%s: %s is lifted before it is injected", e, a.of)
			}
			injected[a.of] = true
		}
		if len(injected) != len(e.faults) || e.length() != last {
			t.Errorf("%s: %d faults have steps, the last at %v, of %v", e, len(injected), last, e.length())
		}
	}
}
