package apidoc_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/apidoc"
	"github.com/esh3artech/esh3ar/internal/node"
	"github.com/esh3artech/esh3ar/internal/store"
	"github.com/esh3artech/esh3ar/internal/store/sqlite"
)

const (
	jwtSecret = "device tokens of these tests are signed with this"
	adminKey  = "esh_admin_of-these-tests"
)

// service is a running server, and the description that each of its answers is held against.
type service struct {
	*testing.T
	url, addr string
	dir       string
	routes    map[string][]string
	keys      map[string]string // API keys by what they are for
	http      *http.Client
	spec      *spec
	problems  map[string]apidoc.Problem
}

// start runs a server until the test ends. Its clients are there before it is.
func start(t *testing.T, change func(*node.Config)) *service {
	t.Helper()
	cfg := node.DefaultConfig()
	cfg.Listen, cfg.Data, cfg.JWTSecret, cfg.AdminKey = "127.0.0.1:0", t.TempDir(), jwtSecret, adminKey
	change(&cfg)
	s := &service{T: t, dir: cfg.Data, keys: seed(t, cfg.Data), http: &http.Client{Transport: &http.Transport{}}, spec: readSpec(t)}
	s.problems = make(map[string]apidoc.Problem)
	rows, err := apidoc.Problems()
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range rows {
		s.problems[row.Code] = row
	}
	n, err := node.New(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	t.Cleanup(func() {
		s.http.CloseIdleConnections()
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(time.Minute):
			t.Error("the server does not stop")
		}
	})
	s.addr, s.routes = n.Info().Addr, n.Routes()
	s.url = "http://" + s.addr
	s.keys["full"], s.keys["admin"] = n.Info().DevKey, adminKey
	return s
}

// seed stores the clients of the tests and returns their keys.
func seed(t *testing.T, dir string) map[string]string {
	t.Helper()
	db, err := sqlite.Open(t.Context(), filepath.Join(dir, "esh3ar.db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	now := time.Now()
	keys := make(map[string]string)
	for name, c := range map[string]esh3ar.Client{
		"reader":    {Scopes: esh3ar.ScopeRead},
		"sender":    {Scopes: esh3ar.ScopeSend, Recipients: "+962*"},
		"suspended": {Scopes: esh3ar.AllScopes, Suspended: true},
		"revoked":   {Scopes: esh3ar.AllScopes},
		"expired":   {Scopes: esh3ar.AllScopes},
		"many":      {Scopes: esh3ar.AllScopes},
		"rated":     {Scopes: esh3ar.ScopeSend, Rate: 1, Burst: 2},
		"rationed":  {Scopes: esh3ar.ScopeSend, DailyQuota: 3},
	} {
		c.ID, c.Name, c.Tier, c.CreatedAt = name, name, esh3ar.TierSilver, now
		e := store.AuditEntry{At: now, Actor: "admin", Action: "client.create", Client: name, Object: name}
		if _, err := db.PutClient(t.Context(), c, e); err != nil {
			t.Fatal(err)
		}
		secret := esh3ar.NewKey()
		k := esh3ar.APIKey{ID: esh3ar.KeyID(secret), Hash: esh3ar.HashKey(secret), Client: name, Hint: esh3ar.KeyHint(secret), CreatedAt: now}
		switch name {
		case "revoked":
			k.RevokedAt = now
		case "expired":
			k.CreatedAt, k.ExpiresAt = now.Add(-time.Hour), now.Add(-time.Minute)
		}
		if err := db.PutKeys(t.Context(), []esh3ar.APIKey{k}, e); err != nil {
			t.Fatal(err)
		}
		keys[name] = secret
	}
	return keys
}

// request is one call of the API.
type request struct {
	method, path string
	body         string
	key          string // which API key; "" is one that may do everything, "-" none
	header       http.Header
	from         string // the address to call from, "" for any
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   []byte
	code   string // of a problem, else ""
}

// into decodes the answer.
func (a *answer) into(t testing.TB, v any) {
	t.Helper()
	if err := json.Unmarshal(a.body, v); err != nil {
		t.Fatalf("%v in %s", err, a.body)
	}
}

// call makes a request, holds the answer against the description and fails the test unless its status is that
// one and it is that problem ("" for none).
func (s *service) call(q request, status int, code string) answer {
	s.Helper()
	req, err := http.NewRequestWithContext(s.Context(), q.method, s.url+q.path, strings.NewReader(q.body))
	if err != nil {
		s.Fatal(err)
	}
	switch key := s.keys[q.key]; {
	case q.key == "-":
	case q.key == "":
		req.Header.Set("Authorization", "Bearer "+s.keys["full"])
	case key == "":
		req.Header.Set("Authorization", q.key)
	default:
		req.Header.Set("Authorization", "Bearer "+key)
	}
	if q.body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for name, values := range q.header {
		req.Header[name] = values
	}
	c := s.http
	if q.from != "" {
		tr := &http.Transport{DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(q.from)}}).DialContext}
		defer tr.CloseIdleConnections()
		c = &http.Client{Transport: tr}
	}
	resp, err := c.Do(req)
	if err != nil {
		s.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		s.Fatal(err)
	}
	return s.judge(req, q.body, resp, body, status, code)
}

