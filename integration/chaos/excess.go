package main

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"time"
)

// How failures are judged.
//
// The run is divided into episodes, from an injection until all is well again, and the peace between them. In peace
// nothing may fail, in any lane. In an episode each failure of a pool of ours gets the first verdict that fits:
//
//	excess    wrong data, whatever was going on
//	revoked   PostgreSQL refused a live session something (42501) after the lane's credential was revoked: nobody can
//	          hide that; or there was no credential to be had, since the token was revoked too, or Vault did not answer;
//	          or there was no room at the server for what had to be connected anew, which the control had not to
//	fault     the fault makes operations on this database fail, whoever's they are: counted, and compared below
//	lapsed    a lease that could not be replaced in time, because a fault kept Vault or the database from it in the last
//	          part of its life, has ended: see wasStarved
//	excess    everything else
//
// What has the verdict fault is compared with the failures of the control beside it, which has a static login, the same
// load, the same size and the same network, in the same episode. Ours may be more by one for each worker, whose
// operation was caught at one end of the fault or not, and three standard deviations of the control's count. Those that
// are more are in excess, but for as many as are also those of a lease that lapsed. So that nothing can hide below that
// allowance every time, the sums of the whole run are compared too, where it grows only with the square root of the
// number of episodes.

type verdict string

const (
	byFault   verdict = "fault"
	byRevoked verdict = "revoked"
	byLapse   verdict = "lapsed"
	excess    verdict = "excess"
)

// reaction is how long after a fault a pool may need to get what it is waiting for: Vault is asked again within a
// second while the credential is good.
const reaction = 2 * time.Second

// window is an episode as it happened.
type window struct {
	faults      []*planned
	began, over time.Time // from the first injection until all was well
	healed      bool
}

// tally is how the failures of one lane of ours and its control were judged in an episode.
type tally struct {
	ours, control int
	by            map[verdict]int
	texts         map[string]int // of what is in excess
}

// judge judges the failures of one lane of ours and of its control in an episode.
func judge(w window, l lane, lives []life, failures []*failure) tally {
	t := tally{by: make(map[verdict]int), texts: make(map[string]int)}
	var compared []*failure
	starved := 0
	for _, f := range failures {
		switch f.Lane {
		case l.control():
			t.control++
		case l:
			t.ours++
			v := verdictOf(w, lives, f)
			t.by[v]++
			if v == excess {
				t.texts[describe(f)]++
			}
			if v == byFault {
				compared = append(compared, f)
				if wasStarved(w, lives, f) {
					starved++
				}
			}
		}
	}
	over := len(compared) - t.control - allowance(t.control)
	if lapsed := min(over, starved); lapsed > 0 {
		t.by[byLapse] += lapsed
		t.by[byFault] -= lapsed
		over -= lapsed
	}
	if over > 0 {
		t.by[excess] += over
		t.by[byFault] -= over
		t.texts[fmt.Sprintf("%s: %d more than the control's %d:%s", l, len(compared)-t.control, t.control, classesOf(l, compared))] += over
	}
	return t
}

// allowance is by how much ours may be more than the control's in one episode.
func allowance(control int) int { return laneWorkers + int(math.Ceil(3*math.Sqrt(float64(control)))) }

// allowanceInAll is the same for the sums over a number of episodes.
func allowanceInAll(control, episodes int) int {
	return int(math.Ceil(3*math.Sqrt(float64(control)) + laneWorkers*math.Sqrt(float64(episodes))))
}

func verdictOf(w window, lives []life, f *failure) verdict {
	switch {
	case f.Class == wrongData:
		return excess
	case wasRevoked(w, f):
		return byRevoked
	case slices.ContainsFunc(w.faults, func(p *planned) bool { return p.fault.touches(f.Lane.database()) && !f.Ended.Before(p.injected) }):
		return byFault
	case wasStarved(w, lives, f):
		return byLapse
	default:
		return excess
	}
}

// wasRevoked reports whether the lane's credential was revoked before the failure, and it is one that follows.
func wasRevoked(w window, f *failure) bool {
	for _, p := range w.faults {
		if !p.fault.revokes(f.Lane) || f.Ended.Before(p.injected) {
			continue
		}
		if f.Class.isLiveDenial() && f.Lane == pgOurs {
			return true
		}
		if f.Class.isFull() && slices.ContainsFunc(w.faults, func(other *planned) bool { return other.fault.touches(f.Lane.database()) }) {
			return true
		}
		// There is no other credential: until the new token is there, or Vault is. Nothing then takes the place of
		// connections that were draining already, until their deadline.
		if (f.Class.isRefusal() || f.Class == ended && f.Long) && cannotIssue(w, f, p.injected) {
			return true
		}
	}
	return false
}

// cannotIssue reports whether something kept Vault from giving the lane a credential while f's operation waited, or shortly before:
// a pool that has lost its own asks again after pauses that double, so once more before it has been without twice as long,
// and after half a minute at most.
func cannotIssue(w window, f *failure, lost time.Time) bool {
	return slices.ContainsFunc(w.faults, func(p *planned) bool {
		lasts := p.fault.lift != nil && (p.fault.blocks(f.Lane.database()) || p.fault.revokes(f.Lane))
		asksAgain := min(30*time.Second, max(0, p.lifted.Sub(lost))) + reaction
		return lasts && !f.Ended.Before(p.injected) && (f.Began.Before(p.lifted.Add(asksAgain)) || !w.healed)
	})
}

// wasStarved reports whether the failure is that of a credential that a fault has kept from being replaced in time. A
// pool replaces its credential when a fifth of the lease is left, or some more, and has been renewing it since two
// thirds of it. So if something keeps it from that in the last third, then
//   - where there is no other when it ends, everything may fail until there is;
//   - where the next one came so late that there was not the time that connections usually have to finish, long
//     transactions may fail from then until the old one's end.
func wasStarved(w window, lives []life, f *failure) bool {
	return slices.ContainsFunc(lives, func(g life) bool {
		if !blockedIn(w, f.Lane, g.expires.Add(-leaseTTL/3), g.expires) {
			return false
		}
		lapsed := g.ended.IsZero() || g.ended.After(g.expires)
		until := g.ended.Add(reaction)
		if g.ended.IsZero() {
			until = w.over
		}
		if lapsed {
			return !f.Ended.Before(g.expires.Add(-leaseTTL/20)) && !f.Began.After(until)
		}
		late := g.expires.Sub(g.ended) < leaseTTL/5-time.Second/2
		return late && f.Long && !f.Ended.Before(g.ended) && !f.Began.After(g.expires)
	})
}

// blockedIn reports whether a fault that keeps a credential from being replaced lasted, or had just ended, at some time
// between two.
func blockedIn(w window, l lane, from, to time.Time) bool {
	return slices.ContainsFunc(w.faults, func(p *planned) bool {
		return p.fault.blocks(l.database()) && p.injected.Before(to) && p.lifted.Add(reaction).After(from)
	})
}

// describe is a failure without what differs between many of a kind.
func describe(f *failure) string {
	kind := "short query"
	if f.Long {
		kind = "transaction"
	}
	return fmt.Sprintf("%s: %s, %s: %s", f.Lane, kind, f.Class, cut(f.Text, 160))
}

// classesOf counts a lane's failures by their classes.
func classesOf(l lane, failures []*failure) (text string) {
	counts := make(map[class]int)
	for _, f := range failures {
		if f.Lane == l {
			counts[f.Class]++
		}
	}
	for _, c := range slices.Sorted(maps.Keys(counts)) {
		text += fmt.Sprintf(" %d× %s", counts[c], c)
	}
	return text
}
