package filesource

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vaultpool/vaultpool/rotation"
)

// watched is a Watch that runs in a bubble.
type watched struct {
	t     *testing.T
	s     *Source
	calls *atomic.Int32
}

// start runs Watch until the end of the bubble, and from then on stands between two of its looks.
func start(t *testing.T, s *Source) *watched {
	t.Helper()
	w := &watched{t, s, new(atomic.Int32)}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { s.Watch(ctx, func() { w.calls.Add(1) }) })
	t.Cleanup(func() { cancel(); running.Wait() })
	time.Sleep(s.config.Interval / 2)
	return w
}

// look waits for the next look and says how often changed must have been called by it.
func (w *watched) look(want int32, after string) {
	w.t.Helper()
	time.Sleep(w.s.config.Interval)
	synctest.Wait()
	if got := w.calls.Swap(0); got != want {
		w.t.Errorf("%s: changed was called %d times, not %d", after, got, want)
	}
}

func (w *watched) issue(user string) {
	w.t.Helper()
	c, _, err := w.s.Issue(w.t.Context())
	check(w.t, err)
	if c.Username() != user {
		w.t.Errorf("issued %s, not %s", c.Username(), user)
	}
}

// lockedLog is written by Watch and read by the test.
type lockedLog struct {
	mu   sync.Mutex // guards text
	text strings.Builder
}

func (l *lockedLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func TestWatch(t *testing.T) {
	s, dir := newSource(t, func(dir string) Config { c := inFile(dir); c.Interval = 10 * time.Second; return c })
	var log lockedLog
	s.log = slog.New(slog.NewTextHandler(&log, nil))
	path := filepath.Join(dir, "db.json")
	synctest.Test(t, func(t *testing.T) {
		w := start(t, s)
		putJSON(t, dir, "app-1", "p")
		w.look(0, "before the first Issue")
		w.issue("app-1")
		w.look(0, "unchanged")
		later := time.Now().Add(time.Hour)
		check(t, os.Chtimes(path, later, later))
		w.look(0, "touched")
		putJSON(t, dir, "app-1", "p")
		w.look(0, "replaced by the same")

		putJSON(t, dir, "app-2", "p")
		w.look(1, "changed")
		w.look(0, "still the same change")
		w.issue("app-2")
		w.look(0, "issued")
		put(t, dir, "db.json", `{"username":"app-2","password":"q"}`)
		w.look(1, "another password")
		putJSON(t, dir, "app-3", "p")
		w.look(1, "changed again before an Issue")
		w.issue("app-3")
		w.look(0, "issued")

		putJSON(t, dir, "app-4", "p")
		w.issue("app-4")
		w.look(0, "an Issue that was first")
		putJSON(t, dir, "app-3", "p")
		w.look(1, "back to what was seen before")
		w.issue("app-3")

		put(t, dir, "db.json", `{"username":"app-5"`)
		w.look(0, "broken")
		if log.String() != "" {
			t.Errorf("one look has met somebody writing: %s", &log)
		}
		w.look(0, "broken")
		w.look(0, "broken")
		check(t, os.Remove(path))
		w.look(0, "gone")
		if n := strings.Count(log.String(), "level=WARN"); n != 1 || !strings.Contains(log.String(), "at byte 19") {
			t.Errorf("%d warnings: %s", n, &log)
		}
		putJSON(t, dir, "app-3", "p")
		w.look(0, "mended")
		put(t, dir, "db.json", "")
		w.look(0, "empty")
		w.look(0, "empty")
		if n := strings.Count(log.String(), "level=WARN"); n != 2 {
			t.Errorf("%d warnings: %s", n, &log)
		}
		putJSON(t, dir, "app-5", "p")
		w.look(1, "mended and changed")
	})
}

// There and back between two looks, with an Issue in the middle.
func TestWatchSeesThereAndBack(t *testing.T) {
	s, dir := newSource(t, inFile)
	synctest.Test(t, func(t *testing.T) {
		w := start(t, s)
		putJSON(t, dir, "app-1", "p")
		w.issue("app-1")
		putJSON(t, dir, "app-2", "p")
		w.look(1, "changed")
		putJSON(t, dir, "app-3", "p")
		w.issue("app-3")
		putJSON(t, dir, "app-2", "p")
		w.look(1, "changed back")
	})
}

// Two Rotators with one Source are both told, also by a change that the other one
// was the first to issue.
func TestSharedSource(t *testing.T) {
	s, dir := newSource(t, inFile)
	synctest.Test(t, func(t *testing.T) {
		putJSON(t, dir, "app-1", "p")
		one, err := rotation.New(t.Context(), s, rotation.Config{})
		check(t, err)
		other, err := rotation.New(t.Context(), s, rotation.Config{})
		check(t, err)
		time.Sleep(time.Minute)
		putJSON(t, dir, "app-2", "p")
		check(t, one.Rotate(t.Context()))
		time.Sleep(10 * time.Second)
		for _, r := range []*rotation.Rotator{one, other} {
			if s := r.Status(); s.User != "app-2" || s.Generation != 2 {
				t.Errorf("generation %d is %s", s.Generation, s.User)
			}
			check(t, r.Close(t.Context()))
		}
	})
}

// The engine follows the files: within the interval, and not for every look.
func TestRotator(t *testing.T) {
	s, dir := newSource(t, inDir)
	synctest.Test(t, func(t *testing.T) {
		swap(t, dir, 1, "app-1", "p")
		r, err := rotation.New(t.Context(), s, rotation.Config{})
		check(t, err)
		var events []rotation.Event
		cancel := r.Subscribe(func(e rotation.Event) { events = append(events, e) })
		time.Sleep(50 * time.Minute)
		synctest.Wait()
		if len(events) != 0 {
			t.Errorf("events without a change: %v", events)
		}
		swap(t, dir, 2, "app-2", "p")
		changed := time.Now()
		for r.Status().User != "app-2" {
			time.Sleep(time.Millisecond)
		}
		if after := time.Since(changed); after > 6*time.Second {
			t.Errorf("followed after %v", after)
		}
		cancel()
		if s := r.Status(); s.Generation != 2 || s.Next != "refresh" || s.LastError != nil {
			t.Errorf("%+v", s)
		}
		check(t, r.Close(t.Context()))
	})
}
