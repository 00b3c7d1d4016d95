package rotationhttp_test

import (
	"bytes"
	"context"
	"flag"
	"image"
	"image/color"
	"image/png"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/pgvault"
	"github.com/vaultpool/vaultpool/rotation"
	"github.com/vaultpool/vaultpool/rotation/rotationhttp"
)

var screenshots = flag.String("screenshots", "", "write PNG files of the page into this directory")

// service is a pool whose status page is mounted in a server, as a program has it.
type service struct {
	*pgvault.Pool
	role   *testbed.Role
	events *kit.Recorder
	server *httptest.Server
	polls  atomic.Int64 // requests for the status
	quit   func()       // closes the pool; once
}

// open starts a service. At the end of the test what it has answered is searched for secrets.
func open(t *testing.T, role testbed.RoleOptions, shown rotationhttp.Config) *service {
	t.Helper()
	s := &service{events: kit.NewRecorder()}
	var err error
	s.role, err = shared.PostgresRole(t.Context(), role)
	kit.Check(t, err)
	token, err := s.role.Token(t.Context(), 24*time.Hour)
	kit.Check(t, err)
	file := filepath.Join(t.TempDir(), "token")
	kit.Check(t, os.WriteFile(file, []byte(token), 0o600))
	config, err := pgvault.ParseConfig(shared.Postgres.URL("app") + "&pool_max_conns=6&vault_path=" + s.role.CredsPath +
		"&vault_addr=" + shared.Vault.Addr + "&vault_token_file=" + file)
	kit.Check(t, err)
	config.Rotation = rotation.Config{IssueInterval: time.Millisecond, DrainTimeout: 2 * time.Minute}
	s.Pool, err = pgvault.NewWithConfig(t.Context(), config)
	kit.Check(t, err)
	s.Rotator().Subscribe(s.events.Add)
	s.quit = sync.OnceFunc(s.Close)
	t.Cleanup(s.quit)
	s.serve(t, shown)
	return s
}

func (s *service) serve(t *testing.T, shown rotationhttp.Config) {
	t.Helper()
	pages := http.StripPrefix("/ops/database", rotationhttp.Handler(s.Rotator(), shown))
	mux := http.NewServeMux()
	mux.HandleFunc("/ops/database/", func(w http.ResponseWriter, r *http.Request) {
		if filepath.Base(r.URL.Path) == "status.json" {
			s.polls.Add(1)
		}
		pages.ServeHTTP(w, r)
	})
	s.server = httptest.NewServer(mux)
	t.Cleanup(func() {
		for _, path := range []string{"", "status", "status.json", "healthz", "readyz", "status.js", "status.css"} {
			kit.Heard(s.get(t, path))
		}
		s.server.CloseClientConnections()
		s.server.Close()
	})
}

func (s *service) address() string { return s.server.URL + "/ops/database/" }

func (s *service) get(t *testing.T, path string) string {
	t.Helper()
	request, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), http.MethodGet, s.address()+path, http.NoBody)
	kit.Check(t, err)
	answer, err := s.server.Client().Do(request)
	if err != nil {
		return "" // it is down, as that test wants
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	kit.Check(t, err)
	return string(body)
}

func (s *service) hold(t *testing.T) (release func()) {
	t.Helper()
	conn, err := s.Acquire(t.Context())
	kit.Check(t, err)
	release = sync.OnceFunc(conn.Release)
	t.Cleanup(release)
	return release
}

// warm opens n connections and leaves them idle.
func (s *service) warm(t *testing.T, n int) {
	t.Helper()
	var conns []*pgxpool.Conn
	for range n {
		conn, err := s.Acquire(t.Context())
		kit.Check(t, err)
		conns = append(conns, conn)
	}
	for _, conn := range conns {
		conn.Release()
	}
}

func (s *service) rotate(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), kit.Patience)
	defer cancel()
	kit.Check(t, s.Rotate(ctx))
}

// forPicture waits where a picture is taken of what time makes visible. Nothing is judged by it.
func forPicture(d time.Duration) {
	if *screenshots != "" {
		time.Sleep(d)
	}
}

// shoot writes a picture, if asked to.
func (p *page) shoot(t *testing.T, name string, s screen) {
	t.Helper()
	if *screenshots == "" {
		return
	}
	p.look(t, s)
	forPicture(1200 * time.Millisecond) // an update at this size
	picture, err := chromedp.Run(p.Context, chromedp.FullScreenshot(100))
	kit.Check(t, err)
	decoded, err := png.Decode(bytes.NewReader(picture))
	kit.Check(t, err)
	var small bytes.Buffer
	kit.Check(t, (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&small, with256Colours(decoded)))
	kit.Check(t, os.WriteFile(filepath.Join(*screenshots, name), small.Bytes(), 0o644))
	p.look(t, desktop)
}

// with256Colours makes a picture that takes a third of the space: it keeps the colours that are seen most, and takes
// the nearest of them for the others, which are the edges of letters.
func with256Colours(p image.Image) image.Image {
	seen := make(map[color.Color]int)
	for y := p.Bounds().Min.Y; y < p.Bounds().Max.Y; y++ {
		for x := p.Bounds().Min.X; x < p.Bounds().Max.X; x++ {
			seen[p.At(x, y)]++
		}
	}
	palette := color.Palette(slices.SortedFunc(maps.Keys(seen), func(a, b color.Color) int { return seen[b] - seen[a] }))
	palette = palette[:min(len(palette), 256)]
	index := make(map[color.Color]uint8, len(seen))
	for c := range seen {
		index[c] = uint8(palette.Index(c))
	}
	small := image.NewPaletted(p.Bounds(), palette)
	for y := p.Bounds().Min.Y; y < p.Bounds().Max.Y; y++ {
		for x := p.Bounds().Min.X; x < p.Bounds().Max.X; x++ {
			small.SetColorIndex(x, y, index[p.At(x, y)])
		}
	}
	return small
}
