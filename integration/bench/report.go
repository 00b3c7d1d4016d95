package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// line is a run in one line of progress.
func (r result) line() string {
	s := fmt.Sprintf("%d queries, %d failed, p50 %s, p99 %s, p99.9 %s, max %s ms; %d logins, %d paid by callers",
		r.queries, r.failed, ms(r.p50), ms(r.p99), ms(r.p999), ms(r.max), r.logins.total, r.logins.paid)
	if r.orphans > 0 {
		s += fmt.Sprintf("; %d sessions of revoked logins at the end", r.orphans)
	}
	if r.err != nil {
		s += "; first failure: " + strings.ReplaceAll(r.err.Error(), "\n", " ")
	}
	return s
}

func ms(d time.Duration) string {
	if m := milliseconds(d); m >= 10 {
		return fmt.Sprintf("%.1f", m)
	}
	return fmt.Sprintf("%.2f", milliseconds(d))
}

// summary is all runs of one contender: totals of what must not happen, the most logins in any second of any run,
// medians of the rest.
type summary struct {
	result
	failed, whileIdle, orphans int
	rate                       float64 // logins a second
}

func (e *env) summarise(runs []result) (s summary) {
	s.p50 = median(runs, func(r result) time.Duration { return r.p50 })
	s.p99 = median(runs, func(r result) time.Duration { return r.p99 })
	s.p999 = median(runs, func(r result) time.Duration { return r.p999 })
	s.max = median(runs, func(r result) time.Duration { return r.max })
	s.rate = float64(median(runs, func(r result) int { return r.logins.total })) / e.run.Seconds()
	s.logins.peak = median(runs, func(r result) int { return r.logins.peak })
	s.logins.second = largest(runs, func(r result) int { return r.logins.second })
	s.logins.paid = median(runs, func(r result) int { return r.logins.paid })
	for _, r := range runs {
		s.failed += r.failed
		s.whileIdle += r.logins.whileIdle
		s.orphans += r.orphans
	}
	return s
}

// median is the middle one, or the lower of the two.
func median[R any, T cmp.Ordered](runs []R, of func(R) T) T {
	return quantile(sorted(runs, of), 0.5)
}

func largest[R any, T cmp.Ordered](runs []R, of func(R) T) T {
	return quantile(sorted(runs, of), 1)
}

func sorted[R any, T cmp.Ordered](runs []R, of func(R) T) []T {
	values := make([]T, len(runs))
	for i, r := range runs {
		values[i] = of(r)
	}
	slices.Sort(values)
	return values
}

func (e *env) printComparison(c *comparison) {
	summaries := make(map[string]summary)
	for name, runs := range c.results {
		summaries[name] = e.summarise(runs)
	}
	e.printf("\n## While credentials rotate: %d connections\n", e.conns)
	e.printf("%d connections of at most %d%s, rotating every %v, %d rounds of %v; load average before and after each round: %s.",
		e.conns, e.maxConns, e.over(), e.interval, e.rounds, e.run, strings.Join(c.loads, ", "))
	e.printf("Latencies in ms and logins are medians of the runs; failed, paid while idle, and sessions of revoked logins at the end are totals.\n")
	e.printf("| | failed | p50 | p99 | p99.9 | max | paid by callers | paid while one was idle | revoked and still open |")
	e.printf("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
	for _, c := range c.chosen {
		s := summaries[c.name]
		e.printf("| %s | %d | %s | %s | %s | %s | %d | %d | %d |", c.name, s.failed,
			ms(s.p50), ms(s.p99), ms(s.p999), ms(s.max), s.logins.paid, s.whileIdle, s.orphans)
	}
	for _, reference := range []string{baseline(e.db), floor} {
		if to, ok := summaries[reference]; ok {
			e.printRatios(c.chosen, summaries, reference, to)
		}
	}
	e.printLogins(c.chosen, summaries)
}

// printLogins compares the most logins in a short time to what an even pace comes to.
func (e *env) printLogins(chosen []contender, summaries map[string]summary) {
	e.printf("\nLogins at the database. The paced rate is %.1f a second: %d connections in half of the drain window of %v, and one proof. "+
		"Logins a second and the most in %v are medians of the runs, the most in 1 s is that of any second of any run.\n",
		e.pacedRate(), e.conns, e.drainTimeout(), peakWindow)
	e.printf("| | logins/s | most in 1 s | / paced rate | most in %v | / paced rate |", peakWindow)
	e.printf("| --- | --- | --- | --- | --- | --- |")
	for _, c := range chosen {
		s := summaries[c.name]
		e.printf("| %s | %.1f | %d | %.2f | %d | %.2f |", c.name, s.rate, s.logins.second, float64(s.logins.second)/e.pacedRate(),
			s.logins.peak, float64(s.logins.peak)/(e.pacedRate()*peakWindow.Seconds()))
	}
}

func (e *env) printRatios(chosen []contender, summaries map[string]summary, name string, to summary) {
	e.printf("\nRatios to *%s*:\n", name)
	e.printf("| | p50 | p99 | p99.9 | max |")
	e.printf("| --- | --- | --- | --- | --- |")
	for _, c := range chosen {
		s := summaries[c.name]
		e.printf("| %s | %.2f | %.2f | %.2f | %.2f |", c.name,
			ratio(s.p50, to.p50), ratio(s.p99, to.p99), ratio(s.p999, to.p999), ratio(s.max, to.max))
	}
}

func ratio(a, b time.Duration) float64 { return float64(a) / float64(b) }
