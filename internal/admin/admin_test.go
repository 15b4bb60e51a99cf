package admin

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
	"github.com/esh3artech/esh3ar/internal/store/sqlite"
)

// world is an admin API over a store, with a clock that the test sets.
type world struct {
	*testing.T
	store   *sqlite.Store
	mux     *http.ServeMux
	mu      sync.Mutex
	now     time.Time
	forgot  [][32]byte
	refused error // of the last request
}

func newWorld(t *testing.T) *world {
	t.Helper()
	s, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "test.db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	w := &world{T: t, store: s, now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	w.serve(s)
	return w
}

// serve has the routes served over that store.
func (w *world) serve(s Store) {
	api := New(Options{
		Store: s, Now: func() time.Time { w.mu.Lock(); defer w.mu.Unlock(); return w.now },
		ForgetKey: func(hash [32]byte) { w.mu.Lock(); defer w.mu.Unlock(); w.forgot = append(w.forgot, hash) },
	})
	w.mux = http.NewServeMux()
	for _, route := range api.Routes() {
		w.mux.HandleFunc(route.Pattern, func(rw http.ResponseWriter, r *http.Request) {
			if !slices.Contains(route.Methods, r.Method) && r.Method != http.MethodHead {
				w.Errorf("%s %s is not a route's", r.Method, r.URL)
				return
			}
			if err := route.Serve(rw, r); err != nil {
				w.mu.Lock()
				w.refused = err
				w.mu.Unlock()
				rw.WriteHeader(http.StatusTeapot)
			}
		})
	}
}

// reply is what a request got: a status with a body, or an error.
type reply struct {
	status int
	header http.Header
	body   string
	err    error
}

