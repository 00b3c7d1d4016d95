package rotation

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// Rotator keeps one credential current: it issues, renews and rotates it, and
// revokes each when its last connection is gone. Its methods may be called from
// any goroutine.
type Rotator struct {
	source  Source
	renewer Renewer // nil if the source has none
	revoker Revoker // nil if the source has none
	checker Checker // nil if the source has none
	config  Config
	events  bus

	view  atomic.Pointer[view]   // what everybody may see
	quiet atomic.Bool            // no connection is of a generation that is being replaced
	wake  chan struct{}          // a generation became empty
	inbox chan func()            // what the owner goroutine is asked to do
	done  chan struct{}          // closed when the owner goroutine has ended
	paid  atomic.Uint64          // see Attachment.PaidLogin
	last  atomic.Pointer[Status] // after done

	ctx    context.Context // ends with the owner goroutine
	cancel context.CancelFunc

	now    func() instant // replaced in tests, to move one clock against the other
	random func() float64 // [0,1)

	running sync.WaitGroup // goroutines that call sources and targets, but for Issue

	loop *loop // the owner goroutine's
}

// view is what the owner goroutine last published.
type view struct {
	gen     *Generation
	err     error         // no login is possible: *NoCredentialError or ErrClosed
	settled bool          // waiting for err to go away is a matter of luck
	changed chan struct{} // closed when this view is out of date
}

// New starts a Rotator and waits for its first credential, within ctx and
// config.StartTimeout. Passing faults are retried until then; ErrDenied and
// ErrInvalid are returned at once. On an error nothing is left behind: an answer
// that comes too late is revoked. ctx governs the start only. Close the Rotator
// when the last pool that uses it is closed.
func New(ctx context.Context, source Source, config Config) (*Rotator, error) {
	r, err := newRotator(source, config)
	if err != nil {
		return nil, err
	}
	if err := r.start(ctx); err != nil {
		return nil, err
	}
	return r, nil
}

// Start is New without the wait, for pools that are opened before anybody needs
// them: the first credential is issued in the background, and asked for again until
// there is one, whatever the failure. [Rotator.Await] waits for it. The only errors
// are those of config.
func Start(source Source, config Config) (*Rotator, error) {
	r, err := newRotator(source, config)
	if err != nil {
		return nil, err
	}
	r.run()
	return r, nil
}

func newRotator(source Source, config Config) (*Rotator, error) {
	if source == nil {
		return nil, errors.New("rotation.New: source is nil")
	}
	config, err := config.withDefaults()
	if err != nil {
		return nil, err
	}
	r := &Rotator{
		source: source, config: config,
		wake: make(chan struct{}, 1), inbox: make(chan func()), done: make(chan struct{}),
		now: readClocks, random: rand.Float64,
	}
	r.renewer, _ = source.(Renewer)
	r.revoker, _ = source.(Revoker)
	r.checker, _ = source.(Checker)
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.events.init(config.Logger)
	r.loop = &loop{r: r, want: "start", lost: &NoCredentialError{Since: time.Now(), Reason: noneYet}}
	r.quiet.Store(true)
	r.loop.show()
	return r, nil
}

// run starts the owner goroutine.
func (r *Rotator) run() {
	go r.loop.run()
	if w, ok := r.source.(Watcher); ok {
		r.running.Go(func() { r.watch(w) })
	}
}

// start is run, and waits for the first credential.
func (r *Rotator) start(ctx context.Context) error {
	r.run()
	ctx, cancel := context.WithTimeout(ctx, r.config.StartTimeout)
	defer cancel()
	for {
		v := r.view.Load()
		if v.err == nil {
			r.do(func() {}) // so that the events of the start are over
			return nil
		}
		if hopeless(v.err) {
			return r.abort(v.err)
		}
		select {
		case <-v.changed:
		case <-ctx.Done():
			return r.abort(fmt.Errorf("no credential was issued in time: %w: %w", context.Cause(ctx), v.err))
		}
	}
}

func (r *Rotator) watch(w Watcher) {
	err := safely("Watch", func() error {
		w.Watch(r.ctx, func() { r.do(r.loop.sourceChanged) })
		return nil
	})
	if err != nil {
		r.do(func() { r.loop.emit(Event{Kind: WatchFailed, Err: err}) })
	}
}

func hopeless(err error) bool { return errors.Is(err, ErrDenied) || errors.Is(err, ErrInvalid) }

