package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// subject is what a fault happens to. Two faults at once have different ones.
type subject string

const (
	onVault      subject = "Vault"
	onPostgres   subject = postgresName
	onMariaDB    subject = mariadbName
	onLoad       subject = "load"
	onClock      subject = "clock"
	onCredential subject = "credential"
)

// fault is something that goes wrong.
type fault struct {
	name    string
	subject subject
	lane    lane // whose credential is revoked; "" for other faults

	// How long it lasts: between these. Both are 0 for what happens once and is not lifted.
	least, most time.Duration
	alone       bool // it is never one of a pair

	inject func(context.Context, *site, *planned) error
	lift   func(context.Context, *site, *planned) error // nil: there is nothing to lift
}

// touches reports whether the fault by itself makes operations on a database fail, whoever's they are.
func (f *fault) touches(database string) bool {
	return f.subject == onLoad || f.subject == subject(database)
}

// blocks reports whether, while the fault lasts, a pool on a database may be unable to renew or replace its
// credential: Vault has to answer, and needs the database for it.
func (f *fault) blocks(database string) bool {
	return f.subject == onVault || f.touches(database)
}

// revokes reports whether the fault takes a lane's credential away.
func (f *fault) revokes(l lane) bool { return f.lane == l }

// longer is longer than a lease.
func longer(name string) string { return name + ", longer than a lease" }

// catalogue is every fault that there is.
func catalogue() []*fault {
	const s = time.Second
	all := []*fault{
		{name: "Vault sealed", subject: onVault, least: 2 * s, most: 8 * s, inject: seal, lift: unseal},
		{name: longer("Vault sealed"), subject: onVault, least: leaseTTL + s, most: leaseTTL + 6*s, alone: true, inject: seal, lift: unseal},
		{name: "Vault stopped", subject: onVault, least: 2 * s, most: 8 * s, inject: stopVault, lift: continueVault},
		{name: "Vault killed", subject: onVault, least: 1 * s, most: 6 * s, inject: killVault, lift: restartVault},
		{name: "Vault slow", subject: onVault, least: 3 * s, most: 10 * s, inject: slowVault, lift: mendVault},
		{name: "Vault cuts answers", subject: onVault, least: 2 * s, most: 8 * s, inject: cutVault, lift: mendVault},
		{name: "Vault answers 429", subject: onVault, least: 2 * s, most: 8 * s, inject: answers(http.StatusTooManyRequests), lift: answers(0)},
		{name: "Vault answers 503", subject: onVault, least: 2 * s, most: 8 * s, inject: answers(http.StatusServiceUnavailable), lift: answers(0)},
		{name: "process suspended", subject: onLoad, least: 2 * s, most: 6 * s, inject: suspend, lift: resume},
		{name: longer("process suspended"), subject: onLoad, least: leaseTTL + s, most: leaseTTL + 4*s, alone: true, inject: suspend, lift: resume},
		{name: "clock set forward", subject: onClock, least: 2 * s, most: 6 * s, alone: true, inject: jump(time.Hour), lift: jump(0)},
		{name: "clock set back", subject: onClock, least: 2 * s, most: 6 * s, alone: true, inject: jump(-time.Hour), lift: jump(0)},
	}
	for _, l := range ours {
		all = append(all,
			&fault{name: "lease revoked, " + string(l), subject: onCredential, lane: l, inject: revokeLease},
			&fault{name: "prefix revoked, " + string(l), subject: onCredential, lane: l, inject: revokePrefix},
			&fault{name: "token revoked, " + string(l), subject: onCredential, lane: l, least: s / 2, most: 2 * s, inject: revokeToken, lift: giveToken})
	}
	for _, database := range []string{postgresName, mariadbName} {
		on := subject(database)
		all = append(all,
			&fault{name: database + " restarted", subject: on, least: s / 2, most: 3 * s, inject: stopDatabase, lift: startDatabase},
			&fault{name: database + " full", subject: on, least: 3 * s, most: 8 * s, inject: fill, lift: empty},
			&fault{name: database + " silent", subject: on, least: 2 * s, most: 6 * s, inject: silence, lift: speak},
			&fault{name: database + " unreachable", subject: on, least: 1 * s, most: 5 * s, inject: disconnect, lift: connect})
	}
	return all
}

func seal(ctx context.Context, s *site, _ *planned) error         { return s.bed.Vault.Seal(ctx) }
func unseal(ctx context.Context, s *site, _ *planned) error       { return s.bed.Vault.Unseal(ctx) }
func stopVault(_ context.Context, s *site, _ *planned) error      { return s.bed.Vault.Pause() }
func continueVault(_ context.Context, s *site, _ *planned) error  { return s.bed.Vault.Resume() }
func killVault(_ context.Context, s *site, _ *planned) error      { return s.bed.Vault.Kill() }
func restartVault(ctx context.Context, s *site, _ *planned) error { return s.bed.Vault.Restart(ctx) }
func suspend(_ context.Context, s *site, _ *planned) error        { return s.process.suspend() }
func resume(_ context.Context, s *site, _ *planned) error         { return s.process.resume() }
func mendVault(ctx context.Context, s *site, _ *planned) error    { return s.vaultLink.mend(ctx) }
func slowVault(_ context.Context, s *site, p *planned) error {
	return s.vaultLink.add(slow(300 + p.dice*12))
}

