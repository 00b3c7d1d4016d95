package filesource

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/vaultpool/vaultpool/rotation"
)

var (
	_ rotation.Source  = (*Source)(nil)
	_ rotation.Watcher = (*Source)(nil)
)

const (
	// settle is how far two looks at the files are apart that have to agree. It is
	// longer than the ticks of any file system's clock in use, and than anybody
	// takes who replaces two small files.
	settle = 100 * time.Millisecond
	// maxLooks bounds an Issue, to two seconds and the time it takes to read.
	maxLooks = 20
	// refreshAfter is for a Source whose Watch is not used, because something is
	// wrapped round it that has none.
	refreshAfter = time.Hour
)

// Source reads a credential that something else keeps in files. It is safe for
// concurrent use, also by several Rotators, and has nothing to close.
type Source struct {
	config Config
	log    *slog.Logger

	mu       sync.Mutex // guards what follows, and is not held while files are read
	issued   rotation.Credential
	issues   int // how many there were; issued is the last one's
	watching int // how many Watch there are now
}

// New checks the configuration and returns the source. It reads nothing: whether
// the files are there shows when the first credential is issued, and is looked at
// again then. Errors are those of the configuration.
func New(config Config) (*Source, error) {
	config, err := config.check()
	if err != nil {
		return nil, fmt.Errorf("set up the file source: %w", err)
	}
	return &Source{config: config, log: config.Logger}, nil
}

// String returns the path.
func (s *Source) String() string { return s.config.path() }

// Format writes the path under every verb.
func (s *Source) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// Issue reads the credential. User and password are of one version: if they were
// read while somebody replaced them, they are read again, for two seconds at most.
// ctx ends the wait in between, and no read that hangs.
//
// The lease has no end, since the files do not tell of one, and cannot be renewed
// or revoked, since it belongs to whoever writes them.
//
// It returns an error with [rotation.ErrInvalid] if what is there is not a
// credential, and any other for what may pass.
func (s *Source) Issue(ctx context.Context) (rotation.Credential, rotation.Lease, error) {
	found, err := s.settled(ctx)
	if err != nil {
		return rotation.Credential{}, rotation.Lease{}, fmt.Errorf("read the credential in %s: %w", s, err)
	}
	s.mu.Lock()
	s.issued = found.credential
	s.issues++
	s.mu.Unlock()
	return found.credential, rotation.Lease{RefreshAfter: refreshAfter}, nil
}

// settled looks until what it sees is of one version.
func (s *Source) settled(ctx context.Context) (look, error) {
	if err := ctx.Err(); err != nil {
		return look{}, err
	}
	last := s.look()
	for range maxLooks {
		if last.whole && last.err == nil {
			return last, nil
		}
		if err := sleep(ctx, settle); err != nil {
			return look{}, err
		}
		next := s.look()
		if next.same(last) {
			return next, next.err
		}
		last = next
	}
	if last.err != nil {
		return look{}, last.err
	}
	return look{}, errors.New("it keeps changing: whoever writes it has to pause for longer, or to replace it as a whole")
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Watch looks every Config.Interval and calls changed when it finds another
// credential than Issue returned last, once for each. What cannot be read is not a
// change. Of several Rotators with one Source each is told of every change, also if
// its own Issue came first.
//
// It reads the files instead of being told by the kernel: notifications do not
// come from network file systems, and are about a file or directory, not about the
// name that a symbolic link or a rename gives to another one. Reading some bytes
// every few seconds costs nothing, and sees every way of replacing them.
func (s *Source) Watch(ctx context.Context, changed func()) {
	s.addWatch(+1)
	defer s.addWatch(-1)
	ticker := time.NewTicker(s.config.Interval)
	defer ticker.Stop()
	var w watch
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if s.news(&w) {
			changed()
		}
	}
}

func (s *Source) addWatch(n int) {
	s.mu.Lock()
	s.watching += n
	s.mu.Unlock()
}

// watch is what one Watch saw last.
type watch struct {
	credential rotation.Credential
	issues     int // how many there had been then
	failures   int // looks in a row
}

// news looks, and reports whether the Rotator ought to as well.
func (s *Source) news(w *watch) bool {
	found := s.look()
	if found.err != nil {
		s.complain(w, found.err)
		return false
	}
	w.failures = 0
	s.mu.Lock()
	issued, issues, watching := s.issued, s.issues, s.watching
	s.mu.Unlock()
	if issues == 0 {
		return false // the first Issue is still tried
	}
	last := *w
	w.credential, w.issues = found.credential, issues
	another := !found.credential.Equal(last.credential)
	if found.credential.Equal(issued) {
		return another && watching > 1 // who issued it may have been another Rotator
	}
	return another || issues != last.issues
}

// complain logs a failure at its second look, since the first one may have met
// somebody writing.
func (s *Source) complain(w *watch, err error) {
	w.failures++
	if w.failures == 2 {
		s.log.Warn("vaultpool: the credential files cannot be read; the credential in use stays",
			"path", s.String(), "error", err)
	}
}
