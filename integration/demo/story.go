package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vaultpool/vaultpool/integration/testbed"
)

// story is what happens besides the steady load, one episode after the other, each once. Nothing of it may fail a request.
type story struct {
	setting *setting
	service *service
	load    *load
	screen  *screen
	outage  time.Duration // of the short episode

	episodes []episode // still to come
	ctx      context.Context
	cancel   context.CancelFunc
	running  chan error // of the episode that runs; nil if none does

	told storyResult // what the episodes have seen; theirs while one runs
}

// storyResult is for the summary.
type storyResult struct {
	outage time.Duration // how long Vault was sealed in the short episode; 0 if it was not
	rush   *loadResult   // of the rush; nil if there was none
	lost   *lossResult
	err    error
}

// episode begins when the load has run for some time and begin says so.
type episode struct {
	after time.Duration
	begin func(*status) bool
	play  func(context.Context, *status) error
}

const (
	outageAfter = 20 * time.Second
	rushAfter   = 28 * time.Second
	lossAfter   = 45 * time.Second

	// lead is how long before what is due an episode begins.
	lead = 100 * time.Millisecond
)

// newStory is told by consider what time it is. Where there are jobs their credential must not be lost: a statement that
// they have given up goes on then, since nobody can log in to end it.
func newStory(ctx context.Context, setting *setting, service *service, load *load, jobs *jobs, outage time.Duration, screen *screen) *story {
	s := &story{setting: setting, service: service, load: load, screen: screen, outage: outage}
	s.ctx, s.cancel = context.WithCancel(ctx)
	if outage > 0 {
		s.episodes = append(s.episodes, episode{outageAfter, dueSoon("renew"), s.shortOutage})
	}
	s.episodes = append(s.episodes, episode{rushAfter, dueSoon("rotate"), s.rush})
	if outage > 0 && jobs == nil {
		s.episodes = append(s.episodes, episode{lossAfter, dueSoon("renew"), s.loss})
	}
	return s
}

// dueSoon is when the service does something within two seconds.
func dueSoon(what string) func(*status) bool {
	return func(s *status) bool {
		due := s.dueIn()
		return s.Next.Action == what && due > lead && due < lead+2*time.Second
	}
}

// consider begins the next episode, if it is time.
func (s *story) consider(elapsed time.Duration, now *status) {
	if s.running != nil {
		select {
		case err := <-s.running:
			if err != nil {
				s.screen.printf("FAILED: %v", err)
			}
			s.told.err = errors.Join(s.told.err, err)
			s.running = nil
			if len(s.episodes) == 0 {
				s.screen.printf("%s", storyTold)
			}
		default:
		}
	}
	if s.running != nil || len(s.episodes) == 0 || elapsed < s.episodes[0].after || !s.episodes[0].begin(now) {
		return
	}
	play := s.episodes[0].play
	s.episodes = s.episodes[1:]
	s.running = make(chan error, 1)
	go func() { s.running <- play(s.ctx, now) }()
}

const storyTold = "that was all there is to show; it goes on like this"

// end ends the episode that runs, in good order, and returns what was seen.
func (s *story) end() storyResult {
	s.cancel()
	if s.running != nil {
		s.told.err = errors.Join(s.told.err, <-s.running)
	}
	return s.told
}

// pauseLoad is the load's. If the demo ends meanwhile the load does not go on.
func (s *story) pauseLoad() (resume func()) {
	goOn := s.load.pause()
	return func() {
		if s.ctx.Err() != nil {
			s.load.cancel()
		}
		goOn()
	}
}

// until sleeps until then, or returns false because the demo ends.
func until(ctx context.Context, then time.Time) bool {
	select {
	case <-time.After(time.Until(then)):
		return true
	case <-ctx.Done():
		return false
	}
}

// shortOutage seals Vault just before the service's next renewal is due. The lease has still a third of its time then,
// so that a second of it costs nobody anything.
func (s *story) shortOutage(ctx context.Context, now *status) error {
	if !until(ctx, time.Now().Add(now.dueIn()-lead)) {
		return nil
	}
	began := time.Now()
	unseal, err := s.seal(ctx)
	if err != nil || unseal == nil {
		return err
	}
	s.screen.printf("Vault is sealed for %v, and answers nothing: see the status page. The renewal that is due now fails, and is repeated", s.outage)
	until(ctx, began.Add(s.outage))
	err = unseal()
	s.told.outage = time.Since(began)
	return err
}

// unsealTimeout bounds unsealing, also once the demo is over.
const unsealTimeout = 10 * time.Second