func (w *world) do(method, path, body string, headers ...string) reply {
	w.Helper()
	r := httptest.NewRequestWithContext(w.Context(), method, path, strings.NewReader(body))
	r.RemoteAddr = "192.0.2.1:1234"
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w.mu.Lock()
	w.refused = nil
	w.mu.Unlock()
	rw := httptest.NewRecorder()
	w.mux.ServeHTTP(rw, r)
	b, err := io.ReadAll(rw.Result().Body)
	if err != nil {
		w.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return reply{rw.Code, rw.Result().Header, strings.TrimSpace(string(b)), w.refused}
}

// want does a request that must succeed, and decodes its answer into v unless that is nil.
func (w *world) want(status int, v any, method, path, body string, headers ...string) reply {
	w.Helper()
	a := w.do(method, path, body, headers...)
	if a.err != nil || a.status != status {
		w.Fatalf("%s %s %s: %d %s, error %v", method, path, body, a.status, a.body, a.err)
	}
	if v != nil {
		if err := json.Unmarshal([]byte(a.body), v); err != nil {
			w.Fatalf("%s: %v", a.body, err)
		}
	}
	return a
}

// wantError does a request that must be refused so.
func (w *world) wantError(kind esh3ar.Kind, code, method, path, body string, headers ...string) *esh3ar.Error {
	w.Helper()
	a := w.do(method, path, body, headers...)
	var e *esh3ar.Error
	if !errors.As(a.err, &e) || e.Kind != kind || e.Code != code {
		w.Errorf("%s %s %s: %d %s, error %v, want %s", method, path, body, a.status, a.body, a.err, code)
		return new(esh3ar.Error)
	}
	return e
}

// wantFaults does a request that must be refused with these faults, as "pointer code".
func (w *world) wantFaults(method, path, body string, want ...string) {
	w.Helper()
	a := w.do(method, path, body)
	var faults esh3ar.Faults
	if !errors.As(a.err, &faults) {
		w.Errorf("%s %s %s: %d %s, error %v", method, path, body, a.status, a.body, a.err)
		return
	}
	var got []string
	for _, f := range faults {
		got = append(got, f.Pointer+" "+f.Code)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		w.Errorf("%s %s %s: faults %q, want %q", method, path, body, got, want)
	}
}

// audited returns the newest entry of the audit log.
func (w *world) audited() store.AuditEntry {
	w.Helper()
	list, err := w.store.Audited(w.Context(), store.AuditQuery{Limit: 1})
	if err != nil || len(list) != 1 {
		w.Fatalf("audit log: %+v, %v", list, err)
	}
	if e := list[0]; e.Actor != "admin" || e.Address != "192.0.2.1" || !e.At.Equal(w.now) {
		w.Errorf("entry %+v", e)
	}
	return list[0]
}

func (w *world) tick(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func TestClients(t *testing.T) {
	w := newWorld(t)
	if a := w.want(200, nil, "GET", "/v1/admin/clients", ""); a.body != `{"clients":[]}` {
		t.Errorf("%s", a.body)
	}
	var c client
	a := w.want(201, &c, "POST", "/v1/admin/clients", `{"id":"shop"}`)
	want := client{
		ID: "shop", Name: "shop", Tier: "silver", Scopes: []string{"send", "read", "dead-letters", "webhooks"}, CreatedAt: stamp{w.now},
	}
	if asText(c) != asText(want) || a.header.Get("Location") != "/v1/admin/clients/shop" || a.header.Get("ETag") != `"1"` || a.header.Get("Cache-Control") != "no-store" {
		t.Errorf("%+v, header %v", c, a.header)
	}
	if e := w.audited(); e.Action != "client.create" || e.Client != "shop" || e.Object != "shop" || string(e.Detail) != a.body {
		t.Errorf("%+v", e)
	}
	// The same again is the same client; another one is not.
	w.tick(time.Second)
	if b := w.want(200, nil, "POST", "/v1/admin/clients", `{"id":"shop","tier":"silver"}`); b.body != a.body {
		t.Errorf("%s", b.body)
	}
	w.wantError(esh3ar.KindConflict, "client_exists", "POST", "/v1/admin/clients", `{"id":"shop","tier":"gold"}`)

	a = w.want(200, &c, "PATCH", "/v1/admin/clients/shop",
		`{"name":"متجر","tier":"gold","rate":10,"burst":20,"daily_quota":1000,"recipients":" +962*   shop-* ","scopes":["send"],"suspended":true}`)
	want = client{
		ID: "shop", Name: "متجر", Tier: "gold", Rate: 10, Burst: 20, DailyQuota: 1000, Recipients: "+962* shop-*",
		Scopes: []string{"send"}, Suspended: true, CreatedAt: c.CreatedAt,
	}
	if asText(c) != asText(want) || a.header.Get("ETag") != `"2"` {
		t.Errorf("%+v, header %v", c, a.header)
	}
	if e := w.audited(); e.Action != "client.update" || !strings.Contains(string(e.Detail), `"rate":[0,10]`) || strings.Contains(string(e.Detail), "created_at") {
		t.Errorf("%+v", e)
	}
	if b := w.want(200, nil, "GET", "/v1/admin/clients/shop", ""); b.body != a.body || b.header.Get("ETag") != `"2"` {
		t.Errorf("%s", b.body)
	}
	// A change of nothing is none.
	w.tick(time.Second)
	if b := w.want(200, nil, "PATCH", "/v1/admin/clients/shop", `{"tier":"gold"}`); b.header.Get("ETag") != `"2"` {
		t.Errorf("%v", b.header)
	}
	if b := w.want(200, nil, "PATCH", "/v1/admin/clients/shop", ""); b.body != a.body {
		t.Errorf("%s", b.body)
	}
	// null is what stands for a client of which nothing is said.
	w.want(200, &c, "PATCH", "/v1/admin/clients/shop",
		`{"name":null,"tier":null,"rate":null,"burst":null,"daily_quota":null,"recipients":null,"scopes":null,"suspended":null}`, "If-Match", `"2"`)
	want = client{ID: "shop", Name: "shop", Tier: "silver", Scopes: esh3ar.DefaultScopes.Names(), CreatedAt: c.CreatedAt}
	if asText(c) != asText(want) {
		t.Errorf("%+v", c)
	}
	w.wantError(esh3ar.KindStale, "client_changed", "PATCH", "/v1/admin/clients/shop", `{"rate":1}`, "If-Match", `"2"`)
	w.want(200, nil, "PATCH", "/v1/admin/clients/shop", `{"rate":1}`, "If-Match", `*`)

	w.want(204, nil, "DELETE", "/v1/admin/clients/shop", "")
	if e := w.audited(); e.Action != "client.delete" || e.Object != "shop" {
		t.Errorf("%+v", e)
	}
	w.wantError(esh3ar.KindNotFound, "client_not_found", "DELETE", "/v1/admin/clients/shop", "")
	w.wantError(esh3ar.KindNotFound, "client_not_found", "GET", "/v1/admin/clients/shop", "")
	w.wantError(esh3ar.KindNotFound, "client_not_found", "PATCH", "/v1/admin/clients/shop", `{"rate":1}`)
	w.wantError(esh3ar.KindConflict, "client_exists", "POST", "/v1/admin/clients", `{"id":"shop"}`)
}

func asText(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func TestBadClients(t *testing.T) {
	w := newWorld(t)
	w.want(201, nil, "POST", "/v1/admin/clients", `{"id":"shop","rate":5,"burst":5}`)
	const clients, shop = "/v1/admin/clients", "/v1/admin/clients/shop"
	w.wantFaults("POST", clients, `{}`, "/id bad_client_id", "/name bad_name")
	w.wantFaults("POST", clients, `{"id":"A/b","tier":"platinum","rate":-1,"burst":"many","daily_quota":1.5,"recipients":5,"scopes":"send","suspended":1,"x~/":0}`,
		"/burst wrong_type", "/daily_quota wrong_type", "/id bad_client_id", "/rate out_of_range", "/recipients wrong_type",
		"/scopes wrong_type", "/suspended wrong_type", "/tier unknown_tier", "/x~0~1 unknown_field")
	w.wantFaults("POST", clients, `{"id":"a","id":"b","scopes":["send","admin"]}`, "/id duplicate_field", "/scopes unknown_scope")
	w.wantFaults("POST", clients, `{"id":"a","scopes":[`+strings.Repeat(`"send",`, 40)+`"read"]}`, "/scopes list_too_long")
	w.wantFaults("POST", clients, `{"id":"a","recipients":"`+strings.Repeat("a ", 40)+`"}`, "/recipients recipients_too_long")
	w.wantFaults("POST", clients, `{"id":"a","rate":1e400}`, "/rate wrong_type")
	w.wantFaults("PATCH", shop, `{"id":"other"}`, "/id unknown_field")
	w.wantFaults("PATCH", shop, `{"tier":"","rate":-5,"recipients":"0049*"}`, "/rate out_of_range", "/recipients bad_recipients", "/tier unknown_tier")
	w.wantFaults("PATCH", shop, `{"rate":0}`, "/burst burst_without_rate")
	for body, code := range map[string]string{
		`{`: "malformed_json", `{"id":"a"} {}`: "malformed_json", `[]`: "not_an_object", `null`: "not_an_object", `"a"`: "not_an_object",
		"{\"id\":\"\xff\"}": "invalid_utf8",
	} {
		w.wantError(esh3ar.KindInvalid, code, "POST", clients, body)
	}
	w.wantError(esh3ar.KindTooLarge, "body_too_large", "POST", clients, `{"id":"a","name":"`+strings.Repeat("n", maxBody)+`"}`)
	var many strings.Builder
	for i := range 100 {
		many.WriteString(strings.Repeat(",", min(i, 1)) + `"x` + strings.Repeat("y", i) + `":0`)
	}
	var faults esh3ar.Faults
	if a := w.do("POST", clients, "{"+many.String()+"}"); !errors.As(a.err, &faults) || len(faults) > maxFaults+2 {
		t.Errorf("%d faults are told", len(faults))
	}
	w.wantFaults("GET", clients+"?limit=0&cursor=x&offset=5", "", "cursor bad_cursor", "limit bad_limit", "offset unknown_parameter")
	w.wantFaults("GET", clients+"?limit=1&limit=2", "", "limit duplicate_parameter")
	w.wantError(esh3ar.KindInvalid, "malformed_query", "GET", clients+"?limit=%zz", "")
	w.wantFaults("DELETE", shop, `{"force":true}`, "/force unknown_field")
	if list, err := w.store.Audited(t.Context(), store.AuditQuery{Limit: 10}); err != nil || len(list) != 1 {
		t.Errorf("audit log: %+v, %v", list, err)
	}
}

func TestListingClients(t *testing.T) {
	w := newWorld(t)
	var want []string
	for _, id := range []string{"e", "a", "d", "b", "c"} {
		w.want(201, nil, "POST", "/v1/admin/clients", `{"id":"`+id+`"}`)
		want = append(want, id)
	}
	slices.Sort(want)
	for _, limit := range []string{"1", "2", "4", "5", "6", "200", ""} {
		var got []string
		for cursor := "&cursor="; ; {
			var page struct {
				Clients []client `json:"clients"`
				Next    string   `json:"next_cursor"`
			}
			w.want(200, &page, "GET", "/v1/admin/clients?limit="+limit+cursor, "")
			for _, c := range page.Clients {
				got = append(got, c.ID)
			}
			if page.Next == "" {
				break
			}
			cursor = "&cursor=" + page.Next
		}
		if !slices.Equal(got, want) {
			t.Errorf("by %s: %v", limit, got)
		}
	}
}

// TestChangesRace: of changes to different fields at one time none is lost.
func TestChangesRace(t *testing.T) {
	w := newWorld(t)
	w.want(201, nil, "POST", "/v1/admin/clients", `{"id":"shop"}`)
	api := New(Options{Store: w.store, ForgetKey: func([32]byte) {}})
	var serve func(http.ResponseWriter, *http.Request) error
	for _, r := range api.Routes() {
		if r.Pattern == "/v1/admin/clients/{client}" {
			serve = r.Serve
		}
	}
	bodies := []string{`{"rate":7}`, `{"daily_quota":8}`, `{"name":"n"}`, `{"tier":"gold"}`}
	var all sync.WaitGroup
	for _, body := range bodies {
		all.Go(func() {
			r := httptest.NewRequest("PATCH", "/v1/admin/clients/shop", strings.NewReader(body))
			r.SetPathValue("client", "shop")
			if err := serve(httptest.NewRecorder(), r); err != nil {
				t.Errorf("%s: %v", body, err)
			}
		})
	}
	all.Wait()
	c, err := w.store.Client(t.Context(), "shop")
	if err != nil || c.Rate != 7 || c.DailyQuota != 8 || c.Name != "n" || c.Tier != esh3ar.TierGold || c.Revision != 1+int64(len(bodies)) {
		t.Errorf("%+v, %v", c, err)
	}
}
