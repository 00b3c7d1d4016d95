package testbed

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// RoleOptions describes a Vault database role. Its zero value is useful.
type RoleOptions struct {
	DefaultTTL time.Duration // of a lease; 0 means one hour
	MaxTTL     time.Duration // how far renewals go, counted from the issue; 0 means 24 hours

	// Create, Revoke and Renew are SQL statements in Vault's notation ('{{name}}', '{{password}}',
	// '{{expiration}}'). Nil Create grants SELECT, INSERT, UPDATE and DELETE on the tables that the
	// database has at the time of the issue, and their sequences. Nil Revoke takes that back and drops
	// the user: on PostgreSQL this fails (2BP01) while the user owns anything, a temporary table of a
	// live session included, and does nothing when the user is gone already. Nil Renew is Vault's own.
	Create, Revoke, Renew []string
}

// Role is a Vault database role that credentials can be read from.
type Role struct {
	Name      string // short and unique; the database users of its credentials are LIKE 'v-%-Name-%'
	CredsPath string // what to read: database/creds/Name
	Policy    string // HCL of the least that a client of this role needs: read creds, renew, look up and revoke its leases

	bed        *Bed
	connection string
	defaults   RoleOptions
	users      func(ctx context.Context, like string) ([]string, error)
}

// Credential is a user of a database with its lease.
type Credential struct {
	User, Password string
	LeaseID        string
	TTL            time.Duration
}

// PostgresRole makes a new role for users of PostgreSQL.
func (b *Bed) PostgresRole(ctx context.Context, options RoleOptions) (*Role, error) {
	if b.Postgres == nil {
		return nil, errors.New("make a PostgreSQL role: the testbed was started without Options.Postgres")
	}
	return b.newRole(ctx, &Role{
		connection: "postgres", defaults: postgresDefaults, users: b.Postgres.Roles,
	}, options)
}

var postgresDefaults = RoleOptions{
	Create: []string{`
		CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}';
		GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO "{{name}}";
		GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO "{{name}}";`},
	// No DROP OWNED: it would hide that sessions are still using what the user owns.
	Revoke: []string{`
		DO $$ BEGIN
			IF EXISTS (SELECT FROM pg_roles WHERE rolname = '{{name}}') THEN
				REVOKE ALL ON ALL TABLES IN SCHEMA public FROM "{{name}}";
				REVOKE ALL ON ALL SEQUENCES IN SCHEMA public FROM "{{name}}";
				DROP ROLE "{{name}}";
			END IF;
		END $$;`},
}

// configureVault tells Vault how to log in to PostgreSQL.
func (p *Postgres) configureVault(ctx context.Context) error {
	password, _ := p.vault.Password()
	return p.bed.Vault.configureDatabase(ctx, "postgres", map[string]any{
		"plugin_name":    "postgresql-database-plugin",
		"connection_url": strings.Replace(p.URL(""), "://", "://{{username}}:{{password}}@", 1),
		"username":       p.vault.Username(),
		"password":       password,
	})
}

func (v *Vault) configureDatabase(ctx context.Context, name string, config map[string]any) error {
	config["allowed_roles"] = "*"
	if _, err := v.Client.Logical().WriteWithContext(ctx, v.Mount+"/config/"+name, config); err != nil {
		return fmt.Errorf("connect Vault to the database %s: %w", name, err)
	}
	return nil
}

func (b *Bed) newRole(ctx context.Context, role *Role, options RoleOptions) (*Role, error) {
	role.bed, role.Name = b, b.names.next("r")
	role.CredsPath = b.Vault.Mount + "/creds/" + role.Name
	role.Policy = leastPolicy(role.CredsPath)
	return role, role.Update(ctx, options)
}

// leastPolicy allows what a pool needs and no more. Vault has the lease id in the path of a
// revocation, and in the body of a renewal and a lookup.
func leastPolicy(credsPath string) string {
	return fmt.Sprintf(`
path "%[1]s"                     { capabilities = ["read"] }
path "sys/leases/renew"          { capabilities = ["update"] }
path "sys/leases/lookup"         { capabilities = ["update"] }
path "sys/leases/revoke/%[1]s/*" { capabilities = ["update"] }
`, credsPath)
}

// Update replaces the role's options. Leases that it has issued keep their terms; what revokes and
// renews them is taken from the new options.
func (r *Role) Update(ctx context.Context, options RoleOptions) error {
	if options.DefaultTTL == 0 {
		options.DefaultTTL = time.Hour
	}
	if options.MaxTTL == 0 {
		options.MaxTTL = 24 * time.Hour
	}
	if options.Create == nil {
		options.Create = r.defaults.Create
	}
	if options.Revoke == nil {
		options.Revoke = r.defaults.Revoke
	}
	path := r.bed.Vault.Mount + "/roles/" + r.Name
	_, err := r.bed.Vault.Client.Logical().WriteWithContext(ctx, path, map[string]any{
		"db_name":               r.connection,
		"default_ttl":           options.DefaultTTL.String(),
		"max_ttl":               options.MaxTTL.String(),
		"creation_statements":   options.Create,
		"revocation_statements": options.Revoke,
		"renew_statements":      options.Renew,
	})
	if err != nil {
		return fmt.Errorf("write the role %s: %w", r.Name, err)
	}
	return nil
}

// Token returns a new token with the role's Policy that lives for ttl.
func (r *Role) Token(ctx context.Context, ttl time.Duration) (string, error) {
	return r.bed.Vault.Token(ctx, r.Policy, ttl)
}

// Issue reads a credential with the root token.
func (r *Role) Issue(ctx context.Context) (*Credential, error) {
	secret, err := r.bed.Vault.Client.Logical().ReadWithContext(ctx, r.CredsPath)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", r.CredsPath, err)
	}
	if secret == nil {
		return nil, fmt.Errorf("read %s: Vault knows no such path", r.CredsPath)
	}
	credential := &Credential{LeaseID: secret.LeaseID, TTL: time.Duration(secret.LeaseDuration) * time.Second}
	credential.User, _ = secret.Data["username"].(string)
	credential.Password, _ = secret.Data["password"].(string)
	return credential, nil
}

// Leases returns the ids of the role's leases that Vault still has.
func (r *Role) Leases(ctx context.Context) ([]string, error) {
	return r.bed.Vault.Leases(ctx, r.CredsPath)
}

// Users returns the role's users that the database still has.
func (r *Role) Users(ctx context.Context) ([]string, error) {
	return r.users(ctx, "v-%-"+r.Name+"-%")
}
