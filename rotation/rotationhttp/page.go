package rotationhttp

import (
	"bytes"
	_ "embed" // the page
	"html/template"
	"net/http"
	"time"
)

var (
	//go:embed assets/index.html
	indexHTML string
	//go:embed assets/status.css
	statusCSS []byte
	//go:embed assets/status.js
	statusJS []byte
)

var index = template.Must(template.New("index.html").Parse(indexHTML))

// assets are what the page loads.
var assets = map[string]asset{
	"status.css": {"text/css; charset=utf-8", statusCSS},
	"status.js":  {"text/javascript; charset=utf-8", statusJS},
}

type asset struct {
	kind string
	body []byte
}

func (a asset) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", a.kind)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(a.body))
}

// page is the page of one handler: only its title and its button differ.
func page(config Config) http.HandlerFunc {
	var body bytes.Buffer
	if err := index.Execute(&body, config); err != nil { // it is ours, and so are the fields it names
		return func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "making the page: "+err.Error(), http.StatusInternalServerError)
		}
	}
	return asset{"text/html; charset=utf-8", body.Bytes()}.serve
}
