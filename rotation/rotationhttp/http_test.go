package rotationhttp

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vaultpool/vaultpool/rotation"
)

var update = flag.Bool("update", false, "write testdata/status.json anew")

var paths = []string{"/", "/status", "/status.json", "/healthz", "/readyz", "/status.css", "/status.js"}

// The names of the fields do not change. In a bubble the time does not either.
func TestGolden(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeRotator{s: healthy()}
		h := newHandler(f, Config{Title: "Orders"})
		f.emit(rotation.Event{Kind: rotation.Issued, Generation: 1, TTL: time.Hour})
		time.Sleep(40 * time.Minute)
		s := healthy()
		s.Generation, s.User, s.Age, s.Unrevoked, s.Failures, s.LastError = 2, "v-app-2", time.Second, 2, 1, errDown
		s.Generations[0].State, s.Generations[0].Reason, s.Generations[0].DrainBy = rotation.StateDraining, "requested", s.Expires
		s.Generations = append(s.Generations, rotation.GenerationStatus{
			Generation: 2, User: "v-app-2", State: rotation.StateCurrent, Issued: time.Now(), Expires: s.Expires,
		})
		f.set(func(f *fakeRotator) { f.s = s })
		f.emit(
			rotation.Event{Kind: rotation.Issued, Generation: 2, TTL: time.Hour, Took: 15 * time.Millisecond, Reason: "requested"},
			rotation.Event{Kind: rotation.Published, Generation: 2, TTL: time.Hour},
			rotation.Event{Kind: rotation.Draining, Generation: 1, Reason: "requested", Connections: 5},
			rotation.Event{Kind: rotation.RevokeFailed, Generation: 1, Attempt: 1, RetryAt: time.Now().Add(time.Minute), Err: errDown, Missed: 3},
		)
		time.Sleep(time.Second)
		got := get(h, "/status").Body.String()
		const golden = "testdata/status.json"
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("the status is\n%s\nwant that of %s; -update writes it anew", got, golden)
		}
		if again := get(h, "/status.json").Body.String(); again != got {
			t.Errorf("/status.json is\n%s", again)
		}
	})
}

// What is remembered is bounded.
func TestBounds(t *testing.T) {
	f := &fakeRotator{s: healthy()}
	h := newHandler(f, Config{})
	f.s.Generation = 300
	for i := range uint64(300) {
		f.emit(rotation.Event{Kind: rotation.Issued, Generation: i + 1}, rotation.Event{Kind: rotation.Revoked, Generation: i + 1})
	}
	r := reportOf(t, h)
	if len(r.Events) != keptEvents || r.Events[99].Seq != 600 || r.Events[0].Seq != 501 {
		t.Errorf("%d events", len(r.Events))
	}
	if n := len(r.Generations); n > keptGenerations+1 || n < keptGenerations || r.Generations[n-1].Generation != 300 {
		t.Errorf("%d generations", n)
	}
}

// Every answer forbids the browser whatever the page does not need, and the page does
// not need more.
func TestContentSecurityPolicy(t *testing.T) {
	h := newHandler(&fakeRotator{s: healthy()}, Config{AllowRotate: true})
	for _, path := range append(paths, "/nowhere", "/rotate") {
		header := get(h, path).Header()
		for _, part := range []string{"default-src 'none'; ", "script-src 'self'; ", "style-src 'self'; ", "connect-src 'self'; ", "frame-ancestors 'none'"} {
			if policy := header.Get("Content-Security-Policy"); !strings.Contains(policy, part) || strings.Contains(policy, "unsafe") {
				t.Errorf("%s: the policy is %q", path, policy)
			}
		}
		if header.Get("X-Content-Type-Options") != "nosniff" || header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: the header is %v", path, header)
		}
	}
	for _, path := range []string{"/", "/status.css", "/status.js"} {
		body := get(h, path).Body.String()
		for _, forbidden := range []string{`<script>`, `<style`, ` style="`, ` on[a-z]+="`, `(src|href)="(/|https?:)`, `innerHTML`, `url\(`, `@import`} {
			if found := regexp.MustCompile(forbidden).FindString(body); found != "" {
				t.Errorf("%s contains %q", path, found)
			}
		}
	}
}

