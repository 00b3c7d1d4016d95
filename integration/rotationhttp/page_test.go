package rotationhttp_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/vaultpool/vaultpool/integration/internal/kit"
	"github.com/vaultpool/vaultpool/integration/testbed"
	"github.com/vaultpool/vaultpool/rotation"
	"github.com/vaultpool/vaultpool/rotation/rotationhttp"
)

const (
	badge = "#state-name"
	newer = `#generations li[data-generation="2"]`
	older = `#generations li[data-generation="1"]`
)

// A healthy pool, and what changes on the page while it is open.
func TestHealthy(t *testing.T) {
	s := open(t, testbed.RoleOptions{}, rotationhttp.Config{Title: "Orders database"})
	s.warm(t, 4)
	p := visit(t, s.address())
	p.reads(t, badge, "Healthy")
	p.reads(t, "#summary", "New connections log in with generation 1.")
	p.reads(t, older, "#1", "current", "4 connections", s.Rotator().Status().User)
	p.reads(t, "#left-label", "left of 1 h")
	p.reads(t, "#next-label", "until renewal")
	p.reads(t, "#reserve-label", "kept for a rotation")
	p.reads(t, ".title", "Orders database")
	if title := eval[string](t, p, "document.title"); title != "Healthy – Orders database" {
		t.Errorf("the document's title is %q", title)
	}
	if eval[bool](t, p, `document.querySelector("button") !== null`) {
		t.Error("there is a button, though nothing may be changed")
	}

	forPicture(6 * time.Second)
	s.rotate(t)
	s.events.Wait(t, rotation.Revoked, 1)
	p.reads(t, newer, "#2", "current")
	p.reads(t, older, "retired", "replaced: requested")
	p.reads(t, "#events", "published", "revoked")
	s.warm(t, 4)
	forPicture(9 * time.Second)
	p.checkAccessible(t)
	p.checkSizes(t)
	p.shoot(t, "status-healthy.png", desktop)
	p.shoot(t, "status-healthy-dark.png", night)
	p.shoot(t, "status-healthy-phone.png", phone)
}

// checkAccessible looks at what assistive programs are told.
func (p *page) checkAccessible(t *testing.T) {
	t.Helper()
	for expression, want := range map[string]string{
		`document.documentElement.lang`:                                "en",
		`document.querySelector("#state-name").getAttribute("role")`:   "status",
		`document.querySelector("#bar").getAttribute("role")`:          "meter",
		`document.querySelector("#bar").getAttribute("aria-label")`:    "Lease elapsed",
		`document.querySelector("#bar").getAttribute("aria-valuemax")`: "100",
	} {
		if got := eval[string](t, p, expression); got != want {
			t.Errorf("%s is %q, want %q", expression, got, want)
		}
	}
	if text := eval[string](t, p, `document.querySelector("#bar").getAttribute("aria-valuetext")`); !strings.Contains(text, " left of 1 h; renew at ") {
		t.Errorf("the bar says %q", text)
	}
	unnamed := `[...document.querySelectorAll("section")].filter(s => !document.getElementById(s.getAttribute("aria-labelledby"))).length`
	if n := eval[int](t, p, unnamed); n > 0 {
		t.Errorf("%d sections have no name", n)
	}
	if n := eval[int](t, p, `document.querySelectorAll("h1").length`); n != 1 {
		t.Errorf("there are %d h1", n)
	}
}

// contrast is the lowest ratio between a text and the ground it is on, as WCAG computes it.
const contrast = `(() => {
	const light = (c) => {
		const [r, g, b] = c.match(/[\d.]+/g).map((x) => x / 255).map((x) => (x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4));
		return 0.2126 * r + 0.7152 * g + 0.0722 * b;
	};
	const ground = (e) => {
		for (; e; e = e.parentElement) {
			const c = getComputedStyle(e).backgroundColor;
			if (c !== "rgba(0, 0, 0, 0)") return c;
		}
	};
	let lowest = 21;
	for (const e of document.querySelectorAll("h1, h2, p, span, a, time, button")) {
		if (!e.checkVisibility() || !e.innerText.trim()) continue;
		const [a, b] = [light(getComputedStyle(e).color), light(ground(e))];
		lowest = Math.min(lowest, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
	}
	return lowest;
})()`

// checkSizes looks at it in both colour schemes, and on a phone.
func (p *page) checkSizes(t *testing.T) {
	t.Helper()
	grounds := make(map[string]bool)
	for _, s := range []screen{desktop, night, phone, {width: 375, height: 812, dark: true}} {
		p.look(t, s)
		grounds[eval[string](t, p, `getComputedStyle(document.body).backgroundColor`)] = true
		if wide := eval[int64](t, p, `document.documentElement.scrollWidth`); wide > s.width {
			t.Errorf("%+v: the page is %d wide and scrolls", s, wide)
		}
		if ratio := eval[float64](t, p, contrast); ratio < 4.5 {
			t.Errorf("%+v: the contrast of a text is %.2f, less than 4.5", s, ratio)
		}
	}
	p.look(t, desktop)
	if len(grounds) != 2 {
		t.Errorf("light and dark have the grounds %v", grounds)
	}
}

