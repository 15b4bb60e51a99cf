// Package apidoc is the API's description: the OpenAPI document (openapi.yaml, kept by hand), the pages made
// of it, and a page for every problem (problems.yaml). Tests hold both against a real server, so whoever adds
// a route or a problem is told what to describe. All is rendered once; no page needs a script or anything from
// elsewhere.
package apidoc

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"net/http"
	"sync"
	"time"
)

//go:embed openapi.yaml
var openAPIYAML []byte

//go:embed style.css
var styleCSS []byte

// Docs serves the description. It has nothing to close.
type Docs struct {
	// load makes everything at the first request, some 60 ms of work that a start should not wait for.
	load func() (*http.ServeMux, error)
}

// New returns the Docs.
func New() *Docs { return &Docs{load: sync.OnceValues(render)} }

// Patterns returns the paths that the Docs serves, as http.ServeMux takes them. All take GET and HEAD.
func (d *Docs) Patterns() []string {
	return []string{"/docs", "/docs/style.css", "/openapi.json", "/openapi.yaml", "/problems", "/problems/{problem}"}
}

// ServeHTTP implements http.Handler. It answers 500 if what is embedded is faulty, which the tests rule out.
func (d *Docs) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	mux, err := d.load()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	mux.ServeHTTP(w, r)
}

// render reads the description, renders its pages and returns what serves them.
func render() (*http.ServeMux, error) {
	spec, err := parseYAML(openAPIYAML)
	if err != nil {
		return nil, fmt.Errorf("apidoc: openapi.yaml: %w", err)
	}
	asJSON, err := spec.indented()
	if err != nil {
		return nil, fmt.Errorf("apidoc: openapi.yaml: %w", err)
	}
	problems, err := Problems()
	if err != nil {
		return nil, err
	}
	p, err := newPages(spec, problems)
	if err != nil {
		return nil, fmt.Errorf("apidoc: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /openapi.yaml", newPage("application/yaml", openAPIYAML))
	mux.Handle("GET /openapi.json", newPage("application/json", []byte(asJSON+"\n")))
	mux.Handle("GET /docs/style.css", newPage("text/css; charset=utf-8", styleCSS))
	mux.Handle("GET /docs", newPage(html, p.docs))
	mux.Handle("GET /problems", newPage(html, p.index))
	unknown := newPage(html, p.unknown)
	mux.HandleFunc("GET /problems/{problem}", func(w http.ResponseWriter, r *http.Request) {
		if one := p.problems[r.PathValue("problem")]; one != nil {
			one.ServeHTTP(w, r)
			return
		}
		unknown.refuse(w, http.StatusNotFound)
	})
	return mux, nil
}

const html = "text/html; charset=utf-8"

// policy lets a page use the style sheet of this server and nothing else.
const policy = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// page is an answer that never changes.
type page struct {
	media, etag string
	body        []byte
}

func newPage(media string, body []byte) *page {
	sum := sha256.Sum256(body)
	return &page{media: media, etag: `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`, body: body}
}

func (p *page) header(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", p.media)
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-cache") // which is: ask whether it has changed
}

// ServeHTTP implements http.Handler.
func (p *page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.header(w)
	w.Header().Set("ETag", p.etag)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(p.body))
}

// refuse answers with the page and that status.
func (p *page) refuse(w http.ResponseWriter, status int) {
	p.header(w)
	w.WriteHeader(status)
	_, _ = w.Write(p.body) // fails only if the client has gone
}