// The title is text.
func TestTitleIsEscaped(t *testing.T) {
	h := newHandler(&fakeRotator{s: healthy()}, Config{Title: `<script>alert(1)</script>`})
	if body := get(h, "/").Body.String(); strings.Contains(body, "<script>alert") || !strings.Contains(body, "&lt;script&gt;alert") {
		t.Error("the title is not escaped")
	}
}

func TestMethodsAndPaths(t *testing.T) {
	h := newHandler(&fakeRotator{s: healthy()}, Config{})
	for _, path := range paths {
		if w := get(h, path); w.Code != 200 || w.Body.Len() == 0 {
			t.Errorf("GET %s answers %d", path, w.Code)
		}
		if w := request(h, http.MethodHead, path); w.Code != 200 {
			t.Errorf("HEAD %s answers %d", path, w.Code)
		}
		if w := request(h, http.MethodPost, path); w.Code != 405 || w.Header().Get("Allow") != "GET" {
			t.Errorf("POST %s answers %d, Allow: %s", path, w.Code, w.Header().Get("Allow"))
		}
	}
	if w := get(h, "/assets/status.js"); w.Code != 404 {
		t.Errorf("a path that does not exist answers %d", w.Code)
	}
}

// Below any path; the prefix without its slash leads to the page.
func TestBelowAPrefix(t *testing.T) {
	h := http.StripPrefix("/ops/db", newHandler(&fakeRotator{s: healthy()}, Config{}))
	for _, path := range paths {
		if w := get(h, "/ops/db"+path); w.Code != 200 {
			t.Errorf("%s answers %d", path, w.Code)
		}
	}
	w := get(h, "/ops/db?x=1")
	if w.Code != 308 || w.Header().Get("Location") != "./db/" {
		t.Errorf("the prefix alone answers %d, Location: %s", w.Code, w.Header().Get("Location"))
	}
}

func TestRotate(t *testing.T) {
	for name, test := range map[string]struct {
		forbidden bool
		closed    bool
		method    string
		header    []string
		err       error
		code      int
		says      string
	}{
		"the page's own button":    {header: []string{"Sec-Fetch-Site", "same-origin"}, code: 200, says: `"generation": 1`},
		"a command line":           {code: 200, says: `"rotated"`},
		"an old browser":           {header: []string{"Origin", "http://example.com"}, code: 200, says: `"rotated"`},
		"another site":             {header: []string{"Sec-Fetch-Site", "cross-site"}, code: 403, says: "only this page"},
		"another host of it":       {header: []string{"Sec-Fetch-Site", "same-site"}, code: 403, says: "only this page"},
		"another origin":           {header: []string{"Origin", "http://evil.example"}, code: 403, says: "only this page"},
		"not enabled":              {forbidden: true, code: 403, says: "not enabled"},
		"GET":                      {method: http.MethodGet, code: 405, says: "POST"},
		"a failed attempt":         {err: errDown, code: 502, says: "connection refused"},
		"a paused rotator":         {err: rotation.ErrPaused, code: 409, says: "paused"},
		"a rotator that closes":    {err: rotation.ErrClosed, code: 503, says: "closed"},
		"a closed rotator":         {closed: true, code: 503, says: "the rotator is closed"},
		"not enabled, and another": {forbidden: true, header: []string{"Sec-Fetch-Site", "cross-site"}, code: 403, says: "not enabled"},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fakeRotator{s: healthy(), onRotate: func(context.Context) error { return test.err }}
			f.s.Closed = test.closed
			h := newHandler(f, Config{AllowRotate: !test.forbidden})
			method := http.MethodPost
			if test.method != "" {
				method = test.method
			}
			w := request(h, method, "/rotate", test.header...)
			if w.Code != test.code || !strings.Contains(w.Body.String(), test.says) {
				t.Errorf("it answers %d %s, want %d and %q", w.Code, w.Body, test.code, test.says)
			}
			if asked := f.rotations > 0; asked != (test.code == 200 || test.err != nil) {
				t.Errorf("it answers %d, and the rotator was asked %d times", w.Code, f.rotations)
			}
		})
	}
}

