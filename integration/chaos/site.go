package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/vaultpool/vaultpool/integration/testbed"
)

const (
	tokenTTL    = 24 * 30 * time.Hour // the tokens end when the suite says so
	controlUser = "chaos_control"
)

// site is everything that faults happen to: the servers, what stands before them, and the pools' credentials.
type site struct {
	bed         *testbed.Bed
	dir         string // of Vault's state and the token files
	roles       map[lane]*testbed.Role
	tokens      map[lane]string // the current ones
	tokenFiles  map[lane]string
	links       map[string]*link  // by database
	vaultLink   *link             // the pools -> vaultLink -> vault -> Vault
	currentUser func(lane) string // whom a pool logs in as now
	vault       *vaultProxy
	process     *process // of the load

	password string // of the controls
}

// newSite starts the servers and makes tables, roles, tokens and proxies.
func newSite(ctx context.Context, screen *screen) (_ *site, err error) {
	s := &site{
		roles: make(map[lane]*testbed.Role), tokens: make(map[lane]string), tokenFiles: make(map[lane]string),
		links: make(map[string]*link), password: rand.Text(),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.dir, err = os.MkdirTemp("", "vaultpool-chaos-"); err != nil {
		return nil, fmt.Errorf("make a directory for Vault: %w", err)
	}
	for _, variable := range []string{"PGVAULT_TEST_POSTGRES_URL", "PGVAULT_TEST_MARIADB_DSN"} {
		// What is done to a server here must be done to none but our own.
		if err := os.Unsetenv(variable); err != nil {
			return nil, fmt.Errorf("leave existing servers alone: %w", err)
		}
	}
	s.bed, err = testbed.Start(ctx, testbed.Options{
		Postgres: true, MariaDB: true, VaultDir: filepath.Join(s.dir, "vault"), Progress: screen,
	})
	if err != nil {
		return nil, fmt.Errorf("start the servers: %w", err)
	}
	if err := s.makeRoles(ctx); err != nil {
		return nil, err
	}
	return s, s.makeNetwork()
}

func (s *site) makeRoles(ctx context.Context) (err error) {
	// MariaDB's leases can be renewed once in full, PostgreSQL's are replaced sooner.
	if s.roles[pgOurs], err = s.bed.PostgresRole(ctx, testbed.RoleOptions{DefaultTTL: leaseTTL, MaxTTL: leaseTTL}); err != nil {
		return err
	}
	if s.roles[myOurs], err = s.bed.MariaDBRole(ctx, testbed.RoleOptions{DefaultTTL: leaseTTL, MaxTTL: leaseTTL * 5 / 3}); err != nil {
		return err
	}
	for _, l := range ours {
		s.tokenFiles[l] = filepath.Join(s.dir, string(l)+".token")
		if err := s.newToken(ctx, l); err != nil {
			return err
		}
	}
	if err := s.bed.Postgres.Exec(ctx, postgresTables+fmt.Sprintf(`;
		CREATE ROLE %[1]s LOGIN PASSWORD '%[2]s';
		GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO %[1]s`, controlUser, s.password)); err != nil {
		return fmt.Errorf("make PostgreSQL's tables and the control's user: %w", err)
	}
	if err := s.bed.MariaDB.Exec(ctx, mariadbTables+fmt.Sprintf(`;
		CREATE USER '%[1]s'@'%%' IDENTIFIED BY '%[2]s';
		GRANT SELECT, INSERT, UPDATE, DELETE ON %[3]s.* TO '%[1]s'@'%%'`, controlUser, s.password, s.bed.MariaDB.Database)); err != nil {
		return fmt.Errorf("make MariaDB's tables and the control's user: %w", err)
	}
	return nil
}

// newToken makes a pool's next token and gives it to the pool.
func (s *site) newToken(ctx context.Context, l lane) error {
	token, err := s.bed.Vault.Token(ctx, s.roles[l].Policy, tokenTTL)
	if err != nil {
		return err
	}
	return s.giveToken(l, token)
}

// giveToken gives a pool a token as an Agent would: by its file, which is replaced in one step.
func (s *site) giveToken(l lane, token string) error {
	fresh := s.tokenFiles[l] + ".new"
	if err := os.WriteFile(fresh, []byte(token+"\n"), 0o600); err != nil {
		return fmt.Errorf("write a token: %w", err)
	}
	if err := os.Rename(fresh, s.tokenFiles[l]); err != nil {
		return fmt.Errorf("put a token in place: %w", err)
	}
	s.tokens[l] = token
	if s.vault != nil {
		s.vault.addSecret(token)
	}
	return nil
}

func (s *site) makeNetwork() (err error) {
	if s.links[postgresName], err = newLink(postgresName, s.bed.Postgres.Addr); err != nil {
		return err
	}
	if s.links[mariadbName], err = newLink(mariadbName, s.bed.MariaDB.Addr); err != nil {
		return err
	}
	s.vault = newVaultProxy(s.bed.Vault.Addr)
	for _, token := range s.tokens {
		s.vault.addSecret(token)
	}
	s.vaultLink, err = newLink("Vault", s.vault.address())
	return err
}

// settings is what the load process has to know.
func (s *site) settings() (settings, error) {
	told := settings{VaultAddr: "http://" + s.vaultLink.address(), Addresses: make(map[lane]string)}
	parameters := func(l lane) string {
		return fmt.Sprintf("vault_path=%s&vault_addr=%s&vault_token_file=%s", s.roles[l].CredsPath,
			url.QueryEscape(told.VaultAddr), url.QueryEscape(s.tokenFiles[l]))
	}
	for _, l := range []lane{pgOurs, pgControl} {
		address, err := url.Parse(s.bed.Postgres.URL(""))
		if err != nil {
			return told, fmt.Errorf("read PostgreSQL's address: %w", err)
		}
		address.Host = s.links[postgresName].address()
		query := address.Query()
		query.Set("application_name", applicationName(l))
		address.RawQuery = query.Encode()
		if l.isOurs() {
			address.RawQuery += "&" + parameters(l)
		} else {
			address.User = url.UserPassword(controlUser, s.password)
		}
		told.Addresses[l] = address.String()
	}
	config, err := mysql.ParseDSN(s.bed.MariaDB.DSN(""))
	if err != nil {
		return told, fmt.Errorf("read MariaDB's address: %w", err)
	}
	config.Addr, config.Timeout = s.links[mariadbName].address(), shortTimeout
	told.Addresses[myOurs] = config.FormatDSN()
	if strings.Contains(told.Addresses[myOurs], "?") {
		told.Addresses[myOurs] += "&" + parameters(myOurs)
	} else {
		told.Addresses[myOurs] += "?" + parameters(myOurs)
	}
	config.User, config.Passwd = controlUser, s.password
	told.Addresses[myControl] = config.FormatDSN()
	return told, nil
}

// applicationName tells PostgreSQL whose session it is: a user who does not exist any more has no name there.
func applicationName(l lane) string { return "chaos-" + string(l) }

// close stops everything and removes the directory.
func (s *site) close() error {
	for _, l := range s.links {
		if l != nil {
			l.close()
		}
	}
	if s.vaultLink != nil {
		s.vaultLink.close()
	}
	if s.vault != nil {
		s.vault.close()
	}
	var errs []error
	if s.bed != nil {
		errs = append(errs, s.bed.Close())
	}
	if s.dir != "" {
		errs = append(errs, os.RemoveAll(s.dir))
	}
	return errors.Join(errs...)
}
