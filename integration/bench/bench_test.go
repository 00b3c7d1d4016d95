package main

import (
	"slices"
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
		{failed: 1, orphans: 2, p99: 30, logins: loginCount{total: 10, paid: 5, second: 7}},
		{p99: 10, logins: loginCount{total: 20, paid: 1, whileIdle: 1, second: 30}},
		{failed: 2, p99: 20, logins: loginCount{total: 90, paid: 3}},
	})
	if s.failed != 3 || s.whileIdle != 1 || s.orphans != 2 {
		t.Errorf("%d failed, %d paid while one was idle and %d orphans, not 3, 1 and 2", s.failed, s.whileIdle, s.orphans)
	}
	if s.p99 != 20 || s.logins.paid != 3 || s.rate != 10 {
		t.Errorf("medians are p99 %v, %d paid, %v logins a second, not 20ns, 3 and 10", s.p99, s.logins.paid, s.rate)
	}
	if s.logins.second != 30 { // what must never happen is no matter of medians
		t.Errorf("%d logins are the most in any second of any run, not 30", s.logins.second)
	}
}

func TestOptions(t *testing.T) {
	for _, args := range [][]string{
		{"-db=oracle"},
		{"-part=x"},
		{"-conns=0"},
		{"-conns=x"},
		{"-conns=5,"},
		{"-conns=5,6,5"},
		{"-conns=5", "-max=4"},
		{"-conns=3,5", "-max=4"},
		{"-max=-1"},
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
	parse := func(args ...string) options {
		t.Helper()
		o, err := parseOptions(args)
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	if o := parse("-quick"); o.db != (postgres{}) || o.maxConns != o.conns || o.rounds != 1 || o.tls {
		t.Errorf("-quick means %+v", o)
	}
	if o := parse("-db=mysql", "-tls"); o.db != (mariadb{}) || !o.tls || o.over() == "" {
		t.Errorf("-db=mysql -tls means %+v", o)
	}
	if o := parse(); !slices.Equal(o.sizes, []int{50}) || o.rounds != 5 || o.part != "all" || o.docs != "" {
		t.Errorf("no flags mean %+v", o)
	}
	for _, part := range parts {
		if o := parse("-part=" + part); o.part != part {
			t.Errorf("-part=%s means %+v", part, o)
		}
	}
}

func TestOptions_Sizes(t *testing.T) {
	for _, c := range []struct {
		args   []string
		sizes  []int
		steady int
	}{
		{[]string{"-conns=10,50,200"}, []int{10, 50, 200}, 50},
		{[]string{"-conns=10, 200"}, []int{10, 200}, 10},
		{[]string{"-conns=7"}, []int{7}, 7},
	} {
		o, err := parseOptions(c.args)
		if err != nil || !slices.Equal(o.sizes, c.sizes) || o.conns != c.steady || o.maxConns != c.steady {
			t.Errorf("%v: %v connections, %d of at most %d in the steady state, error %v", c.args, o.sizes, o.conns, o.maxConns, err)
		}
	}
	o, err := parseOptions([]string{"-conns=10,50,200", "-max=300"})
	if err != nil || o.at(200).conns != 200 || o.at(10).maxConns != 300 {
		t.Errorf("-max=300: %+v, error %v", o, err)
	}
	// As many queries for the server, whatever the number of workers.
	if small, large := o.at(10).pause(), o.at(200).pause(); small != 2*time.Millisecond || large != 40*time.Millisecond {
		t.Errorf("workers pause for %v at 10 connections and for %v at 200", small, large)
	}
	if servers := (postgres{}).servers(o); servers.PostgresMaxConns < 3*300 {
		t.Errorf("PostgreSQL allows %d connections, where three pools of 300 may be open", servers.PostgresMaxConns)
	}
}

func TestPacedRate(t *testing.T) {
	e := &env{options: options{conns: 50, interval: 3 * time.Second}} // drains for 2.5 s
	if rate := e.pacedRate(); rate != 41 {
		t.Errorf("50 connections in 1.25 s and one proof are %v logins a second, not 41", rate)
	}
}
