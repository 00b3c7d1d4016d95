package vaultsource

import (
	"slices"
	"testing"
	"time"

	"github.com/vaultpool/vaultpool/rotation"
)

// hazard 31: what ends first is the end, and what can be prolonged is what ends first.
func TestLease(t *testing.T) {
	start := time.Now()
	ends := func(d time.Duration, renewable bool) *token {
		return &token{known: true, bound: bound{end: start.Add(d), full: d, renewable: renewable}}
	}
	capped := ends(time.Minute, true)
	capped.capped = true
	type got struct {
		ttl               time.Duration
		renewable, capped bool
	}
	for name, test := range map[string]struct {
		token             *token
		same              bool // the token is the one in use
		renewable, capped bool // the lease
		want              got
	}{
		"token later":                         {ends(2*time.Hour, false), true, true, false, got{time.Hour, true, false}},
		"token never ends":                    {&token{known: true}, true, true, false, got{time.Hour, true, false}},
		"token first":                         {ends(time.Minute, false), true, true, false, got{time.Minute, true, true}},
		"token first, can be renewed":         {ends(time.Minute, true), true, true, false, got{time.Minute, true, false}},
		"token first, at its ceiling":         {capped, true, true, false, got{time.Minute, true, true}},
		"lease at its ceiling":                {ends(2*time.Hour, true), true, true, true, got{time.Hour, true, true}},
		"lease at its ceiling, token first":   {ends(time.Minute, true), true, true, true, got{time.Minute, true, false}},
		"lease cannot be renewed":             {ends(2*time.Hour, true), true, false, false, got{time.Hour, false, false}},
		"lease cannot be renewed, token can":  {ends(time.Minute, true), true, false, false, got{time.Minute, true, false}},
		"lease cannot be renewed, nor token":  {ends(time.Minute, false), true, false, false, got{time.Minute, false, true}},
		"token has ended":                     {ends(-time.Minute, false), true, true, false, got{time.Millisecond, true, true}},
		"token was replaced by somebody":      {ends(2*time.Hour, true), false, true, false, got{time.Hour, true, true}},
		"token was replaced by our own login": {own(ends(2*time.Hour, true)), false, true, false, got{time.Hour, true, false}},
	} {
		s := &Source{current: &token{}}
		if test.same {
			s.current = test.token
		}
		h := &holding{id: "x", token: test.token, end: start.Add(time.Hour), granted: time.Hour, renewable: test.renewable, capped: test.capped}
		l := s.lease(h, start)
		if have := (got{l.TTL, l.Renewable, l.Capped}); have != test.want || !l.Revocable || l.ID != "x" {
			t.Errorf("%s: %+v, want %+v", name, have, test.want)
		}
	}
}

func own(t *token) *token {
	t.own = true
	return t
}

// hazards 39 and 40: no lease, and read again in time.
func TestUnleased(t *testing.T) {
	start := time.Now()
	renewable := &token{known: true, bound: bound{end: start.Add(30 * time.Minute), full: time.Hour, renewable: true}}
	for name, test := range map[string]struct {
		a     answer
		token *token
		want  time.Duration
	}{
		"KV":                              {answer{kind: KindKV2}, &token{}, 5 * time.Minute},
		"static":                          {answer{kind: KindStatic, ttl: time.Hour}, &token{}, time.Hour + time.Second},
		"static, due":                     {answer{kind: KindStatic}, &token{}, time.Second},
		"static, overdue":                 {answer{kind: KindStatic, ttl: -time.Minute}, &token{}, time.Second},
		"static, token has to be renewed": {answer{kind: KindStatic, ttl: time.Hour}, renewable, 20 * time.Minute},
	} {
		s := &Source{refresh: 5 * time.Minute}
		if l := s.unleased(test.a, test.token, start); l != (rotation.Lease{RefreshAfter: test.want}) {
			t.Errorf("%s: %+v", name, l)
		}
	}
}

func TestTokenIsDue(t *testing.T) {
	now := time.Now()
	with := func(left, full time.Duration) *token {
		return &token{known: true, bound: bound{end: now.Add(left), full: full, renewable: true}}
	}
	gone := with(time.Minute, time.Hour)
	gone.gone = true
	for name, test := range map[string]struct {
		token *token
		until time.Duration
		want  bool
	}{
		"nothing is known":                 {&token{}, 0, true},
		"never ends":                       {&token{known: true}, time.Hour, false},
		"lasts long enough":                {with(50*time.Minute, time.Hour), 40 * time.Minute, false},
		"does not":                         {with(50*time.Minute, time.Hour), 55 * time.Minute, true},
		"lasts long enough, but is old":    {with(19*time.Minute, time.Hour), time.Minute, true},
		"is gone":                          {gone, time.Hour, false},
		"has ended, as far as we can know": {with(-time.Second, time.Hour), time.Hour, true},
	} {
		if got := test.token.due(now, now.Add(test.until)); got != test.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func TestLeasesAreForgotten(t *testing.T) {
	s := &Source{leases: make(map[string]*holding)}
	start := time.Now()
	ids := func() []string {
		var ids []string
		for id := range s.leases {
			ids = append(ids, id)
		}
		slices.Sort(ids)
		return ids
	}
	old := &token{}
	for id, ttl := range map[string]time.Duration{"short": time.Second, "long": time.Hour} {
		s.remember(&holding{id: id, token: old, end: start.Add(ttl)}, start)
	}
	if got := ids(); !slices.Equal(got, []string{"long", "short"}) || s.holds(old) != 2 {
		t.Errorf("got %v", got)
	}
	s.remember(&holding{id: "next", token: new(token), end: start.Add(time.Hour)}, start.Add(2*time.Second))
	if got := ids(); !slices.Equal(got, []string{"long", "next"}) || s.holds(old) != 1 {
		t.Errorf("got %v, although short has ended", got)
	}
	s.forget("long")
	if got := ids(); !slices.Equal(got, []string{"next"}) || s.held("long") != nil {
		t.Errorf("got %v", got)
	}
}
