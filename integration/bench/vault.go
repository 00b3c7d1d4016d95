package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/vaultpool/vaultpool/integration/testbed"
)

// leases are the terms of the leases whose requests are counted.
type leases struct {
	ttl, ceiling time.Duration
	lifetimes    int // how many are waited for
}

func (o options) leases() leases {
	if o.quick {
		return leases{ttl: 3 * time.Second, ceiling: 8 * time.Second, lifetimes: 2}
	}
	return leases{ttl: 6 * time.Second, ceiling: 30 * time.Second, lifetimes: 4}
}

// vaultCost counts what an idle pool asks Vault for, lease by lease.
func (e *env) vaultCost(ctx context.Context) (err error) {
	const idle = 5
	terms := e.leases()
	role, err := e.db.role(ctx, e, testbed.RoleOptions{DefaultTTL: terms.ttl, MaxTTL: terms.ceiling})
	if err != nil {
		return err
	}
	counter, err := newVaultCounter(e.bed.Vault.Addr, role.CredsPath)
	if err != nil {
		return err
	}
	defer counter.close()
	other := e.at(idle)
	other.role, other.vaultAddress = role, counter.address()
	e.progressf("%d lifetimes of leases of %v that go up to %v: about %v", terms.lifetimes, terms.ttl, terms.ceiling,
		time.Duration(terms.lifetimes)*terms.ceiling)
	start := time.Now()
	p, err := e.db.openVault(as(ctx, upkeep), other, new(logins), other.form())
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		err = errors.Join(err, p.close(ctx), other.left(ctx, 0))
	}()
	if err := p.fill(as(ctx, upkeep), idle); err != nil {
		return err
	}
	requests, err := counter.lifetimes(ctx, terms)
	if err != nil {
		return err
	}
	e.printVaultCost(idle, terms, requests, time.Since(start))
	return nil
}

// lifetime is what one lease has cost.
type lifetime struct {
	took                      time.Duration // from the request for it to the end of its revocation
	issues, renewals, revokes int
}

func (l lifetime) requests() int { return l.issues + l.renewals + l.revokes }

// lifetimesOf tells whose requests are whose: the lease that was issued last is the one that is renewed, and revocations
// come in the order of the issues.
func lifetimesOf(requests []vaultRequest) (all []lifetime) {
	var issued []time.Time
	revoked := 0
	for _, r := range requests {
		switch {
		case r.kind == kindIssue:
			issued = append(issued, r.at)
			all = append(all, lifetime{issues: 1})
		case len(all) == 0:
		case r.kind == kindRenew:
			all[len(all)-1].renewals++
		case r.kind == kindRevoke && revoked < len(all):
			all[revoked].revokes++
			if r.ok {
				all[revoked].took = r.end.Sub(issued[revoked])
				revoked++
			}
		}
	}
	return all[:revoked]
}

// renewals is how many it takes until a lease is at its ceiling: each comes when a part of what was granted has passed,
// and one that is granted clearly less than the TTL has shown the ceiling.
func (l leases) renewals(part float64) (n int) {
	granted := l.ttl
	for age := time.Duration(0); granted > l.ttl-l.ttl/10; n++ {
		age += time.Duration(part * float64(granted))
		granted = min(l.ttl, l.ceiling-age)
	}
	return n
}

// The rule of the rotation package: at two thirds of what was granted, and up to a twentieth of it earlier or later.
const (
	renewAt     = 2.0 / 3
	renewSpread = 1.0 / 20
)

func (e *env) printVaultCost(conns int, terms leases, requests []vaultRequest, took time.Duration) {
	least, usual, most := 2+terms.renewals(renewAt+renewSpread), 2+terms.renewals(renewAt), 2+terms.renewals(renewAt-renewSpread)
	e.printf("\n## Requests at Vault\n")
	e.printf("One idle %s pool of %d connections%s, leases of %v that can be renewed up to %v, every request counted by a proxy before Vault. "+
		"The schedule asks for a lease, renews it at two thirds of what was granted until a renewal shows the ceiling, and revokes it: %d requests. "+
		"Renewals are spread by a twentieth to either side, which allows %d to %d.\n", e.db.ours(), conns, e.over(), terms.ttl, terms.ceiling, usual, least, most)
	e.printf("| lease | from request to revocation (s) | issue | renew | revoke | requests | the least | exactly at two thirds |")
	e.printf("| --- | --- | --- | --- | --- | --- | --- | --- |")
	for i, l := range lifetimesOf(requests) {
		e.printf("| %d | %.1f | %d | %d | %d | %d | %d | %d |", i+1, l.took.Seconds(), l.issues, l.renewals, l.revokes, l.requests(), least, usual)
	}
	e.printf("\nBeside these, in all %.0f s: %s. Requests that failed: %s.", took.Seconds(), others(requests), failures(requests))
	day := leases{ttl: time.Hour, ceiling: 24 * time.Hour}
	e.printf("\nBy the same rule a lease of an hour that can be renewed up to a day costs %d requests.", 2+day.renewals(renewAt))
}

// others are requests that are not about one lease, by kind.
func others(requests []vaultRequest) string {
	counts := map[string]int{"auth/token/lookup-self": 0, "auth/token/renew-self": 0, "sys/capabilities-self": 0}
	for _, r := range requests {
		if r.kind != kindIssue && r.kind != kindRenew && r.kind != kindRevoke {
			counts[r.kind]++
		}
	}
	return listed(counts)
}

// failures are requests that were not answered by 2xx, by kind.
func failures(requests []vaultRequest) string {
	counts := make(map[string]int)
	for _, r := range requests {
		if !r.ok {
			counts[r.kind]++
		}
	}
	if len(counts) == 0 {
		return "none"
	}
	return listed(counts)
}

func listed(counts map[string]int) string {
	var text []string
	for _, kind := range slices.Sorted(maps.Keys(counts)) {
		text = append(text, fmt.Sprintf("%d of `%s`", counts[kind], kind))
	}
	return strings.Join(text, ", ")
}
