package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestLeases_Renewals(t *testing.T) {
	for _, c := range []struct {
		ttl, ceiling time.Duration
		part         float64
		want         int
	}{
		{6 * time.Second, 30 * time.Second, 2.0 / 3, 7}, // at 4, 8 … 28, of which the last is granted 2 s
		{6 * time.Second, 6 * time.Second, 2.0 / 3, 1},  // the first shows it
		{6 * time.Second, 12 * time.Second, 0.5, 3},     // at 3, 6 and 9; that at 6 is granted all it asks for
		{10 * time.Second, 100 * time.Second, 0.9, 11},
	} {
		if got := (leases{ttl: c.ttl, ceiling: c.ceiling}).renewals(c.part); got != c.want {
			t.Errorf("%v up to %v, renewed at %.2f: %d renewals, not %d", c.ttl, c.ceiling, c.part, got, c.want)
		}
	}
}

func TestLifetimesOf(t *testing.T) {
	start := time.Now()
	var requests []vaultRequest
	add := func(kind string, ok bool) {
		at := start.Add(time.Duration(len(requests)) * time.Second)
		requests = append(requests, vaultRequest{kind: kind, at: at, end: at.Add(time.Second), ok: ok})
	}
	add("auth/token/lookup-self", true)
	add(kindIssue, true) // at 1 s
	add(kindRenew, true)
	add(kindRenew, false)
	add(kindIssue, true)
	add(kindRevoke, false)
	add(kindRenew, true)
	add(kindRevoke, true) // at 7 s
	if got, want := lifetimesOf(requests), []lifetime{{7 * time.Second, 1, 2, 2}}; !slices.Equal(got, want) {
		t.Errorf("lifetimes %+v, not %+v", got, want)
	}
	add(kindRevoke, true)
	if got, want := lifetimesOf(requests), (lifetime{5 * time.Second, 1, 1, 1}); len(got) != 2 || got[1] != want {
		t.Errorf("lifetimes %+v, the second not %+v", got, want)
	}
	if got := failures(requests); got != "1 of `renew`, 1 of `revoke`" {
		t.Errorf("failures: %s", got)
	}
	if got := failures(requests[:1]); got != "none" {
		t.Errorf("failures: %s", got)
	}
	if got := others(requests); got != "1 of `auth/token/lookup-self`, 0 of `auth/token/renew-self`, 0 of `sys/capabilities-self`" {
		t.Errorf("others: %s", got)
	}
}

// An idle pool asks Vault for as much as the schedule says.
func TestVaultCost(t *testing.T) {
	docs := t.TempDir()
	o, err := parseOptions([]string{"-part=vault", "-quick", "-docs=" + docs})
	if err != nil {
		t.Fatal(err)
	}
	var out, progress bytes.Buffer
	if err := bench(t.Context(), o, &out, &progress); err != nil {
		t.Fatalf("%v\n%s", err, progress.String())
	}
	for _, lease := range []string{"1", "2"} {
		cells := row(out.String(), lease)
		if len(cells) != 10 || cells[3] != "1" || cells[4] == "0" || cells[5] != "1" {
			t.Errorf("lease %s was not issued once, renewed, and revoked once: %q\n%s", lease, cells, out.String())
		}
	}
	if !strings.Contains(out.String(), "1 of `auth/token/lookup-self`") || !strings.Contains(out.String(), "Requests that failed: ") {
		t.Errorf("the token was not looked up once, or requests failed:\n%s", out.String())
	}
	checkDocument(t, docs+"/vault.md", out.String())
}
