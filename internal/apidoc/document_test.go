package apidoc_test

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"golang.org/x/net/html"
	"gopkg.in/yaml.v3"

	"github.com/esh3artech/esh3ar/internal/apidoc"
	"github.com/esh3artech/esh3ar/internal/node"
)

// TestDocument holds the document against the OpenAPI 3.1 specification, and what it says in two places against
// each other.
func TestDocument(t *testing.T) {
	meta, err := jsonschema.NewCompiler().Compile("testdata/openapi-3.1.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := meta.Validate(readJSON(t)); err != nil {
		t.Errorf("the document is not as OpenAPI 3.1 wants it: %v", err)
	}
	p := readSpec(t)
	examples := 0
	example := func(schema, v place) {
		examples++
		if err := p.check(schema, v.value); err != nil {
			t.Errorf("%s: the example is none: %v", v.pointer, err)
		}
	}
	p.each(func(l place) {
		if ref, ok := l.value.(map[string]any)["$ref"]; ok && !l.follow().there() {
			t.Errorf("%s: the reference %v leads nowhere", l.pointer, ref)
		}
		schema := l.raw("schema")
		if !schema.there() {
			return
		}
		if _, err := p.schema(schema); err != nil {
			t.Errorf("%s: %v", schema.pointer, err)
		}
		if v := l.raw("example"); v.there() {
			example(schema, v)
		}
		for _, e := range l.raw("examples").members() {
			example(schema, e.get("value"))
		}
	})
	if examples < 60 {
		t.Errorf("%d examples", examples)
	}
	for _, schema := range p.at("components", "schemas").members() {
		if _, err := p.schema(schema); err != nil {
			t.Errorf("%s: %v", schema.pointer, err)
		}
		if ring := circle(schema, nil); ring != nil {
			t.Errorf("schemas refer to themselves: %v", ring)
		}
	}
	for _, o := range p.operations() {
		method, path, _ := strings.Cut(o.name, " ")
		var described []string
		for _, param := range append(p.at("paths", path, "parameters").elements(), p.at("paths", path, strings.ToLower(method), "parameters").elements()...) {
			if param = param.follow(); param.get("in").value == "path" {
				described = append(described, "{"+param.get("name").value.(string)+"}")
			}
		}
		wanted := regexp.MustCompile(`{[^}]*}`).FindAllString(path, -1)
		slices.Sort(described)
		if slices.Sort(wanted); !slices.Equal(described, wanted) {
			t.Errorf("%s: the parameters %v of the path are described", o.name, described)
		}
	}
}

// circle returns the references that lead from a schema back to one on the way to it, nil if there are none.
func circle(l place, way []string) []string {
	var found []string
	l.each(func(l place) {
		ref, ok := l.raw("$ref").value.(string)
		if !ok || found != nil {
			return
		}
		next := append(slices.Clone(way), ref)
		if slices.Contains(way, ref) {
			found = next
			return
		}
		found = circle(l.follow(), next)
	})
	return found
}

// TestSame reads the YAML as any reader does: it says what the JSON says.
func TestSame(t *testing.T) {
	_, text := get(t, apidoc.New(), "/openapi.yaml", nil)
	var v map[string]any
	if err := yaml.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	same, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(same, any(readJSON(t))) {
		t.Error("/openapi.yaml and /openapi.json differ")
	}
}

// TestRoutes compares the document with what a server serves: neither knows a path or a method that the other
// does not.
func TestRoutes(t *testing.T) {
	s := start(t, func(*node.Config) {})
	described := make(map[string][]string)
	for _, o := range s.spec.operations() {
		method, path, _ := strings.Cut(o.name, " ")
		described[path] = append(described[path], method)
		if method == http.MethodGet && !strings.HasPrefix(path, "/hubs/") {
			described[path] = append(described[path], http.MethodHead)
		}
	}
	for path := range described {
		slices.Sort(described[path])
		if served := s.routes[path]; !slices.Equal(served, described[path]) {
			t.Errorf("%s: %v is described, %v is served", path, described[path], served)
		}
	}
	for path, served := range s.routes {
		if described[path] == nil {
			t.Errorf("%s: %v is served and not described", path, served)
		}
	}
	// operationIds are anchors.
	seen := make(map[string]bool)
	for _, o := range s.spec.operations() {
		id, _ := o.node["operationId"].(string)
		if id == "" || seen[id] {
			t.Errorf("%s: the operationId %q is missing or comes twice", o.name, id)
		}
		seen[id] = true
	}
}

// TestProblemsOfOperations compares the problems that the document names with their rows: each is of the status
// that it is named under, and each is named.
func TestProblemsOfOperations(t *testing.T) {
	rows, err := apidoc.Problems()
	if err != nil {
		t.Fatal(err)
	}
	status := make(map[string]int)
	for _, row := range rows {
		status[row.Code] = row.Status
	}
	p := readSpec(t)
	named := map[string]bool{
		"message_too_large":  true,                             // in the result of one message of a batch
		"already_subscribed": true,                             // at the hub
		"invalid":            true,                             // a field's alone
		"no_such_route":      true, "method_not_allowed": true, // on every path
	}
	// A balancer's own, on every path.
	for _, code := range []string{
		"bad_request", "bad_body", "header_timeout", "header_too_large", "bad_transfer_encoding",
		"node_unreachable", "node_failed", "no_node", "node_timeout", "version_not_supported",
	} {
		named[code] = true
	}
	for _, o := range p.operations() {
		for number, r := range o.node["responses"].(map[string]any) {
			r := r.(map[string]any)
			if ref, ok := r["$ref"].(string); ok {
				r = p.follow(ref)
			}
			for _, code := range codesOf(r) {
				if named[code] = true; code != "" && strconv.Itoa(status[code]) != number {
					t.Errorf("%s: %s is named under %s and has the status %d", o.name, code, number, status[code])
				}
			}
		}
	}
	for code := range status {
		if !named[code] {
			t.Errorf("no operation names %s", code)
		}
	}
}

