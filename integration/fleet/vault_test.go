package fleet

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/vaultpool/vaultpool/rotation"
)

// What the simulated Vault grants, and what its clients log in with.
const (
	defaultTTL = time.Hour
	maxTTL     = 24 * time.Hour
	password   = "simulated"
)

// errDown is what vaultsource returns of a Vault that refuses connections: a passing fault.
var errDown = fmt.Errorf("in Vault at https://vault:8200: %w",
	&net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)})

// span is a part of a run; times are counted from its start.
type span struct{ from, to time.Duration }

func (s span) contains(at time.Duration) bool { return s.from <= at && at < s.to }

// vault grants leases as Vault does, and counts what it is asked. Requests take no time.
type vault struct {
	start  time.Time
	outage span // requests fail at once; none if empty
	*tally
}

// now is the time since the start, in the bubble.
func (v *vault) now() time.Duration { return time.Since(v.start) }

// client is the Vault as one instance sees it. It is the instance's rotation.Source.
type client struct {
	vault *vault
	name  string

	mu     sync.Mutex // guards what follows
	issued int
	leases []lease // that were not revoked, oldest first
	held   time.Duration
	losses []loss
}

// lease is one of a client's; times are counted from the start of the run.
type lease struct {
	id           string
	issued, ends time.Duration
}

// loss is a time without a credential: the newest lease ended, and the next was issued later.
type loss struct {
	at   time.Duration
	back time.Duration // 0: never
}

// Issue makes a lease of the default TTL.
func (c *client) Issue(context.Context) (rotation.Credential, rotation.Lease, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.vault.now()
	kind := issue
	if now >= c.held {
		kind = issueWithout
	}
	if !c.vault.answers(kind, now) {
		return rotation.Credential{}, rotation.Lease{}, fmt.Errorf("issue a credential %w", errDown)
	}
	if c.issued > 0 && now >= c.held {
		c.losses = append(c.losses, loss{at: c.held, back: now})
	}
	c.issued++
	l := lease{id: "database/creds/app/" + strconv.Itoa(c.issued), issued: now, ends: now + defaultTTL}
	c.leases, c.held = append(c.leases, l), l.ends
	return rotation.NewCredential(c.name+"-"+strconv.Itoa(c.issued), password),
		rotation.Lease{ID: l.id, TTL: defaultTTL, Renewable: true, Revocable: true}, nil
}

// Renew has a lease end increment from now, but no later than maxTTL after its issue, to
// the second. As with vaultsource, Capped says that it was cut.
func (c *client) Renew(_ context.Context, l rotation.Lease, increment time.Duration) (rotation.Lease, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.vault.now()
	if !c.vault.answers(renew, now) {
		return rotation.Lease{}, fmt.Errorf("renew the lease %w", errDown)
	}
	i := c.find(l.ID)
	if i < 0 || now >= c.leases[i].ends {
		return rotation.Lease{}, fmt.Errorf("renew the lease %s: lease not found: %w", l.ID, rotation.ErrLeaseGone)
	}
	granted := min(increment, c.leases[i].issued+maxTTL-now).Truncate(time.Second)
	if granted <= 0 {
		return rotation.Lease{}, fmt.Errorf("renew the lease %s: past the max TTL, cannot renew: %w", l.ID, rotation.ErrLeaseGone)
	}
	c.leases[i].ends = now + granted
	if i == len(c.leases)-1 {
		c.held = c.leases[i].ends
	}
	return rotation.Lease{ID: l.ID, TTL: granted, Renewable: true, Revocable: true, Capped: granted < increment}, nil
}

// Revoke ends a lease. One that does not exist is revoked.
func (c *client) Revoke(_ context.Context, l rotation.Lease) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.vault.now()
	if !c.vault.answers(revoke, now) {
		return fmt.Errorf("revoke the lease %w", errDown)
	}
	if i := c.find(l.ID); i >= 0 {
		if i == len(c.leases)-1 {
			c.held = min(c.held, now)
		}
		c.leases = slices.Delete(c.leases, i, i+1)
	}
	return nil
}

// answers counts a request and reports whether it is served.
func (v *vault) answers(kind kind, now time.Duration) bool {
	ok := !v.outage.contains(now)
	v.count(kind, ok, now)
	return ok
}

// find is where the lease is; c.mu is held.
func (c *client) find(id string) int {
	return slices.IndexFunc(c.leases, func(l lease) bool { return l.id == id })
}

// holds reports whether the newest lease is good.
func (c *client) holds() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.vault.now() < c.held
}

// left is how many leases are neither revoked nor ended.
func (c *client) left() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.leases {
		if c.vault.now() < l.ends {
			n++
		}
	}
	return n
}

// lost returns the losses until now, one that goes on included.
func (c *client) lost() []loss {
	c.mu.Lock()
	defer c.mu.Unlock()
	losses := slices.Clone(c.losses)
	if c.issued > 0 && c.vault.now() >= c.held {
		losses = append(losses, loss{at: c.held})
	}
	return losses
}
