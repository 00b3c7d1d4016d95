package testbed

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/vault/api"
)

// Vault is the Vault server of a testbed. Its methods may be called concurrently, except for those
// that change the process: Pause, Resume, Kill, Restart.
type Vault struct {
	Addr      string      // http://host:port
	RootToken string      // for tests of what a token may do, use Token
	Client    *api.Client // with the root token; without automatic retries
	Mount     string      // where the database secrets engine is mounted: "database", unless the server is an existing one

	bed        *Bed
	server     *vaultServer // nil on an existing server
	httpClient *http.Client

	audit string // the audit log; "": there is none

	mu       sync.Mutex // guards what follows
	policies []string
	tokens   []string
}

func newVault(bed *Bed, address, token string, server *vaultServer) (*Vault, error) {
	config := api.DefaultConfig()
	if config.Error != nil {
		return nil, fmt.Errorf("configure a Vault client from the VAULT_* environment: %w", config.Error)
	}
	v := &Vault{
		Addr: address, RootToken: token, Mount: "database",
		bed: bed, server: server, httpClient: config.HttpClient,
	}
	if server == nil {
		v.Mount = "vaultpool-" + randomText(4)
	}
	client, err := v.newClient(token)
	if err != nil {
		return nil, err
	}
	client.SetMaxRetries(0) // reading creds is not idempotent, and a refusal is often what a test waits for
	v.Client = client
	bed.onClose(v.close)
	return v, nil
}

// newClient makes a client that ignores what the VAULT_* environment says about another server than
// ours, and shares its HTTP connections with all others, so that close can end them.
func (v *Vault) newClient(token string) (*api.Client, error) {
	config := api.DefaultConfig()
	config.Address, config.AgentAddress, config.HttpClient = v.Addr, "", v.httpClient
	client, err := api.NewClient(config)
	if err != nil {
		return nil, fmt.Errorf("make a Vault client for %s: %w", v.Addr, err)
	}
	if v.server != nil {
		client.ClearNamespace()
	}
	client.SetToken(token)
	return client, nil
}

// ClientWithToken returns a new client for this Vault, with api.DefaultConfig's retries and timeouts.
func (v *Vault) ClientWithToken(token string) *api.Client {
	client, err := v.newClient(token)
	if err != nil {
		panic(err) // it worked in Start: somebody has since put something unusable into the VAULT_* environment
	}
	return client
}

// Token makes a policy of the given rules and a token that has it, and Vault's default policy, and
// lives for ttl, renewable. The options change the request first. Both are removed by Close.
func (v *Vault) Token(ctx context.Context, policyHCL string, ttl time.Duration, options ...func(*api.TokenCreateRequest)) (string, error) {
	policy := v.bed.names.next("vaultpool-p")
	if err := v.Client.Sys().PutPolicyWithContext(ctx, policy, policyHCL); err != nil {
		return "", fmt.Errorf("write the policy %s: %w", policy, err)
	}
	v.remember(&v.policies, policy)
	request := &api.TokenCreateRequest{Policies: []string{policy}, TTL: ttl.String(), NoParent: true}
	for _, option := range options {
		option(request)
	}
	secret, err := v.Client.Auth().Token().CreateWithContext(ctx, request)
	if err != nil {
		return "", fmt.Errorf("create a token with the policy %s: %w", policy, err)
	}
	token := secret.Auth.ClientToken
	v.remember(&v.tokens, token)
	return token, nil
}

// Leases returns the ids of all leases whose id begins with prefix and a slash, such as
// "database/creds/r0001". Those that Vault has failed to revoke are among them.
func (v *Vault) Leases(ctx context.Context, prefix string) ([]string, error) {
	prefix = strings.TrimSuffix(prefix, "/") + "/"
	secret, err := v.Client.Logical().ListWithContext(ctx, "sys/leases/lookup/"+prefix)
	if err != nil {
		return nil, fmt.Errorf("list the leases below %s: %w", prefix, err)
	}
	if secret == nil { // Vault's way to say that there are none
		return nil, nil
	}
	keys, _ := secret.Data["keys"].([]any)
	var leases []string
	for _, key := range keys {
		name, _ := key.(string)
		if !strings.HasSuffix(name, "/") {
			leases = append(leases, prefix+name)
			continue
		}
		below, err := v.Leases(ctx, prefix+name)
		if err != nil {
			return nil, err
		}
		leases = append(leases, below...)
	}
	return leases, nil
}

// Seal makes Vault refuse everything until Unseal. It goes on running and remembers its state.
func (v *Vault) Seal(ctx context.Context) error {
	if v.server == nil {
		return ErrNotOurServer
	}
	if err := v.Client.Sys().SealWithContext(ctx); err != nil {
		return fmt.Errorf("seal Vault: %w", err)
	}
	return nil
}