func cutVault(_ context.Context, s *site, p *planned) error {
	return s.vaultLink.add(cutting(1 + p.dice*5))
}
func silence(_ context.Context, s *site, p *planned) error    { return p.link(s).add(silent()...) }
func speak(ctx context.Context, s *site, p *planned) error    { return p.link(s).mend(ctx) }
func connect(_ context.Context, s *site, p *planned) error    { return p.link(s).allow() }
func disconnect(_ context.Context, s *site, p *planned) error { p.link(s).refuse(); return nil }
func (p *planned) link(s *site) *link                         { return s.links[string(p.fault.subject)] }

func (p *planned) onPostgres() bool { return p.fault.subject == onPostgres }

func jump(by time.Duration) func(context.Context, *site, *planned) error {
	return func(_ context.Context, s *site, _ *planned) error { return s.process.jump(by) }
}

func answers(status int) func(context.Context, *site, *planned) error {
	return func(_ context.Context, s *site, _ *planned) error { s.vault.answer(status); return nil }
}

// revokeLease revokes the one lease that the pool uses now, as an operator would.
func revokeLease(ctx context.Context, s *site, p *planned) error {
	id, err := s.currentLease(ctx, p.fault.lane)
	if err != nil {
		return err
	}
	_, err = s.bed.Vault.Client.Logical().WriteWithContext(ctx, "sys/leases/revoke", map[string]any{"lease_id": id, "sync": true})
	return wrap("revoke a lease", err)
}

// currentLease finds the lease of the user that the pool logs in as.
func (s *site) currentLease(ctx context.Context, l lane) (string, error) {
	user := s.currentUser(l)
	leases, err := s.roles[l].Leases(ctx)
	if err != nil {
		return "", err
	}
	for _, id := range leases {
		if s.vault.userOf(id) == user {
			return id, nil
		}
	}
	return "", fmt.Errorf("the current user of %s, %s, has none of the leases %q", l, user, leases)
}

func revokePrefix(ctx context.Context, s *site, p *planned) error {
	_, err := s.bed.Vault.Client.Logical().WriteWithContext(ctx, "sys/leases/revoke-prefix/"+s.roles[p.fault.lane].CredsPath,
		map[string]any{"sync": true})
	return wrap("revoke a prefix", err)
}

// revokeToken ends the token that all the pool's leases hang from. The next one is made before, since Vault may be down
// when it is due.
func revokeToken(ctx context.Context, s *site, p *planned) (err error) {
	if p.token, err = s.bed.Vault.Token(ctx, s.roles[p.fault.lane].Policy, tokenTTL); err != nil {
		return err
	}
	return wrap("revoke a token", s.bed.Vault.Client.Auth().Token().RevokeTreeWithContext(ctx, s.tokens[p.fault.lane]))
}

func giveToken(_ context.Context, s *site, p *planned) error {
	return s.giveToken(p.fault.lane, p.token)
}

func stopDatabase(ctx context.Context, s *site, p *planned) error {
	if p.onPostgres() {
		return s.bed.Postgres.Stop(ctx)
	}
	return s.bed.MariaDB.Stop(ctx)
}

func startDatabase(ctx context.Context, s *site, p *planned) error {
	if p.onPostgres() {
		return s.bed.Postgres.Restart(ctx)
	}
	return s.bed.MariaDB.Restart(ctx)
}

// usual is how many connections the load of a lane needs all the time: one for each long transaction, and two.
const usual = longWorkers + 2

// fill leaves no room for another connection: what is open stays. A connection that is closed can be opened again. A
// pool that has less than the usual just then, since connections have reached the end of their lifetime, may open that
// many: else it would be the moment that decides who fails.
func fill(ctx context.Context, s *site, p *planned) error {
	if p.onPostgres() {
		return wrap("fill PostgreSQL", s.bed.Postgres.Exec(ctx, fmt.Sprintf(`
			DO $$ BEGIN
				EXECUTE format('ALTER DATABASE %%I CONNECTION LIMIT %%s', current_database(), (
					SELECT count(*) + greatest(0, %[1]d - count(*) FILTER (WHERE application_name = '%[2]s'))
						+ greatest(0, %[1]d - count(*) FILTER (WHERE application_name = '%[3]s'))
					FROM pg_stat_activity WHERE datname = current_database()));
			END $$`, usual, applicationName(pgOurs), applicationName(pgControl))))
	}
	return wrap("fill MariaDB", s.bed.MariaDB.Exec(ctx, fmt.Sprintf(`
		SET @most = (SELECT count(*) + greatest(0, %[1]d - count(CASE WHEN user LIKE '%[2]s' THEN 1 END)) + greatest(0, %[1]d - count(CASE WHEN user = '%[3]s' THEN 1 END))
			FROM information_schema.processlist WHERE id > 0);
		SET GLOBAL max_connections = greatest(@most, 10)`, usual, "v-%-"+s.roles[myOurs].Name+"-%", controlUser)))
}

func empty(ctx context.Context, s *site, p *planned) error {
	if p.onPostgres() {
		return wrap("make room in PostgreSQL", s.bed.Postgres.Exec(ctx, fmt.Sprintf("ALTER DATABASE %s CONNECTION LIMIT -1", s.bed.Postgres.Database)))
	}
	return wrap("make room in MariaDB", s.bed.MariaDB.Exec(ctx, "SET GLOBAL max_connections = 300"))
}

func wrap(what string, err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	return fmt.Errorf("%s: %w", what, err)
}
