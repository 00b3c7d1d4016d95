package main

import (
	"testing"
	"time"
)

func TestQuantile(t *testing.T) {
	thousand := make([]int, 1000)
	for i := range thousand {
		thousand[i] = i + 1
	}
	for _, c := range []struct {
		sorted []int
		q      float64
		want   int
	}{
		{nil, 0.5, 0},
		{[]int{7}, 0, 7},
		{[]int{7}, 1, 7},
		{[]int{1, 2}, 0.5, 1},
		{[]int{1, 2, 3}, 0.5, 2},
		{thousand, 0.5, 500},
		{thousand, 0.99, 990},
		{thousand, 0.999, 999},
		{thousand, 0.9991, 1000},
		{thousand, 1, 1000},
	} {
		if got := quantile(c.sorted, c.q); got != c.want {
			t.Errorf("quantile %v of %d samples is %d, not %d", c.q, len(c.sorted), got, c.want)
		}
	}
}

func TestMost(t *testing.T) {
	var start time.Time
	times := func(milliseconds ...int) (at []time.Time) {
		for _, m := range milliseconds {
			at = append(at, start.Add(time.Duration(m)*time.Millisecond))
		}
		return at
	}
	for _, c := range []struct {
		at   []time.Time
		want int
	}{
		{nil, 0},
		{times(5), 1},
		{times(0, 100), 2},
		{times(0, 101), 1},
		{times(0, 50, 101, 150, 151, 300), 3},
	} {
		if got := most(c.at, 100*time.Millisecond); got != c.want {
			t.Errorf("%d logins are the most of %v, not %d", got, c.at, c.want)
		}
	}
}

func TestSummary_TotalsWhatMustNotHappen(t *testing.T) {
	e := &env{options: options{run: 2 * time.Second}}
	s := e.summarise([]result{
		{failed: 1, orphans: 2, p99: 30, logins: loginCount{total: 10, paid: 5}},
		{p99: 10, logins: loginCount{total: 20, paid: 1, whileIdle: 1}},
		{failed: 2, p99: 20, logins: loginCount{total: 90, paid: 3}},
	})
	if s.failed != 3 || s.whileIdle != 1 || s.orphans != 2 {
		t.Errorf("%d failed, %d paid while one was idle and %d orphans, not 3, 1 and 2", s.failed, s.whileIdle, s.orphans)
	}
	if s.p99 != 20 || s.logins.paid != 3 || s.rate != 10 {
		t.Errorf("medians are p99 %v, %d paid, %v logins a second, not 20ns, 3 and 10", s.p99, s.logins.paid, s.rate)
	}
}

func TestOptions(t *testing.T) {
	for _, args := range [][]string{
		{"-db=oracle"},
		{"-part=x"},
		{"-conns=0"},
		{"-conns=5", "-max=4"},
		{"-rounds=0"},
		{"-blocks=0"},
		{"-run=1s"},
		{"-interval=1s"},
		{"-think=0s"},
		{"-only=("},
		{"more"},
	} {
		if _, err := parseOptions(args); err == nil {
			t.Errorf("%v is accepted", args)
		}
	}
	o, err := parseOptions([]string{"-quick"})
	if err != nil || o.db != (postgres{}) || o.maxConns != o.conns || o.rounds != 1 {
		t.Errorf("-quick means %+v, error %v", o, err)
	}
	if o, err = parseOptions([]string{"-db=mysql"}); err != nil || o.db != (mariadb{}) {
		t.Errorf("-db=mysql means %+v, error %v", o, err)
	}
}
