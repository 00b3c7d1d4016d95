package main

import (
	"strings"
	"testing"
	"time"
)

// The moments of the tests are seconds after this one.
var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func at(seconds float64) time.Time {
	return start.Add(time.Duration(seconds * float64(time.Second)))
}

// happened is a fault of the catalogue as it was carried out.
func happened(t *testing.T, name string, injected, lifted float64) *planned {
	t.Helper()
	for _, f := range catalogue() {
		if f.name == name {
			return &planned{fault: f, injected: at(injected), lifted: at(lifted)}
		}
	}
	t.Fatalf("there is no fault %q", name)
	return nil
}

func failed(l lane, c class, seconds float64) *failure {
	return &failure{Lane: l, Class: c, Began: at(seconds - 0.01), Ended: at(seconds)}
}

func many(n int, f *failure) (all []*failure) {
	for range n {
		all = append(all, f)
	}
	return all
}

func TestVerdicts(t *testing.T) {
	calm := []life{{expires: at(100)}}
	long := func(f *failure) *failure { f.Long = true; return f }
	since := func(began float64, f *failure) *failure { f.Began = at(began); return f }
	for _, test := range []struct {
		name    string
		faults  []*planned
		lives   []life
		failure *failure
		want    verdict
	}{
		{"a fault of Vault's excuses nothing by itself", []*planned{happened(t, "Vault sealed", 0, 5)}, calm, failed(pgOurs, pgRefused, 3), excess},
		{"nor does one of the other database", []*planned{happened(t, "MariaDB silent", 0, 5)}, calm, failed(pgOurs, network, 3), excess},
		{"one of this database does", []*planned{happened(t, "MariaDB silent", 0, 5)}, calm, failed(myOurs, deadline, 3), byFault},
		{"but not before it", []*planned{happened(t, "MariaDB silent", 2, 5)}, calm, failed(myOurs, network, 1), excess},
		{"nor wrong data", []*planned{happened(t, "MariaDB silent", 0, 5)}, calm, failed(myOurs, wrongData, 3), excess},
		{"a suspension stops both", []*planned{happened(t, "process suspended", 0, 5)}, calm, failed(pgOurs, deadline, 5), byFault},

		{"a live session without its rights", []*planned{happened(t, "prefix revoked, pgvault", 0, 0)}, calm, failed(pgOurs, pgPermission, 1), byRevoked},
		{"but not before", []*planned{happened(t, "prefix revoked, pgvault", 2, 2)}, calm, failed(pgOurs, pgPermission, 1), excess},
		{"nor if it was the other's", []*planned{happened(t, "prefix revoked, mysqlvault", 0, 0)}, calm, failed(pgOurs, pgPermission, 1), excess},
		{"nor on MariaDB, whose sessions keep them", []*planned{happened(t, "prefix revoked, mysqlvault", 0, 0)}, calm, failed(myOurs, myNoTableGrant, 1), excess},
		{"a refused login", []*planned{happened(t, "lease revoked, pgvault", 0, 0)}, calm, failed(pgOurs, pgRefused, 0.1), excess},
		{"no credential", []*planned{happened(t, "lease revoked, pgvault", 0, 0)}, calm, failed(pgOurs, noCredential, 0.1), excess},
		{"no credential, without a token", []*planned{happened(t, "token revoked, pgvault", 0, 1)}, calm, failed(pgOurs, noCredential, 0.5), byRevoked},
		{"long after there is a token", []*planned{happened(t, "token revoked, pgvault", 0, 1)}, calm, failed(pgOurs, noCredential, 9), excess},
		{"no credential, without Vault", []*planned{happened(t, "lease revoked, mysqlvault", 0, 0), happened(t, "Vault killed", 0.2, 5)}, calm, failed(myOurs, noCredential, 3), byRevoked},
		{"what could not be replaced", []*planned{happened(t, "lease revoked, pgvault", 0, 0), happened(t, "Vault killed", 0.2, 5)}, calm, long(failed(pgOurs, ended, 3)), byRevoked},
		{"what could have been", []*planned{happened(t, "lease revoked, pgvault", 0, 0)}, calm, long(failed(pgOurs, ended, 3)), excess},
		{"no credential, before Vault went", []*planned{happened(t, "lease revoked, mysqlvault", 0, 0), happened(t, "Vault killed", 0.2, 5)}, calm, failed(myOurs, noCredential, 0.1), excess},
		{"waiting since before it went", []*planned{happened(t, "lease revoked, mysqlvault", 0, 0), happened(t, "Vault killed", 0.2, 5)}, calm, since(0.1, failed(myOurs, noCredential, 0.5)), byRevoked},
		{"until it is asked again", []*planned{happened(t, "lease revoked, mysqlvault", 0, 0), happened(t, "Vault killed", 0.2, 5)}, calm, failed(myOurs, noCredential, 11.9), byRevoked},
		{"and has answered", []*planned{happened(t, "lease revoked, mysqlvault", 0, 0), happened(t, "Vault killed", 0.2, 5)}, calm, failed(myOurs, noCredential, 12.1), excess},
		{"no room for connections that were lost", []*planned{happened(t, "token revoked, mysqlvault", 0, 1), happened(t, "MariaDB full", 0.5, 5)}, calm, failed(myOurs, myFull, 3), byRevoked},
		{"no room, but none was lost", []*planned{happened(t, "token revoked, pgvault", 0, 1), happened(t, "MariaDB full", 0.5, 5)}, calm, failed(myOurs, myFull, 3), byFault},

		{"a lease that ended while Vault was away", []*planned{happened(t, "Vault sealed", 0, 9)}, []life{{expires: at(8), ended: at(10)}}, failed(pgOurs, pgRefused, 9), byLapse},
		{"before it had ended", []*planned{happened(t, "Vault sealed", 0, 9)}, []life{{expires: at(8), ended: at(10)}}, failed(pgOurs, pgRefused, 5), excess},
		{"long after its successor", []*planned{happened(t, "Vault sealed", 0, 9)}, []life{{expires: at(8), ended: at(10)}}, failed(pgOurs, pgRefused, 14), excess},
		{"Vault was back in time", []*planned{happened(t, "Vault sealed", 0, 5)}, []life{{expires: at(30), ended: at(31)}}, failed(pgOurs, pgRefused, 30.5), excess},
		{"a transaction cut short by a late successor", []*planned{happened(t, "Vault sealed", 0, 9)}, []life{{expires: at(12), ended: at(10)}}, long(failed(pgOurs, ended, 11)), byLapse},
		{"a short query then", []*planned{happened(t, "Vault sealed", 0, 9)}, []life{{expires: at(12), ended: at(10)}}, failed(pgOurs, ended, 11), excess},
		{"a transaction cut short in time", []*planned{happened(t, "Vault sealed", 0, 9)}, []life{{expires: at(12), ended: at(7)}}, long(failed(pgOurs, ended, 11)), excess},
	} {
		w := window{faults: test.faults, began: at(0), over: at(15), healed: true}
		if got := verdictOf(w, test.lives, test.failure); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
}

func TestOursAreComparedWithTheControl(t *testing.T) {
	for _, test := range []struct{ ours, control, want int }{
		{0, 0, 0},
		{laneWorkers, 0, 0},
		{laneWorkers + 1, 0, 1},
		{100, 100, 0},
		{100 + laneWorkers + 30, 100, 0},
		{100 + laneWorkers + 31, 100, 1},
		{300, 100, 300 - 100 - laneWorkers - 30},
		{0, 100, 0},
	} {
		w := window{faults: []*planned{happened(t, "PostgreSQL restarted", 0, 2)}, began: at(0), over: at(4), healed: true}
		failures := append(many(test.ours, failed(pgOurs, network, 1)), many(test.control, failed(pgControl, network, 1))...)
		failures = append(failures, failed(myControl, network, 1)) // another's
		got := judge(w, pgOurs, nil, failures)
		if got.by[excess] != test.want || got.by[byFault] != test.ours-test.want || got.ours != test.ours || got.control != test.control {
			t.Errorf("%d against %d: %+v, want %d in excess", test.ours, test.control, got, test.want)
		}
		if (len(got.texts) > 0) != (test.want > 0) {
			t.Errorf("%d against %d: excess is explained by %q", test.ours, test.control, got.texts)
		}
	}
}

// What is within the allowance every time is not in all.
func TestSmallExcessAddsUp(t *testing.T) {
	for _, test := range []struct {
		each int
		want bool
	}{{0, false}, {laneWorkers - 1, true}} {
		r := newRecord()
		for range 40 {
			p := happened(t, "PostgreSQL restarted", 0, 2)
			e := &episode{faults: []*planned{p}}
			w := window{faults: e.faults, began: at(0), over: at(4), healed: true}
			failures := append(many(10+test.each, failed(pgOurs, network, 1)), many(10, failed(pgControl, network, 1))...)
			tallies := map[lane]tally{pgOurs: judge(w, pgOurs, nil, failures), myOurs: judge(w, myOurs, nil, failures)}
			if n := tallies[pgOurs].by[excess]; n != 0 {
				t.Fatalf("%d are in excess in one episode", n)
			}
			r.add(e, w, healing{}, tallies, failures)
		}
		if found := strings.Join(r.verdict(), "; "); strings.Contains(found, "over 40 episodes") != test.want {
			t.Errorf("%d more each time: %q", test.each, found)
		}
	}
}

// A control that fails without a reason makes the comparison worthless.
func TestUnsoundControl(t *testing.T) {
	r := newRecord()
	p := happened(t, "Vault sealed", 0, 2)
	e := &episode{faults: []*planned{p}}
	w := window{faults: e.faults, began: at(0), over: at(4), healed: true}
	r.add(e, w, healing{}, map[lane]tally{pgOurs: judge(w, pgOurs, nil, many(1, failed(pgControl, network, 1)))}, nil)
	if found := strings.Join(r.verdict(), "; "); !strings.Contains(found, "proves nothing") {
		t.Errorf("got %q", found)
	}
}