// get returns what the Docs answer.
func get(t *testing.T, d *apidoc.Docs, path string, header http.Header) (*http.Response, []byte) {
	t.Helper()
	req := httptest.NewRequest(http.MethodGet, path, http.NoBody)
	maps.Copy(req.Header, header)
	w := httptest.NewRecorder()
	d.ServeHTTP(w, req)
	resp := w.Result()
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, body
}

// TestPages follows every link of every page: they lead somewhere, and nothing is loaded from elsewhere.
func TestPages(t *testing.T) {
	d := apidoc.New()
	pages := make(map[string]*html.Node)
	var read func(path string)
	read = func(path string) {
		if pages[path] != nil {
			return
		}
		resp, body := get(t, d, path, nil)
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", path, resp.Status)
			return
		}
		if csp := resp.Header.Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none'; style-src 'self';") {
			t.Errorf("%s: Content-Security-Policy: %s", path, csp)
		}
		if !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") {
			pages[path] = new(html.Node)
			return
		}
		page, err := html.Parse(bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		pages[path] = page
		for _, to := range links(page) {
			if strings.HasPrefix(to, "/") {
				file, _, _ := strings.Cut(to, "#")
				read(file)
			}
		}
	}
	read("/docs")
	if len(pages) < 80 {
		t.Errorf("%d pages are linked", len(pages))
	}
	for path, page := range pages {
		for n := range page.Descendants() {
			if n.Type != html.ElementNode {
				continue
			}
			if slices.Contains([]string{"script", "iframe", "object", "embed", "form", "base", "img"}, n.Data) {
				t.Errorf("%s has a %s", path, n.Data)
			}
			for _, a := range n.Attr {
				if a.Key == "style" || a.Key == "src" || strings.HasPrefix(a.Key, "on") {
					t.Errorf("%s: %s=%q", path, a.Key, a.Val)
				}
			}
		}
		for _, to := range links(page) {
			file, anchor, _ := strings.Cut(to, "#")
			switch {
			case strings.HasPrefix(to, "https://"): // to follow, not to load
			case file == "" && anchor != "":
				file = path
				fallthrough
			case strings.HasPrefix(file, "/"):
				if pages[file] == nil || anchor != "" && !hasID(pages[file], anchor) {
					t.Errorf("%s: the link %s leads nowhere", path, to)
				}
			default:
				t.Errorf("%s: the link %q", path, to)
			}
		}
	}
	_, css := get(t, d, "/docs/style.css", nil)
	if regexp.MustCompile(`url\(|@import`).Match(css) {
		t.Error("the style sheet loads something")
	}
}

func links(page *html.Node) []string {
	var list []string
	for n := range page.Descendants() {
		for _, a := range n.Attr {
			if a.Key == "href" {
				list = append(list, a.Val)
			}
		}
	}
	return list
}

func hasID(page *html.Node, id string) bool {
	for n := range page.Descendants() {
		for _, a := range n.Attr {
			if a.Key == "id" && a.Val == id {
				return true
			}
		}
	}
	return false
}

// TestServed shows what clients get besides the bodies.
func TestServed(t *testing.T) {
	d := apidoc.New()
	resp, body := get(t, d, "/openapi.json", nil)
	if !json.Valid(body) || !bytes.HasPrefix(body, []byte("{\n  \"openapi\": \"3.1.0\",\n  \"info\"")) {
		t.Errorf("%.200s", body)
	}
	again, body := get(t, d, "/openapi.json", http.Header{"If-None-Match": {resp.Header.Get("ETag")}})
	if again.StatusCode != http.StatusNotModified || len(body) > 0 {
		t.Errorf("asked again: %s", again.Status)
	}
	resp, body = get(t, d, "/openapi.yaml", nil)
	if resp.Header.Get("Content-Type") != "application/yaml" || !bytes.HasPrefix(body, []byte("openapi: 3.1.0\n")) {
		t.Errorf("%s %.200s", resp.Header.Get("Content-Type"), body)
	}
	_, body = get(t, d, "/docs", nil)
	for _, want := range []string{
		`<article id="sendMessage">`, `curl -X POST &#34;$ESH3AR_URL/v1/messages&#34;`, `-H &#34;Authorization: Bearer $ESH3AR_API_KEY&#34;`,
		`<code>errors[].code</code>`, `<a href="/problems/in-flight">`,
	} {
		if !bytes.Contains(body, []byte(want)) {
			t.Errorf("the page of the API lacks %s", want)
		}
	}
	req := httptest.NewRequest(http.MethodPost, "/docs", http.NoBody)
	w := httptest.NewRecorder()
	if d.ServeHTTP(w, req); w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST /docs: %d", w.Code)
	}
}

// BenchmarkRender measures what the first request waits for.
func BenchmarkRender(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		w := httptest.NewRecorder()
		apidoc.New().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/docs", http.NoBody))
		if w.Code != http.StatusOK {
			b.Fatal(w.Body)
		}
	}
}