// abort gives up a start. An issue in flight goes on without us and what it
// brings is revoked; nobody waits for that.
func (r *Rotator) abort(err error) error {
	r.do(func() { r.loop.orphan = true })
	if closing := r.Close(context.Background()); closing != nil {
		err = errors.Join(err, closing)
	}
	var none *NoCredentialError
	if errors.As(err, &none) && none.Err != nil && hopeless(none.Err) {
		err = none.Err
	}
	return fmt.Errorf("starting: %w", err)
}

// settle waits for the goroutines that call others' code, whose context is over,
// and for the subscribers' last events. Who is deaf to that is left behind.
func (r *Rotator) settle(ctx context.Context) {
	settled := make(chan struct{})
	go func() {
		r.running.Wait()
		r.events.serving.Wait()
		close(settled)
	}()
	select {
	case <-settled:
	case <-ctx.Done():
	}
}

// do runs f in the owner goroutine and waits for it; false if that has ended.
func (r *Rotator) do(f func()) bool {
	ran := make(chan struct{})
	select {
	case r.inbox <- func() { f(); close(ran) }:
		<-ran
		return true
	case <-r.done:
		return false
	}
}

// nudge makes the owner goroutine look again. It never blocks.
func (r *Rotator) nudge() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *Rotator) usable() (*Generation, error) {
	v := r.view.Load()
	return v.gen, v.err
}

// Await waits until a login is possible. It returns a *[NoCredentialError] when
// waiting is a matter of luck: an attempt was denied, two have failed, or there
// has been none for 10 s that the database accepts; ctx's error when that is done first; or ErrClosed.
func (r *Rotator) Await(ctx context.Context) error {
	for {
		v := r.view.Load()
		if v.err == nil || v.settled {
			return v.err
		}
		select {
		case <-v.changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Rotate replaces the credential now and returns when the new one serves. It
// joins a rotation that is under way, and waits for the least interval between
// two issues. It returns the attempt's failure, after which the old credential
// stays; ErrPaused; ErrClosed; or ctx's error, in which case the rotation goes on
// by itself. Where the source has only one credential and it has not changed,
// that is a success.
func (r *Rotator) Rotate(ctx context.Context) error {
	answer := make(chan error, 1)
	if !r.do(func() { r.loop.requested(answer) }) {
		return ErrClosed
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return fmt.Errorf("rotating: %w", context.Cause(ctx))
	}
}

// Pause holds off every issue, for maintenance of the source or the database,
// until resume is called. Renewals and revocations go on. A rotation that comes
// due waits, and a credential that ends meanwhile is not replaced: a paused
// Rotator can lose its credential. Pauses add up; resume is idempotent.
func (r *Rotator) Pause() (resume func()) {
	r.do(func() { r.loop.pause(+1) })
	var resumed atomic.Bool
	return func() {
		if resumed.CompareAndSwap(false, true) {
			r.do(func() { r.loop.pause(-1) })
		}
	}
}

// Status returns a snapshot; after Close, the last one.
func (r *Rotator) Status() Status {
	var s Status
	if !r.do(func() { s = r.loop.status() }) {
		s = *r.last.Load()
	}
	return s
}

// Subscribe calls f with every event from now on, one at a time, in a goroutine
// of its own, until cancel is called or the Rotator is closed and the last event
// delivered. f may take its time: 256 events wait for it, and when more are lost
// the next one says how many in Event.Missed. If f panics it gets no more events
// and the others are told. cancel does not wait for an f that is running.
func (r *Rotator) Subscribe(f func(Event)) (cancel func()) { return r.events.subscribe(f) }

// Close stops rotating, waits for the connections that are left, ends them when
// half the time is gone, and revokes every lease. It is bounded by ctx and, if
// that has no deadline, by Config.CloseTimeout. It returns what could not be done;
// a lease that is left ends by itself. An issue in flight is waited for as well,
// and if it answers later still, its answer is revoked then. Close the pools
// first. Idempotent: every call returns when the first is done, with its result.
func (r *Rotator) Close(ctx context.Context) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.config.CloseTimeout)
		defer cancel()
	}
	first := false
	r.do(func() { first = r.loop.close(ctx) })
	if first { // the others wait for what it achieves
		select {
		case <-r.done:
		case <-ctx.Done():
			r.do(r.loop.abandon)
		}
	}
	<-r.done
	r.settle(ctx)
	return errors.Join(r.loop.closeErrs...) // written before done was closed
}
