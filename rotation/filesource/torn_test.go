package filesource

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vaultpool/vaultpool/rotation"
)

// readers issue until stop is closed, see that user and password are of one
// version, and return how often they succeeded.
func readers(t *testing.T, s *Source, n int, stop <-chan struct{}) (wait func() int64) {
	t.Helper()
	var running sync.WaitGroup
	var read atomic.Int64
	for range n {
		running.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				c, _, err := s.Issue(t.Context())
				switch {
				case err == nil && strings.TrimPrefix(c.Username(), "u") != strings.TrimPrefix(c.Password(), "p"):
					t.Errorf("a mixed pair: %s and %s", c.Username(), c.Password())
					return
				case err == nil:
					read.Add(1)
				case errors.Is(err, rotation.ErrInvalid):
					t.Error(err)
					return
				}
			}
		})
	}
	return func() int64 { running.Wait(); return read.Load() }
}

func version(i int) (user, password string) { return fmt.Sprintf("u%07d", i), fmt.Sprintf("p%07d", i) }

// Both files of a volume are of one version, however fast they are swapped.
func TestSwappedDirectory(t *testing.T) {
	s, dir := newSource(t, inDir)
	u, p := version(0)
	swap(t, dir, 0, u, p)
	stop := make(chan struct{})
	wait := readers(t, s, 4, stop)
	for i := range 1000 {
		u, p := version(i + 1)
		swap(t, dir, i+1, u, p)
	}
	close(stop)
	if n := wait(); n == 0 {
		t.Error("nothing was read")
	} else {
		t.Logf("%d pairs read", n)
	}
	c, _, err := s.Issue(t.Context())
	check(t, err)
	u, p = version(1000)
	wantPair(t, c, u, p)
}

