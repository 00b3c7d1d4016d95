package rotationhttp

import (
	"context"
	"encoding/json"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/vaultpool/vaultpool/rotation"
	"github.com/vaultpool/vaultpool/rotation/internal/asker"
)

// Config says what a Handler shows. The zero value is useful.
type Config struct {
	// Title is the page's. Default "Database credentials".
	Title string
	// AllowRotate enables POST /rotate and the page's button for it. Whoever reaches the
	// handler may then have a credential issued. Default: nothing can be changed.
	AllowRotate bool
	// StallTimeout is how long the rotator's loop may take to answer before it counts as
	// stalled. It answers within microseconds unless the process gets no processor.
	// Default 500 ms, less than the second that Kubernetes gives a probe.
	StallTimeout time.Duration
}

func (c Config) withDefaults() Config {
	if c.Title == "" {
		c.Title = "Database credentials"
	}
	if c.StallTimeout <= 0 {
		c.StallTimeout = 500 * time.Millisecond
	}
	return c
}

// Handler serves, below any path (with [http.StripPrefix]; links are relative):
//
//	/             the status page
//	/status       a [Report] as JSON; also /status.json
//	/healthz      200 while the rotator's loop is alive, else 503
//	/readyz       200 with "ready" or "degraded", 503 where no login is possible
//	POST /rotate  replaces the credential, if Config.AllowRotate is set
//
// The checks answer in text, and in JSON to a request that accepts application/json.
//
// It listens to the rotator's events from here on: make it right after the rotator,
// and one for each. What it holds is let go when the rotator is closed; there
// is nothing to close here. Afterwards all of it goes on answering, and says that it is closed.
func Handler(r *rotation.Rotator, config Config) http.Handler { return newHandler(r, config) }

// rotator is what is needed of a rotation.Rotator.
type rotator interface {
	Status() rotation.Status
	Subscribe(f func(rotation.Event)) (cancel func())
	Rotate(ctx context.Context) error
}

type handler struct {
	config  Config
	asker   *asker.Asker
	journal *journal
	routes  map[string]route
	rotates *rotates
}

// route is what a path allows and does.
type route struct {
	method string // "GET" allows HEAD too
	serve  http.HandlerFunc
}

func newHandler(r rotator, config Config) *handler {
	h := &handler{config: config.withDefaults(), journal: newJournal()}
	h.asker = asker.New(r.Status, h.config.StallTimeout)
	h.rotates = &rotates{rotate: r.Rotate, allowed: h.config.AllowRotate, report: h.report}
	h.routes = map[string]route{
		"/":            {http.MethodGet, page(h.config)},
		"/status":      {http.MethodGet, h.status},
		"/status.json": {http.MethodGet, h.status},
		"/healthz":     {http.MethodGet, h.healthz},
		"/readyz":      {http.MethodGet, h.readyz},
		"/rotate":      {http.MethodPost, h.rotates.serve},
	}
	for name, asset := range assets {
		h.routes["/"+name] = route{http.MethodGet, asset.serve}
	}
	r.Subscribe(h.journal.add) // ends with the rotator
	return h
}

// policy lets the page use its own files and nothing else. The icon is in the page.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// ServeHTTP serves what Handler lists.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Content-Security-Policy", policy)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cache-Control", "no-store")
	if r.URL.Path == "" { // the prefix without its slash, below which relative links would not hold
		asked, _, _ := strings.Cut(r.RequestURI, "?")
		header.Set("Location", "./"+path.Base(asked)+"/")
		w.WriteHeader(http.StatusPermanentRedirect)
		return
	}
	to, known := h.routes[r.URL.Path]
	if !known {
		http.NotFound(w, r)
		return
	}
	if r.Method != to.method && (r.Method != http.MethodHead || to.method != http.MethodGet) {
		header.Set("Allow", to.method)
		http.Error(w, "this is for "+to.method+" requests", http.StatusMethodNotAllowed)
		return
	}
	to.serve(w, r)
}

func (h *handler) status(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, h.report())
}

// healthz asks whether a restart would help: only if the loop is gone.
func (h *handler) healthz(w http.ResponseWriter, r *http.Request) {
	report := h.report()
	code, text := http.StatusOK, "alive"
	if report.State == Stalled || report.State == Closed {
		code, text = http.StatusServiceUnavailable, string(report.State)
	}
	writeCheck(w, r, code, text, nil)
}

// readyz asks whether logins are possible.
func (h *handler) readyz(w http.ResponseWriter, r *http.Request) {
	report := h.report()
	code := http.StatusOK
	if !report.State.serves() {
		code = http.StatusServiceUnavailable
	}
	writeCheck(w, r, code, string(report.State), report.Reasons)
}

// check is the JSON of /healthz and /readyz.
type check struct {
	Status  string   `json:"status"`
	Reasons []string `json:"reasons,omitempty"`
}

// writeCheck answers with a word on a line, and what it is for on those that follow.
func writeCheck(w http.ResponseWriter, r *http.Request, code int, text string, reasons []string) {
	if strings.Contains(r.Header.Get("Accept"), "application/json") {
		writeJSON(w, code, check{text, reasons})
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(strings.Join(append([]string{text}, reasons...), "\n") + "\n"))
}

// writeJSON answers with a value that can be encoded.
func writeJSON(w http.ResponseWriter, code int, value any) {
	body, err := json.MarshalIndent(value, "", "  ")
	if err != nil { // no type here is one that fails
		http.Error(w, "encoding the answer: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(append(body, '\n'))
}
