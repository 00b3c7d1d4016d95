package main

import (
	"context"
	"errors"
	"time"

	"github.com/vaultpool/vaultpool/integration/testbed"
)

const (
	// outageAfter is how long the load has been running when Vault is sealed.
	outageAfter = 20 * time.Second
	// outageLead is how long before a renewal that is: it is going to be refused.
	outageLead = 100 * time.Millisecond
	// outageTimeout bounds unsealing, also once the demo is over.
	outageTimeout = 10 * time.Second
)

// outage seals Vault once, for a while, just before the service's next renewal is due. The lease has still a third of
// its time then, so that a second of it costs nobody anything.
type outage struct {
	vault  *testbed.Vault
	length time.Duration // 0: there is none
	screen *screen

	done chan error // the one there is; nil before it has begun
}

// consider begins it, if it is time.
func (o *outage) consider(ctx context.Context, running time.Duration, s *status) {
	due := time.Duration(s.Next.InSeconds * float64(time.Second))
	if o.length == 0 || o.done != nil || running < outageAfter || s.Next.Action != "renew" || due < outageLead || due > outageLead+2*time.Second {
		return
	}
	o.done = make(chan error, 1)
	go func() { o.done <- o.happen(ctx, due-outageLead) }()
}

func (o *outage) happen(ctx context.Context, in time.Duration) error {
	select {
	case <-time.After(in):
	case <-ctx.Done():
		return nil
	}
	switch err := o.vault.Seal(ctx); {
	case errors.Is(err, testbed.ErrNotOurServer):
		o.screen.printf("no outage is shown: this Vault is not ours")
		return nil
	case err != nil && ctx.Err() == nil:
		return err
	case err != nil: // being stopped: it may be sealed all the same
		return o.unseal(ctx)
	}
	o.screen.printf("Vault is sealed for %v, and answers nothing: see the status page. The renewal that is due now fails, and is repeated", o.length)
	select {
	case <-time.After(o.length):
	case <-ctx.Done():
	}
	err := o.unseal(ctx)
	if err == nil {
		o.screen.printf("Vault is unsealed")
	}
	return err
}

func (o *outage) unseal(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), outageTimeout)
	defer cancel()
	return o.vault.Unseal(ctx)
}

// end waits until it is over, if it has begun.
func (o *outage) end() error {
	if o.done == nil {
		return nil
	}
	return <-o.done
}