// seal returns what undoes it, or neither that nor an error if this Vault cannot be sealed.
func (s *story) seal(ctx context.Context) (unseal func() error, _ error) {
	vault := s.setting.bed.Vault
	unseal = func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), unsealTimeout)
		defer cancel()
		err := vault.Unseal(ctx)
		if err == nil {
			s.screen.printf("Vault is unsealed")
		}
		return err
	}
	switch err := vault.Seal(ctx); {
	case errors.Is(err, testbed.ErrNotOurServer):
		s.screen.printf("no outage is shown: this Vault is not ours")
		return nil, nil
	case err != nil && ctx.Err() != nil: // being stopped: it may be sealed all the same
		return nil, unseal()
	case err != nil: // likewise
		return nil, errors.Join(err, unseal())
	}
	return unseal, nil
}

const (
	rushLength  = 4 * time.Second
	rushWorkers = 2 * poolSize
)

// rush lets twice as many requests as there are connections wait for the same two rows, over a rotation: no connection is
// ever idle then, and some callers must log in themselves.
func (s *story) rush(ctx context.Context, now *status) error {
	if !until(ctx, time.Now().Add(now.dueIn()-rushLength/4)) {
		return nil
	}
	defer s.pauseLoad()()
	s.screen.printf("a rush: for %v, in place of the steady load, %d requests at once that wait for the same two rows, so that no connection is idle",
		rushLength, rushWorkers)
	ctx, cancel := context.WithTimeout(ctx, rushLength)
	defer cancel()
	if result := s.load.rush(ctx, rushWorkers); result.requests > 0 {
		s.told.rush = result
	}
	s.screen.printf("the rush is over")
	return nil
}

// lossResult is what was seen while Vault was sealed for longer than the lease lasted.
type lossResult struct {
	sealed   time.Duration
	lost     time.Duration // how long no login was possible
	recovery time.Duration // from unsealing until one was
	requests int           // while Vault was sealed and the lease lasted
	failed   int           // of those
}

const (
	lossTimeout     = 40 * time.Second // for the credential to end: more than any lease lasts
	recoveryTimeout = 30 * time.Second
	lossShown       = 3 * time.Second // how long the loss lasts at least, for people to see
	lossPause       = 0.5             // seconds before the lease's end
)

// loss seals Vault until the service's credential has ended. The load goes on as long as the lease lasts, and pauses
// then: as soon as Vault is back it drops the user, whom what is open belongs to, and only after that issues another.
func (s *story) loss(ctx context.Context, _ *status) (err error) {
	resume := func() {}
	defer func() { resume() }() // after Vault was unsealed
	began, before := time.Now(), s.load.result()
	unseal, err := s.seal(ctx)
	if err != nil || unseal == nil {
		return err
	}
	sealed := true
	defer func() {
		if sealed {
			err = errors.Join(err, unseal())
		}
	}()
	s.screen.printf("Vault is sealed for longer than the lease lasts: until then all goes on, then the credential is lost")
	if err := s.await(ctx, lossTimeout, "the lease to end", func(st *status) bool { return st.Lease.Left < lossPause }); err != nil || ctx.Err() != nil {
		return err
	}
	resume = s.pauseLoad()
	paused := s.load.result()
	s.screen.printf("the load pauses, since no service can do without a credential")
	if err := s.await(ctx, lossTimeout, "the credential to be lost", func(st *status) bool { return !st.Usable }); err != nil {
		return err
	}
	lost := time.Now()
	until(ctx, lost.Add(lossShown))
	sealed = false
	if err := unseal(); err != nil {
		return err
	}
	unsealed := time.Now()
	if err := s.await(ctx, recoveryTimeout, "a new credential, now that Vault is back", func(st *status) bool { return st.Usable }); err != nil || ctx.Err() != nil {
		return err
	}
	s.told.lost = &lossResult{
		sealed: unsealed.Sub(began), lost: time.Since(lost), recovery: time.Since(unsealed),
		requests: paused.requests - before.requests, failed: paused.failed - before.failed,
	}
	s.screen.printf("a new credential is in use, without anybody's help, and the load goes on")
	return nil
}

// await looks at the service's status until it is as wanted, or the demo ends.
func (s *story) await(ctx context.Context, timeout time.Duration, what string, is func(*status) bool) error {
	for deadline := time.Now().Add(timeout); ctx.Err() == nil; {
		status, err := s.service.status(ctx)
		if err == nil && is(status) {
			return nil
		}
		if time.Now().After(deadline) {
			return errors.Join(fmt.Errorf("%v were not enough for %s", timeout, what), err)
		}
		until(ctx, time.Now().Add(lead))
	}
	return nil
}