// Whatever is not swapped as a whole is waited for. In a bubble the writer never
// pauses for longer than it says, however busy the machine is.
func TestTornWrites(t *testing.T) {
	for name, c := range map[string]struct {
		config func(dir string) Config
		write  func(t *testing.T, dir, user, password string, pause func())
	}{
		"two files renamed": {inDir, func(t *testing.T, dir, user, password string, pause func()) {
			t.Helper()
			put(t, dir, "username", user)
			pause()
			put(t, dir, "password", password)
		}},
		"two files rewritten": {inDir, func(t *testing.T, dir, user, password string, pause func()) {
			t.Helper()
			rewrite(t, dir, "password", password[:3])
			pause()
			rewrite(t, dir, "username", user)
			rewrite(t, dir, "password", password)
		}},
		"JSON rewritten": {inFile, func(t *testing.T, dir, user, password string, pause func()) {
			t.Helper()
			content := fmt.Sprintf(`{"username": %q, "password": %q}`, user, password)
			_, number, _ := strings.Cut(user, "u")
			i, err := strconv.Atoi(number)
			check(t, err)
			rewrite(t, dir, "db.json", content[:20+i%20]) // of another size, since the clock of files may stand still in a bubble
			pause()
			rewrite(t, dir, "db.json", content)
		}},
		"JSON overwritten": {inFile, func(t *testing.T, dir, user, password string, pause func()) {
			t.Helper()
			f, err := os.OpenFile(filepath.Join(dir, "db.json"), os.O_WRONLY|os.O_CREATE, 0o600)
			check(t, err)
			defer func() { check(t, f.Close()) }()
			for _, half := range []string{fmt.Sprintf(`{"username": %q, `, user), fmt.Sprintf(`"password": %q}`, password)} {
				_, err = f.WriteString(half)
				check(t, err)
				pause()
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s, dir := newSource(t, c.config)
			synctest.Test(t, func(t *testing.T) {
				random := rand.New(rand.NewPCG(1, 2))
				write := func(i int) {
					u, p := version(i)
					c.write(t, dir, u, p, func() { time.Sleep(time.Duration(random.Int64N(int64(settle)))) })
				}
				write(0)
				stop := make(chan struct{})
				wait := readers(t, s, 3, stop)
				for i := range 300 {
					write(i + 1)
					time.Sleep(time.Duration(random.Int64N(int64(4 * settle))))
				}
				close(stop)
				if n := wait(); n < 100 {
					t.Errorf("only %d pairs read", n)
				} else {
					t.Logf("%d pairs read", n)
				}
			})
		})
	}
}

// A pair that becomes whole is waited for, and returned at once then.
func TestHalfReplacedPair(t *testing.T) {
	s, dir := newSource(t, inDir)
	synctest.Test(t, func(t *testing.T) {
		putPair(t, dir, "app-1", "p-1")
		start := time.Now()
		put(t, dir, "username", "app-2")
		time.AfterFunc(settle/2, func() { put(t, dir, "password", "p-2") })
		c, _, err := s.Issue(t.Context())
		check(t, err)
		wantPair(t, c, "app-2", "p-2")
		if took := time.Since(start); took != 2*settle {
			t.Errorf("it took %v", took)
		}
	})
}

// Neither the same content in another file nor another content in the same file is
// taken for a file that nobody wrote to.
func TestSame(t *testing.T) {
	s, dir := newSource(t, inFile)
	path := filepath.Join(dir, "db.json")
	looks := []look{}
	add := func() { looks = append(looks, s.look()); check(t, looks[len(looks)-1].err) }
	putJSON(t, dir, "app-1", "p")
	add()
	if !s.look().same(looks[0]) {
		t.Error("a file that nobody wrote to is not taken for the same")
	}
	putJSON(t, dir, "app-1", "p")
	add()
	info, err := os.Stat(path)
	check(t, err)
	rewrite(t, dir, "db.json", `{"username": "app-2", "password": "p"}`)
	check(t, os.Chtimes(path, info.ModTime(), info.ModTime())) // as if within a tick of its clock
	add()
	rewrite(t, dir, "db.json", `{"username": "app-2", "password": "p"} `)
	check(t, os.Chtimes(path, info.ModTime(), info.ModTime()))
	add()
	check(t, os.Chtimes(path, info.ModTime(), info.ModTime().Add(time.Nanosecond)))
	add()
	for i := range looks[1:] {
		if looks[i].same(looks[i+1]) {
			t.Errorf("looks %d and %d are taken for the same", i, i+1)
		}
	}
}

// Files that never rest are not used, and do not hold up the caller for ever.
func TestEverChangingFiles(t *testing.T) {
	s, dir := newSource(t, inFile)
	synctest.Test(t, func(t *testing.T) {
		stop := make(chan struct{})
		var writing sync.WaitGroup
		putJSON(t, dir, "u0", "p0")
		writing.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				case <-time.After(settle / 3):
					putJSON(t, dir, fmt.Sprint("u", i), fmt.Sprint("p", i))
				}
			}
		})
		start := time.Now()
		_, _, err := s.Issue(t.Context())
		wantText(t, err, "it keeps changing")
		if took := time.Since(start); took != maxLooks*settle || errors.Is(err, rotation.ErrInvalid) || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("after %v: %v", took, err)
		}
		close(stop)
		writing.Wait()
	})
}

// A directory that is a link itself is followed once as well.
func TestLinkedDirectory(t *testing.T) {
	dir := t.TempDir()
	for _, release := range []string{"1", "2"} {
		check(t, os.Mkdir(filepath.Join(dir, release), 0o755))
		putPair(t, filepath.Join(dir, release), "app-"+release, "p-"+release)
	}
	current := filepath.Join(dir, "current")
	check(t, os.Symlink("1", current))
	s, err := New(Config{Dir: current})
	check(t, err)
	c, _, err := s.Issue(t.Context())
	check(t, err)
	wantPair(t, c, "app-1", "p-1")
	check(t, os.Symlink("2", current+".new"))
	check(t, os.Rename(current+".new", current))
	c, _, err = s.Issue(t.Context())
	check(t, err)
	wantPair(t, c, "app-2", "p-2")
}