// judge holds an answer against the description.
func (s *service) judge(req *http.Request, sent string, resp *http.Response, body []byte, status int, code string) answer {
	s.Helper()
	a := answer{status: resp.StatusCode, header: resp.Header, body: body}
	what := fmt.Sprintf("%s %s", req.Method, req.URL.RequestURI())
	if req.Method != http.MethodHead && strings.HasPrefix(resp.Header.Get("Content-Type"), "application/problem+json") {
		a.code = s.problem(what, resp.StatusCode, body)
	}
	if a.status != status || a.code != code {
		s.Errorf("%s: %d %s, want %d %s: %.300s", what, a.status, a.code, status, code, body)
		return a
	}
	op, declared := s.spec.operation(req)
	if op == nil || req.Method == http.MethodHead {
		return a
	}
	s.spec.seen[key{declared.response(status), code}] = true
	if err := s.spec.checkAnswer(declared, resp, body); err != nil {
		s.Errorf("%s: the answer %d is not as described: %v: %.300s", what, status, err, body)
	}
	if status < 300 && status != http.StatusMultiStatus && strings.HasPrefix(req.URL.Path, "/v1/") {
		if err := s.spec.checkRequest(declared, req, []byte(sent)); err != nil {
			s.Errorf("%s: a request that is served is not as described: %v", what, err)
		}
	}
	return a
}

// document is a problem document.
type document struct {
	Type, Title, Detail, Code string
	Status                    int
	Permanent                 bool
	Errors                    []struct{ Pointer, Parameter, Code, Detail string }
}

// problem checks a problem document against its row and returns its code.
func (s *service) problem(what string, status int, body []byte) string {
	s.Helper()
	var d document
	if err := json.Unmarshal(body, &d); err != nil {
		s.Errorf("%s: %v in %s", what, err, body)
		return ""
	}
	s.told(what, status, &d)
	return d.Code
}

// told checks what a problem document says against the rows.
func (s *service) told(what string, status int, d *document) {
	s.Helper()
	row, ok := s.problems[d.Code]
	if !ok {
		s.Errorf("%s: there is no page for the problem %q", what, d.Code)
		return
	}
	if d.Status != status || row.Status != status || d.Title != row.Title || d.Permanent != row.Permanent || d.Type != "/problems/"+row.Slug() {
		s.Errorf("%s: HTTP %d with %+v, described as %+v", what, status, *d, row)
	}
	for _, e := range d.Errors {
		if _, ok := s.problems[e.Code]; !ok {
			s.Errorf("%s: there is no page for the problem %q of a field", what, e.Code)
		}
	}
}

// raw sends a request whose body is shorter than announced, and returns the answer, which is judged like
// others. Shut says that nothing more will be sent.
func (s *service) raw(q request, shut bool, status int, code string) {
	s.Helper()
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		s.Fatal(err)
	}
	defer conn.Close()
	secret := s.keys["full"]
	if q.key != "" {
		secret = s.keys[q.key]
	}
	// With an Origin net/http serves it, whatever it is.
	fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: esh3ar\r\nOrigin: https://a.example\r\nAuthorization: Bearer %s\r\n"+
		"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", q.method, q.path, secret, len(q.body)+100, q.body)
	if shut {
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			s.Fatal(err)
		}
	}
	req, err := http.NewRequest(q.method, s.url+q.path, http.NoBody)
	if err != nil {
		s.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), req)
	if err != nil {
		s.Fatalf("%s %s: %v", q.method, q.path, err)
	}
	defer resp.Body.Close()
	answered, err := io.ReadAll(resp.Body)
	if err != nil {
		s.Fatal(err)
	}
	s.judge(req, "", resp, answered, status, code)
}

// await repeats ask until it says yes.
func (s *service) await(what string, ask func() bool) {
	s.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ask() {
		select {
		case <-tick.C:
		case <-deadline.C:
			s.Fatalf("waiting for %s: too long", what)
		}
	}
}