// A connection is held across a rotation.
func TestDraining(t *testing.T) {
	s := open(t, testbed.RoleOptions{}, rotationhttp.Config{})
	p := visit(t, s.address())
	release := s.hold(t)
	s.warm(t, 4)
	p.reads(t, older, "5 connections")
	forPicture(8 * time.Second)
	s.rotate(t)
	s.warm(t, 4)
	p.reads(t, badge, "Healthy")
	p.reads(t, "#summary", "Generation 1 is draining: 1 connection left, until ", " at the latest")
	p.reads(t, older, "draining", "1 connection", "/app: 1", "replaced: requested")
	p.reads(t, newer, "current")
	p.reads(t, "#counts", "2 leases held")
	forPicture(9 * time.Second)
	p.checkSizes(t)
	p.shoot(t, "status-draining.png", desktop)

	release()
	p.reads(t, older, "retired")
	p.reads(t, "#counts", "1 lease held")
	if text := p.text(t, "#summary"); strings.Contains(text, "draining") {
		t.Errorf("nothing drains, and it says %q", text)
	}
}

// Vault is down: first renewals fail, then the lease ends, and then Vault is back.
func TestVaultDown(t *testing.T) {
	s := open(t, testbed.RoleOptions{DefaultTTL: 40 * time.Second}, rotationhttp.Config{})
	s.hold(t)
	s.warm(t, 3)
	p := visit(t, s.address())
	p.reads(t, badge, "Healthy")
	kit.Check(t, shared.Vault.Kill())
	up := func(ctx context.Context) error { return shared.Vault.Restart(ctx) }
	back := false
	t.Cleanup(func() {
		if !back {
			kit.Check(t, up(context.Background()))
		}
	})

	p.reads(t, badge, "Degraded")
	p.reads(t, "#summary", "Logins still work")
	p.reads(t, "#problems", "What fails now", "Renewing generation 1 fails", "connection refused")
	p.reads(t, "#events", "renew failed")
	s.checks(t, "readyz", "degraded\nrenew of generation 1 failed")
	s.checks(t, "healthz", "alive")
	p.checkSizes(t)
	p.shoot(t, "status-vault-down.png", desktop)

	p.reads(t, badge, "No login possible")
	p.reads(t, "#summary", "has ended or is refused", "Connections that are open go on")
	p.reads(t, "#left", "ended")
	p.reads(t, older, "no logins", "4 connections")
	p.reads(t, "#problems", "Issuing a credential fails", "connection refused")
	s.checks(t, "readyz", "lost\n")
	s.checks(t, "healthz", "alive")
	p.checkSizes(t)
	p.shoot(t, "status-lost.png", desktop)

	kit.Check(t, up(t.Context()))
	back = true
	p.reads(t, badge, "Healthy")
	p.reads(t, newer, "current")
	s.checks(t, "readyz", "ready\n")
}

func (s *service) checks(t *testing.T, path, want string) {
	t.Helper()
	if got := s.get(t, path); !strings.HasPrefix(got, want) {
		t.Errorf("%s says %q, want %q …", path, got, want)
	}
}

// Where that is allowed, the button rotates.
func TestRotateNow(t *testing.T) {
	s := open(t, testbed.RoleOptions{}, rotationhttp.Config{AllowRotate: true})
	p := visit(t, s.address())
	p.checkSizes(t)
	p.do(t, chromedp.Click(chromedp.CSS("#rotate")))
	p.reads(t, "#rotate-answer", "Rotated: generation 2 serves.")
	p.reads(t, newer, "current")
}

// Nothing is asked for while nobody looks.
func TestHiddenPageIsQuiet(t *testing.T) {
	s := open(t, testbed.RoleOptions{}, rotationhttp.Config{})
	p := visit(t, s.address())
	hide := func(hidden string) {
		eval[bool](t, p, `(() => {
			Object.defineProperty(document, "hidden", {value: `+hidden+`, configurable: true});
			document.dispatchEvent(new Event("visibilitychange"));
			return true;
		})()`)
	}
	polled := func(more int64) {
		from := s.polls.Load()
		kit.Eventually(t, "the page asks", func(context.Context) bool { return s.polls.Load() >= from+more })
	}
	polled(2)
	hide("true")
	time.Sleep(500 * time.Millisecond) // what was under way comes to its end
	before := s.polls.Load()
	time.Sleep(3 * time.Second) // three updates
	if more := s.polls.Load() - before; more > 0 {
		t.Errorf("the page asked %d times while it was hidden", more)
	}
	hide("false")
	polled(2)
}

// The pool is closed, and then the service itself is gone.
func TestClosedThenGone(t *testing.T) {
	s := open(t, testbed.RoleOptions{}, rotationhttp.Config{})
	p := visit(t, s.address())
	p.serviceMayFail()
	s.quit()
	p.reads(t, badge, "Closed")
	p.reads(t, "#summary", "The rotator is closed")
	p.reads(t, "#next-label", "nothing is planned")
	p.reads(t, "#events", "closed")
	p.checkSizes(t)

	s.server.CloseClientConnections()
	s.server.Close()
	p.reads(t, "#offline", "No connection to the service since", "what was known then")
}