// Unseal undoes Seal.
func (v *Vault) Unseal(ctx context.Context) error {
	if v.server == nil {
		return ErrNotOurServer
	}
	status, err := v.Client.Sys().UnsealWithContext(ctx, v.server.unsealKey)
	if err != nil {
		return fmt.Errorf("unseal Vault: %w", err)
	}
	if status.Sealed {
		return errors.New("unseal Vault: it is still sealed after its only key share")
	}
	return nil
}

// Pause stops the process in its tracks (SIGSTOP): connections are accepted by the kernel, and nothing
// answers.
func (v *Vault) Pause() error {
	if err := v.canSignal(); err != nil {
		return fmt.Errorf("pause Vault: %w", err)
	}
	return v.server.process.pause()
}

// Resume undoes Pause.
func (v *Vault) Resume() error {
	if err := v.canSignal(); err != nil {
		return fmt.Errorf("resume Vault: %w", err)
	}
	return v.server.process.resume()
}

func (v *Vault) canSignal() error {
	if v.server == nil {
		return ErrNotOurServer
	}
	if !v.server.process.running() {
		return errors.New("it is not running")
	}
	return nil
}

// Kill ends the process at once (SIGKILL) and returns when it is gone. Connections are then refused.
func (v *Vault) Kill() error {
	if v.server == nil {
		return ErrNotOurServer
	}
	return v.server.process.kill()
}

// Restart starts Vault again at the same address, with the same state, unsealed, after stopping it
// gently if it still runs. It needs Options.VaultDir: without, a new Vault would know nothing of the
// old one's leases and tokens.
func (v *Vault) Restart(ctx context.Context) error {
	if v.server == nil {
		return ErrNotOurServer
	}
	if v.bed.options.VaultDir == "" {
		return errors.New("restart Vault: its state was in memory only; set Options.VaultDir")
	}
	if err := v.server.process.stop(ctx, syscall.SIGTERM); err != nil {
		return fmt.Errorf("restart Vault: %w", err)
	}
	if err := v.server.start(ctx); err != nil {
		return fmt.Errorf("restart Vault: %w", err)
	}
	return nil
}

// mountDatabase mounts the database secrets engine.
func (v *Vault) mountDatabase(ctx context.Context) error {
	mounts, err := v.Client.Sys().ListMountsWithContext(ctx)
	if err != nil {
		return fmt.Errorf("list Vault's mounts: %w", err)
	}
	if _, mounted := mounts[v.Mount+"/"]; mounted { // by an earlier testbed on the same VaultDir
		return nil
	}
	if err := v.Client.Sys().MountWithContext(ctx, v.Mount, &api.MountInput{Type: "database"}); err != nil {
		return fmt.Errorf("mount the database secrets engine: %w", err)
	}
	return nil
}

func (v *Vault) remember(list *[]string, value string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	*list = append(*list, value)
}

// clean removes what we made on an existing server, which has to be done while the databases run.
func (v *Vault) clean(ctx context.Context) error {
	if v.server != nil {
		return nil
	}
	v.mu.Lock()
	policies, tokens := slices.Clone(v.policies), slices.Clone(v.tokens)
	v.mu.Unlock()
	var failures []error
	for _, token := range tokens {
		err := v.Client.Auth().Token().RevokeTreeWithContext(ctx, token)
		if err != nil && !strings.Contains(err.Error(), "token not found") { // expired, or revoked by the test
			failures = append(failures, fmt.Errorf("revoke a token of ours: %w", err))
		}
	}
	for _, policy := range policies {
		if err := v.Client.Sys().DeletePolicyWithContext(ctx, policy); err != nil {
			failures = append(failures, fmt.Errorf("delete the policy %s: %w", policy, err))
		}
	}
	return errors.Join(append(failures, v.unmountDatabase(ctx))...)
}

// unmountDatabase revokes all leases of the mount. Those that cannot be revoked are forgotten: the
// database drops their users in its own close.
func (v *Vault) unmountDatabase(ctx context.Context) error {
	err := v.Client.Sys().UnmountWithContext(ctx, v.Mount)
	if err == nil {
		return nil
	}
	if forced := v.Client.Sys().RevokeForceWithContext(ctx, v.Mount); forced != nil {
		return fmt.Errorf("unmount %s: %w; revoke its leases by force: %w", v.Mount, err, forced)
	}
	if err := v.Client.Sys().UnmountWithContext(ctx, v.Mount); err != nil {
		return fmt.Errorf("unmount %s: %w", v.Mount, err)
	}
	return nil
}

func (v *Vault) close(ctx context.Context) error {
	defer v.httpClient.CloseIdleConnections()
	if v.server == nil {
		return nil
	}
	return v.server.process.stop(ctx, syscall.SIGTERM)
}
