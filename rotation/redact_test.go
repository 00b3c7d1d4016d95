package rotation

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// leak fails if any usual way of writing v down shows a password.
func leak(t *testing.T, what string, v any) {
	t.Helper()
	hex := fmt.Sprintf("%x", secretMark)
	look := func(how, text string) {
		if strings.Contains(text, secretMark) || strings.Contains(strings.ToLower(text), hex) {
			t.Errorf("%s shows the password as %s: %s", what, how, text)
		}
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%d", "%T", "%p"} {
		look(verb, fmt.Sprintf(verb, v))
		look("a field, "+verb, fmt.Sprintf(verb, struct{ V any }{v}))
		look("a slice, "+verb, fmt.Sprintf(verb, []any{v}))
		look("a map, "+verb, fmt.Sprintf(verb, map[string]any{"v": v}))
	}
	look("Print", fmt.Sprint(v))
	if text, err := json.Marshal(v); err == nil {
		look("JSON", string(text))
	}
	if text, err := json.Marshal(map[string]any{"v": v}); err == nil {
		look("JSON in a map", string(text))
	}
	for name, handler := range map[string]func(*bytes.Buffer) slog.Handler{
		"slog text": func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
		"slog JSON": func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
	} {
		var b bytes.Buffer
		log := slog.New(handler(&b))
		log.Info("it", "v", v, slog.Group("group", "v", v))
		log.With("v", v).Info("it")
		look(name, b.String())
	}
}

// holder has a credential where fmt may not call its methods.
type holder struct {
	c    Credential
	p    *Credential
	many []Credential
	m    map[string]Credential
	any  any
}

// hazard 45
func TestHazard45CredentialRedactsItself(t *testing.T) {
	c := NewCredential("app", secretMark+"1")
	leak(t, "a Credential", c)
	leak(t, "a *Credential", &c)
	leak(t, "a struct with one", holder{c, &c, []Credential{c}, map[string]Credential{"c": c}, c})
	leak(t, "a pointer to such", &holder{c, &c, []Credential{c}, map[string]Credential{"c": c}, c})
	leak(t, "an error", fmt.Errorf("logging in with %v: %w", c, errors.New("no")))
	for verb, want := range map[string]string{"%v": "app:[redacted]", "%#v": "app:[redacted]", "%x": "app:[redacted]"} {
		if got := fmt.Sprintf(verb, c); got != want {
			t.Errorf("%s of a credential = %q, want %q", verb, got, want)
		}
	}
	for want, v := range map[string]any{
		"generation 7 (app:[redacted])":               newGeneration(7, c, nil),
		"connection of generation 7 (app:[redacted])": bound(newGeneration(7, c, nil)),
		"connection of no generation":                 &Conn{},
	} {
		if got := fmt.Sprintf("%+v", v); got != want {
			t.Errorf("%T is written as %q, want %q", v, got, want)
		}
	}
	if text, _ := json.Marshal(c); string(text) != `"app:[redacted]"` {
		t.Errorf("JSON of a credential = %s", text)
	}
	if got := fmt.Sprint(Credential{}); got != "no credential" {
		t.Errorf("the zero credential = %q", got)
	}
	if c.Password() != secretMark+"1" || c.Username() != "app" || (Credential{}).Password() != "" || (Credential{}).Username() != "" {
		t.Error("what was put in does not come out")
	}
}

func bound(g *Generation) *Conn {
	c := &Conn{}
	c.gen.Store(g)
	return c
}

func TestCredentialEqual(t *testing.T) {
	a := NewCredential("u", "p")
	for _, c := range []struct {
		b    Credential
		want bool
	}{
		{NewCredential("u", "p"), true},
		{NewCredential("u", "q"), false},
		{NewCredential("v", "p"), false},
		{NewCredential("u", ""), false},
		{Credential{}, false},
	} {
		if a.Equal(c.b) != c.want || c.b.Equal(a) != c.want {
			t.Errorf("%v equal to %v: %v, want %v", a, c.b, !c.want, c.want)
		}
	}
	if !(Credential{}).Equal(Credential{}) {
		t.Error("two empty credentials differ")
	}
}

// hazard 45: everything that a user gets to see of a running engine.
func TestHazard45EngineShowsNoSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged bytes.Buffer
		handler := slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug})
		g := startRig(t, hourLease, Config{Logger: slog.New(handler)})
		p := g.pool("db")
		conn := p.inUse(t)
		gen, _ := p.a.Current()
		g.rotate() // one draining, one current, one connection
		look := func() {
			t.Helper()
			leak(t, "a *Rotator", g.r)
			leak(t, "a *Generation", gen)
			leak(t, "a *Attachment", p.a)
			leak(t, "a *Conn", conn.Conn)
			status := g.r.Status()
			synctest.Wait() // the engine is at rest again: what follows reads its insides
			leak(t, "a Status", status)
			leak(t, "a Lease", gen.lease)
			leak(t, "a Config", g.r.config)
			for _, e := range g.recorded() {
				leak(t, "event "+string(e.Kind), e)
			}
		}
		look()

		g.source.set(func(s *fakeSource) { s.onIssue = func(int) error { return errors.New("sealed") } })
		now, _ := p.a.Current()
		p.a.Refused(now, fmt.Errorf("%w: user %s", ErrRefused, now.Credential().Username()))
		synctest.Wait()
		leak(t, "a NoCredentialError", g.noCredential())
		leak(t, "Await's error", p.a.Await(context.Background()))
		look()
		p.set(func(p *fakePool) {
			p.onProbe = func(context.Context, *Generation) ProbeResult { panic("in a hook") }
			p.onEnd = func(context.Context, *Generation, []*Conn) error { panic("in a hook") }
		})
		g.source.set(func(s *fakeSource) {
			s.onIssue = nil
			s.onRevoke = func(context.Context, int, Lease) error { return fmt.Errorf("revoking: %w", ErrDenied) }
		})
		g.w.set(func(w *world) { w.lax, w.kept = true, 2 })
		g.pass(10 * time.Minute)
		look()
		g.closeMayFail = true
		err := g.r.Close(context.Background())
		if err == nil {
			t.Fatal("Close says nothing about leases that it may not revoke")
		}
		leak(t, "Close's error", err)
		synctest.Wait()
		look()
		if text := logged.String(); strings.Contains(text, secretMark) || !strings.Contains(text, "rotat") && !strings.Contains(text, "published") {
			t.Errorf("the log shows a password, or nothing: %s", text)
		}
	})
}
