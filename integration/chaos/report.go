package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// mostRequests bounds what both pools may ask of Vault in any 10 s. Each step that fails is tried again after 250 ms
// at first, doubled each time and up to halved at random: at most 8 times in 10 s, and for each pool there are the issue,
// the renewal, and the revocation of as many leases as it may have.
const mostRequests = 2 * 8 * (2 + maxUnrevoked)

// report is what there is to say in the end.
type report struct {
	seed     uint64
	ran      time.Duration
	reason   string // why it ended
	err      error  // what kept the suite from going on
	record   *record
	snapshot snapshot
	requests requests
	end      *ending // nil if the load process did not come that far
	closing  error   // how the load process ended
	left     leftovers
}

// problems says what is wrong, for people; empty means that all is well.
func (r *report) problems() []string {
	found := r.record.verdict()
	complain := func(is bool, format string, values ...any) {
		if is {
			found = append(found, fmt.Sprintf(format, values...))
		}
	}
	complain(r.err != nil, "%v", r.err)
	complain(r.closing != nil, "%v", r.closing)
	for _, l := range lanes {
		complain(r.snapshot.totals[l].OK == 0 || r.snapshot.totals[l].Long == 0, "%s has done nothing", l)
	}
	for _, l := range ours {
		complain(r.snapshot.most[l] > maxUnrevoked, "%s had %d unrevoked leases at once: at most %d", l, r.snapshot.most[l], maxUnrevoked)
	}
	complain(r.requests.Most > mostRequests, "%d requests at Vault within %v: at most %d", r.requests.Most, rateWindow, mostRequests)
	if r.end == nil {
		complain(true, "what is left in the load process is not known")
	} else {
		complain(len(r.end.Errors) > 0, "closing the pools: %s", strings.Join(r.end.Errors, "; "))
		complain(r.end.Goroutines != "", "goroutines are left: %s", r.end.Goroutines)
		complain(len(r.end.Sockets) > 0, "%d sockets are left", len(r.end.Sockets))
	}
	complain(r.left.err != nil, "what is left is not known: %v", r.left.err)
	complain(len(r.left.leases) > 0, "left in Vault: %s", strings.Join(r.left.leases, ", "))
	complain(len(r.left.users) > r.requests.Faulty, "left in the databases, and at most %d of them by Vault: the users %s", r.requests.Faulty, strings.Join(r.left.users, ", "))
	complain(len(r.left.sessions) > 0, "left in the databases: the sessions of %s", strings.Join(r.left.sessions, ", "))
	return append(found, r.left.rows...)
}

// text is the summary.
func (r *report) text() string {
	var b strings.Builder
	b.WriteString("\n")
	r.table(&b)
	row := func(name, format string, values ...any) {
		fmt.Fprintf(&b, "%-24s %s\n", name, fmt.Sprintf(format, values...))
	}
	b.WriteString("\n")
	row("ran", "%v (%s), -seed=%d", r.ran.Round(100*time.Millisecond), r.reason, r.seed)
	for _, l := range lanes {
		t := r.snapshot.totals[l]
		text := fmt.Sprintf("%d short queries and %d transactions succeeded, %d failed", t.OK, t.Long, t.Failed)
		if e := r.snapshot.events[l]; l.isOurs() {
			text += fmt.Sprintf("; %d rotations, %d renewals, %d credentials issued", max(e["published"]-1, 0), e["renewed"], e["issued"])
		}
		row(string(l), "%s", text)
	}
	for _, l := range ours {
		row("  events of "+string(l), "%s", kinds(r.snapshot.events[l]))
	}
	for _, l := range ours {
		if c := r.record.compared[l]; c != nil {
			row("compared", "%s %d, %s %d in %d episodes that touch %s; ours may be %d more",
				l, c.ours, l.control(), c.control, c.episodes, l.database(), allowanceInAll(c.control, c.episodes))
		}
	}
	row("live sessions refused", "%d times in %d revocations of PostgreSQL's alone; over after %s in the median, %s at most",
		r.record.denied, len(r.record.denials), seconds(middle(r.record.denials)), seconds(longest(r.record.denials)))
	row("requests at Vault", "%d, at most %d in any %v (bound %d): %s", r.requests.Total, r.requests.Most, rateWindow, mostRequests, kinds(r.requests.ByKind))
	row("unrevoked at once", "%d and %d leases at most (bound %d)", r.snapshot.most[pgOurs], r.snapshot.most[myOurs], maxUnrevoked)
	r.leftText(row)
	problems := r.problems()
	if len(problems) == 0 {
		row("result", "all well: no failure in excess of the controls', every invariant held, nothing was left behind")
	}
	for _, problem := range problems {
		row("PROBLEM", "%s", problem)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func (r *report) leftText(row func(name, format string, values ...any)) {
	sockets, goroutines := "unknown", "unknown"
	if r.end != nil {
		sockets, goroutines = fmt.Sprint(len(r.end.Sockets)), "0"
		if r.end.Goroutines != "" {
			goroutines = "some"
		}
	}
	row("left behind", "%d leases, %d users, %d sessions, %s sockets, %s goroutines",
		len(r.left.leases), len(r.left.users), len(r.left.sessions), sockets, goroutines)
}

// table has a line for each kind of fault.
func (r *report) table(b *strings.Builder) {
	table := tabwriter.NewWriter(b, 0, 0, 2, ' ', tabwriter.AlignRight)
	line := func(format string, values ...any) { _, _ = fmt.Fprintf(table, format, values...) }
	line("fault\talone\tin a pair\tfailed\tcontrol\trevoked\tlapsed\texcess\thealed (median)\t(max)\t\n")
	var injected int
	for _, name := range slices.Sorted(maps.Keys(r.record.faults)) {
		f := r.record.faults[name]
		injected += f.alone + f.paired
		line("%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%s\t%s\t\n", name, f.alone, f.paired, f.ours, f.control, f.revoked, f.lapsed, f.surplus,
			seconds(middle(f.healings)), seconds(longest(f.healings)))
	}
	_ = table.Flush() // a strings.Builder does not fail
	fmt.Fprintf(b, "%d faults; what failed in a pair is counted for both\n", injected)
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2fs", d.Seconds()) }

// kinds lists counts: "2 issue, 5 renew".
func kinds(counts map[string]int) string {
	var all []string
	for _, kind := range slices.Sorted(maps.Keys(counts)) {
		all = append(all, fmt.Sprintf("%d %s", counts[kind], kind))
	}
	return strings.Join(all, ", ")
}
