// Package origin is where both adapters get their Rotator from.
package origin

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vaultpool/vaultpool/rotation"
	"github.com/vaultpool/vaultpool/rotation/vaultsource"
)

// Origin is where a pool's credentials come from: exactly one of Vault, Source and
// Rotator.
type Origin struct {
	Vault    vaultsource.Config
	Source   rotation.Source
	Rotator  *rotation.Rotator
	Rotation rotation.Config

	made *vaultsource.Source // the source, if it is ours to close
}

// Check returns what is wrong before anything is started. example is what a
// connection string of this kind says.
func (o Origin) Check(example string) error {
	fromVault := o.Vault.Path != "" || o.Vault.Client != nil || o.Vault.Auth != nil
	given := 0
	for _, is := range []bool{fromVault, o.Source != nil, o.Rotator != nil} {
		if is {
			given++
		}
	}
	switch {
	case given == 0:
		return fmt.Errorf("nothing says where credentials come from: set the connection string's vault_path (for example %s), or Config.Vault, Config.Source or Config.Rotator", example)
	case given > 1:
		return errors.New("more than one of Config.Vault (vault_path), Config.Source and Config.Rotator is set: set one")
	case o.Vault.LeaseTTL > 0 && o.Rotation.RenewIncrement > o.Vault.LeaseTTL:
		return fmt.Errorf("renewals are to ask for %v (vault_renew_increment), but leases to last %v at most (vault_lease_ttl): leave the former out", o.Rotation.RenewIncrement, o.Vault.LeaseTTL)
	case o.Rotator != nil && o.Rotation != (rotation.Config{}):
		return errors.New("Config.Rotation is set beside Config.Rotator, which has its own: give it to rotation.New")
	}
	return nil
}

// StartTimeout is rotation.Config's, or its default.
func (o Origin) StartTimeout() time.Duration {
	if d := o.Rotation.StartTimeout; d > 0 {
		return d
	}
	return 30 * time.Second
}

// CloseTimeout is rotation.Config's, or its default.
func (o Origin) CloseTimeout() time.Duration {
	if d := o.Rotation.CloseTimeout; d > 0 {
		return d
	}
	return 10 * time.Second
}

// Resolve makes the source that Vault stands for. It sends nothing.
func (o *Origin) Resolve(ctx context.Context) error {
	if o.Rotator != nil || o.Source != nil {
		return nil
	}
	config := o.Vault
	if config.Logger == nil {
		config.Logger = o.Rotation.Logger
	}
	source, err := vaultsource.New(ctx, config)
	if err != nil {
		return err
	}
	o.Source, o.made = source, source
	return nil
}

// New returns the Rotator that is shared, or a new one with its first credential.
// owned closes it if it is ours, and is nil otherwise.
func (o Origin) New(ctx context.Context) (r *rotation.Rotator, owned func(context.Context) error, err error) {
	return o.rotator(func() (*rotation.Rotator, error) { return rotation.New(ctx, o.Source, o.Rotation) })
}

// Start is New without the wait for a credential.
func (o Origin) Start() (r *rotation.Rotator, owned func(context.Context) error, err error) {
	return o.rotator(func() (*rotation.Rotator, error) { return rotation.Start(o.Source, o.Rotation) })
}

func (o Origin) rotator(open func() (*rotation.Rotator, error)) (*rotation.Rotator, func(context.Context) error, error) {
	if o.Rotator != nil {
		return o.Rotator, nil, nil
	}
	r, err := open()
	if err != nil {
		return nil, nil, errors.Join(err, o.closeSource(context.Background()))
	}
	if o.Vault.Auth == nil {
		return r, r.Close, nil
	}
	return r, o.closeBoth(r), nil
}

// closeBoth closes the Rotator and then the source, both within the time there is: a tenth
// of it, a second at most, is the source's.
func (o Origin) closeBoth(r *rotation.Rotator) func(context.Context) error {
	return func(ctx context.Context) error {
		if _, ok := ctx.Deadline(); !ok {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, o.CloseTimeout())
			defer cancel()
		}
		deadline, _ := ctx.Deadline()
		most := time.Until(deadline)
		first, cancel := context.WithTimeout(ctx, most-min(time.Second, most/10))
		defer cancel()
		err := r.Close(first)
		return errors.Join(err, o.closeSource(ctx))
	}
}

// closeSource gives back the Vault tokens that the source has logged in for.
func (o Origin) closeSource(ctx context.Context) error {
	if o.made == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, o.CloseTimeout())
	defer cancel()
	return o.made.Close(ctx)
}
