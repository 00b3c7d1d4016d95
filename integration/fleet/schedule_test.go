package fleet

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/vaultpool/vaultpool/rotation"
)

// engine is a Rotator for each instance, as it comes. They have no pools attached, so that what
// was replaced drains at once.
func engine(clients []*client) (without func() int, end func() error) {
	rotators := make([]*rotation.Rotator, len(clients))
	for i, c := range clients {
		var err error
		if rotators[i], err = rotation.Start(c, rotation.Config{}); err != nil {
			panic(err) // the zero Config is always right
		}
	}
	without = func() (n int) {
		for _, r := range rotators {
			if !r.Status().Usable {
				n++
			}
		}
		return n
	}
	end = func() error {
		var errs []error
		for _, r := range rotators {
			errs = append(errs, r.Close(context.Background()))
		}
		return errors.Join(errs...)
	}
	return without, end
}

// naive is the schedule to compare with. It renews after exactly two thirds of the TTL, tries
// again every ten seconds, and takes a new credential when the lease has ended or its ceiling
// is reached. There is no jitter.
func naive(clients []*client) (without func() int, end func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	for _, c := range clients {
		all.Go(func() { c.keepNaively(ctx) })
	}
	without = func() int { return 0 } // it has no opinion
	end = func() error {
		cancel()
		all.Wait()
		return nil
	}
	return without, end
}

const naiveRetry = 10 * time.Second

func (c *client) keepNaively(ctx context.Context) {
	var old rotation.Lease
	for ctx.Err() == nil {
		_, l, err := c.Issue(ctx)
		if err != nil {
			sleep(ctx, naiveRetry)
			continue
		}
		if old.ID != "" {
			_ = c.Revoke(ctx, old) // it ends by itself
		}
		c.renewNaively(ctx, &l)
		old = l
	}
	_ = c.Revoke(context.WithoutCancel(ctx), old)
}

// renewNaively returns when the lease needs a successor.
func (c *client) renewNaively(ctx context.Context, l *rotation.Lease) {
	ends := time.Now().Add(l.TTL)
	sleep(ctx, l.TTL*2/3)
	for ctx.Err() == nil {
		renewed, err := c.Renew(ctx, *l, defaultTTL)
		switch {
		case err == nil && renewed.Capped:
			*l = renewed
			return
		case err == nil:
			*l, ends = renewed, time.Now().Add(renewed.TTL)
			sleep(ctx, l.TTL*2/3)
		case errors.Is(err, rotation.ErrLeaseGone), !time.Now().Before(ends):
			return
		default:
			sleep(ctx, naiveRetry)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
