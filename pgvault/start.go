package pgvault

import (
	"context"
	"errors"
	"fmt"
)

// Start is NewWithConfig without the wait, for pools that are opened before anybody
// needs them, or while Vault may be away: it sends nothing before it returns. The
// first credential is issued and proven in the background, and asked for again until
// there is one, whatever the failure. Calls that need a connection wait for it within
// their context; they fail with a *[rotation.NoCredentialError] once waiting is a
// matter of luck (see [rotation.Rotator.Await]), and vault_start_timeout has no say.
// MinConns are opened at the first health check after that (HealthCheckPeriod, one
// minute). The only errors are those of config.
func Start(config *Config) (*Pool, error) {
	if err := config.check(); err != nil {
		return nil, err
	}
	p := &Pool{config: config.Copy()}
	p.target = newTarget(p.config.Config)
	if err := p.begin(context.Background()); err != nil {
		return nil, errors.Join(fmt.Errorf("pgvault: %w", err), p.undo())
	}
	return p, nil
}

// begin is open without what waits.
func (p *Pool) begin(ctx context.Context) (err error) {
	from := p.config.origin()
	if err := from.Resolve(ctx); err != nil {
		return err
	}
	if p.rotator, p.owned, err = from.Start(); err != nil {
		return err
	}
	if p.att, err = p.rotator.Attach(p.target); err != nil {
		return err
	}
	return p.fill(ctx)
}

// Validate returns what is wrong with a config, as far as that shows before anything
// is sent. [NewWithConfig] and [Start] do the same first.
func (c *Config) Validate() error {
	if err := c.check(); err != nil {
		return err
	}
	if err := c.origin().Resolve(context.Background()); err != nil {
		return fmt.Errorf("pgvault: %w", err)
	}
	return nil
}
