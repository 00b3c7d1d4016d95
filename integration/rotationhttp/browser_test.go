package rotationhttp_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
)

// findChromium returns the program. integration/setup.sh knows the same names.
func findChromium() (string, error) {
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errors.New("the browser tests need Chromium, which is not in PATH: run `make setup`, or install Debian's package chromium")
}

// browser is one Chromium, headless, for all tests of this package.
var browser context.Context

// startBrowser starts it. What it returns ends it and waits.
func startBrowser() (stop func() error, err error) {
	program, err := findChromium()
	if err != nil {
		return nil, err
	}
	profile, err := os.MkdirTemp("", "status-page-browser-")
	if err != nil {
		return nil, err
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(program), chromedp.UserDataDir(profile),
		chromedp.NoSandbox, // its sandbox does not work for root, and it sees our own page only
		chromedp.DisableGPU,
		chromedp.Flag("disable-dev-shm-usage", true), // containers have a small one
		chromedp.Flag("force-color-profile", "srgb"),
		chromedp.WSURLReadTimeout(kit.Patience),
	)
	allocator, freeAllocator := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, cancel := chromedp.NewContext(allocator)
	stop = func() error {
		err := chromedp.Cancel(ctx)
		cancel()
		freeAllocator()
		return errors.Join(err, os.RemoveAll(profile))
	}
	if err := chromedp.Do(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", program, err), stop())
	}
	browser = ctx
	return stop, nil
}

// page is one tab. It notes what the page asks the network for and what its console says.
type page struct {
	context.Context
	origin string

	mu       sync.Mutex // guards what follows
	requests []string
	loads    int // documents
	console  []string
	quiet    bool // the service is away on purpose: failed requests are not noted
}

// screen is what a page is looked at with.
type screen struct {
	width, height int64
	dark          bool
}

var (
	desktop = screen{width: 960, height: 720}
	night   = screen{width: 960, height: 720, dark: true}
	phone   = screen{width: 375, height: 812}
)

// visit opens a tab at an address. When the test ends, it fails if the page asked any other origin for
// anything or if anything was said on its console.
func visit(t *testing.T, address string) *page {
	t.Helper()
	tab, cancel := chromedp.NewContext(browser)
	t.Cleanup(cancel)
	kit.Check(t, chromedp.Do(tab)) // opens it; a deadline here would end the browser
	ctx, stop := context.WithTimeout(tab, 5*kit.Patience)
	t.Cleanup(stop)
	parsed, err := url.Parse(address)
	kit.Check(t, err)
	p := &page{Context: ctx, origin: parsed.Scheme + "://" + parsed.Host}
	kit.Check(t, chromedp.Listen(ctx, p.note))
	p.look(t, desktop)
	p.do(t, chromedp.Navigate(address), chromedp.WaitVisible(chromedp.CSS(`[data-live="yes"]`)))
	t.Cleanup(func() { p.checkQuiet(t) })
	return p
}

func (p *page) note(event any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		p.requests = append(p.requests, e.Request.URL)
		if e.Type == network.ResourceTypeDocument {
			p.loads++
		}
	case *cdplog.EventEntryAdded:
		if !p.quiet || e.Entry.Source != cdplog.EntrySourceNetwork {
			p.console = append(p.console, fmt.Sprintf("%s: %s (%s)", e.Entry.Level, e.Entry.Text, e.Entry.URL))
		}
	case *runtime.EventConsoleAPICalled:
		p.console = append(p.console, fmt.Sprintf("console.%s", e.Type))
	case *runtime.EventExceptionThrown:
		p.console = append(p.console, e.ExceptionDetails.Text)
	}
}

// serviceMayFail says that requests fail from now on.
func (p *page) serviceMayFail() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.quiet = true
}

func (p *page) checkQuiet(t *testing.T) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, message := range p.console {
		t.Errorf("the console says: %s", message)
	}
	for _, address := range p.requests {
		if !strings.HasPrefix(address, p.origin+"/") && !strings.HasPrefix(address, "data:image/svg+xml,") {
			t.Errorf("the page asked for %s, which is not of its own origin %s", address, p.origin)
		}
	}
	if p.loads != 1 {
		t.Errorf("the page was loaded %d times: it should update itself", p.loads)
	}
}

func (p *page) do(t *testing.T, actions ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	kit.Check(t, chromedp.Do(p, actions...))
}

// look sets the size of the window and the colour scheme that the user prefers.
func (p *page) look(t *testing.T, s screen) {
	t.Helper()
	scheme := "light"
	if s.dark {
		scheme = "dark"
	}
	features := []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}
	p.do(t, chromedp.EmulateViewport(s.width, s.height, chromedp.EmulateScale(1)),
		chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
			_, err := cdp.Call(ctx, target, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: features})
			return err
		}))
}

// eval returns what a JavaScript expression gives.
func eval[T any](t *testing.T, p *page, expression string) T {
	t.Helper()
	value, err := chromedp.Run(p.Context, chromedp.Evaluate[T](expression))
	kit.Check(t, err)
	return value
}

// text returns what can be read in the first element that a selector finds.
func (p *page) text(t *testing.T, selector string) string {
	t.Helper()
	return strings.Join(strings.Fields(eval[string](t, p, fmt.Sprintf(`document.querySelector(%q)?.innerText ?? ""`, selector))), " ")
}

// reads waits until an element's text contains all of these.
func (p *page) reads(t *testing.T, selector string, want ...string) {
	t.Helper()
	deadline := time.Now().Add(kit.Patience)
	for {
		got := p.text(t, selector)
		missing := 0
		for _, w := range want {
			if !strings.Contains(got, w) {
				missing++
			}
		}
		if missing == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s reads %q, want %q", selector, got, want)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