// One that takes longer than an answer may, and one that is asked for meanwhile.
func TestSlowRotate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		f := &fakeRotator{s: healthy(), onRotate: func(context.Context) error { <-release; return nil }}
		h := newHandler(f, Config{AllowRotate: true})
		start := time.Now()
		if w := request(h, http.MethodPost, "/rotate"); w.Code != 202 || time.Since(start) != rotateTimeout {
			t.Errorf("it answers %d after %v", w.Code, time.Since(start))
		}
		if w := request(h, http.MethodPost, "/rotate"); w.Code != 409 || !strings.Contains(w.Body.String(), "under way") {
			t.Errorf("the second answers %d", w.Code)
		}
		close(release)
		synctest.Wait()
		if w := request(h, http.MethodPost, "/rotate"); w.Code != 200 {
			t.Errorf("the third answers %d", w.Code)
		}
	})
}

// A real rotator through its states: what is said is true, and never a secret.
func TestRealRotator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &scriptedSource{ttl: time.Hour}
		r, err := rotation.Start(source, rotation.Config{})
		if err != nil {
			t.Fatal(err)
		}
		h := Handler(r, Config{AllowRotate: true})
		look := func(state State) Report {
			t.Helper()
			synctest.Wait()
			for _, path := range paths {
				w := get(h, path)
				if said := fmt.Sprint(w.Header(), w.Body); strings.Contains(said, password) {
					t.Errorf("%s: %s holds the password", state, path)
				}
			}
			got := reportOf(t, h)
			if got.State != state {
				t.Errorf("it is %s %q, want %s", got.State, got.Reasons, state)
			}
			return got
		}
		if got := look(Ready); got.User != "v-app-1" || got.Lease == nil || got.Lease.TTLSeconds != 3600 {
			t.Errorf("the first is %+v", got)
		}
		time.Sleep(2 * time.Second)
		if w := request(h, http.MethodPost, "/rotate"); w.Code != 200 || strings.Contains(w.Body.String(), password) {
			t.Errorf("POST /rotate answers %d %s", w.Code, w.Body)
		}
		got := look(Ready)
		if n := len(got.Generations); n != 2 || got.Generations[0].State != rotation.StateRetired || got.Generations[0].Retired.IsZero() ||
			got.Generations[1].State != rotation.StateCurrent || got.Generations[1].Published.IsZero() {
			t.Errorf("after a rotation the generations are %+v", got.Generations)
		}
		fails := fmt.Errorf("asking with %v: %w", rotation.NewCredential("v-app-2", password), errors.New("vault is sealed"))
		source.set(time.Hour, fails)
		time.Sleep(50 * time.Minute)
		if got := look(Degraded); len(got.Failures) == 0 || !strings.Contains(got.Failures[0].Error, "vault is sealed") {
			t.Errorf("renewals fail: %+v", got.Failures)
		}
		time.Sleep(15 * time.Minute)
		if got := look(Lost); got.Usable || got.Lease.LeftSeconds > 0 || got.Failures[0].Step != "issue" {
			t.Errorf("lost: %+v", got)
		}
		source.set(time.Hour, nil)
		time.Sleep(2 * time.Minute)
		look(Ready)
		if err := r.Close(context.Background()); err != nil {
			t.Error(err)
		}
		if got := look(Closed); got.Events[len(got.Events)-1].Kind != "closed" || got.Next.UnderWay {
			t.Errorf("closed: %+v", got)
		}
		is(t, get(h, "/healthz"), 503, "closed\n")
	}) // which also waits for every goroutine to end
}

// A handler made for a rotator that is closed already says so.
func TestHandlerOfClosedRotator(t *testing.T) {
	r, err := rotation.New(t.Context(), &scriptedSource{ttl: time.Hour}, rotation.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(Handler(r, Config{}))
	defer server.Close()
	answer, err := server.Client().Get(server.URL + "/readyz") //nolint:noctx // on a loopback address
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("/readyz answers %d", answer.StatusCode)
	}
}

// A server's own bound on writing an answer, set for its other pages, does not cut off one that waits for a rotation.
func TestRotateOutlastsTheServersWriteTimeout(t *testing.T) {
	f := &fakeRotator{s: healthy(), onRotate: func(context.Context) error {
		time.Sleep(300 * time.Millisecond)
		return nil
	}}
	server := httptest.NewUnstartedServer(newHandler(f, Config{AllowRotate: true}))
	server.Config.WriteTimeout = 100 * time.Millisecond
	server.Start()
	defer server.Close()
	asked, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+"/rotate", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := server.Client().Do(asked)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		t.Errorf("got %s", answer.Status)
	}
}
