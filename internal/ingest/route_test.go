package ingest

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/esh3artech/esh3ar"
)

// goneError is an error whose problem has a member more.
type goneError struct{ err *esh3ar.Error }

func (e goneError) Error() string                       { return e.err.Error() }
func (e goneError) Unwrap() error                       { return e.err }
func (e goneError) ProblemMember() (name, value string) { return "oldest_cursor", `c"1` }

func TestRoutesOfOthers(t *testing.T) {
	s := newService(t, func(o *Options) {
		o.Routes = []Route{{Pattern: "/v1/things", Methods: []string{http.MethodGet, http.MethodHead},
			Serve: func(w http.ResponseWriter, r *http.Request, who Caller) error {
				switch r.URL.RawQuery {
				case "gone":
					return goneError{esh3ar.Errorf(esh3ar.KindGone, "cursor_expired", "gone")}
				case "panic":
					panic("a defect")
				}
				if err := who.Check(r.Context()); err != nil {
					return err
				}
				_, err := w.Write([]byte(who.Client.ID))
				return err
			}}}
	})
	if a := s.do("GET", "/v1/things", ""); a.status != http.StatusOK || a.body != "alice" {
		t.Errorf("%+v", a)
	}
	if a := s.do("GET", "/v1/things", "", "Authorization", "Bearer "+bobKey); a.body != "bob" {
		t.Errorf("%+v", a)
	}
	for _, key := range []string{"", "Bearer " + revokedKey, "Bearer nobody", "Basic x"} {
		if a := s.do("GET", "/v1/things", "", "Authorization", key); a.status != http.StatusUnauthorized || a.header.Get("WWW-Authenticate") == "" {
			t.Errorf("%q: %+v", key, a)
		}
	}
	if a := s.do("POST", "/v1/things", "{}"); a.status != http.StatusMethodNotAllowed || a.header.Get("Allow") != "GET, HEAD" {
		t.Errorf("%+v", a)
	}
	if a := s.do("GET", "/v1/things/1", ""); a.status != http.StatusNotFound {
		t.Errorf("%+v", a)
	}
	if a := s.do("GET", "/v1/things?panic", ""); a.status != http.StatusInternalServerError || strings.Contains(a.body, "defect") {
		t.Errorf("%+v", a)
	}
	a := s.do("GET", "/v1/things?gone", "")
	var p map[string]any
	if err := json.Unmarshal([]byte(a.body), &p); err != nil || a.status != http.StatusGone || p["oldest_cursor"] != `c"1` || p["code"] != "cursor_expired" {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestCaller(t *testing.T) {
	s := newService(t)
	if who, err := s.api.Caller(t.Context(), "", bobKey, esh3ar.ScopeRead); err != nil || who.Client.ID != "bob" {
		t.Errorf("%+v, %v", who, err)
	}
	for key, want := range map[string]string{
		"": "api_key_missing", revokedKey: "api_key_revoked", "nobody": "api_key_unknown", strings.Repeat("x", 10_000): "api_key_unknown",
	} {
		if _, err := s.api.Caller(t.Context(), "", key, 0); code(err) != want {
			t.Errorf("%.20s: %v, want %s", key, err, want)
		}
	}
}

func TestCallerLosesTheKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table, hash := newKeyTable(), esh3ar.HashKey("k")
		table.clients[hash] = esh3ar.Client{ID: "alice"}
		k := newKeyring(table, time.Second, time.Now)
		who, err := k.holder(t.Context(), hash, "", 0)
		if err != nil {
			t.Fatal(err)
		}
		table.fault = context.DeadlineExceeded
		time.Sleep(time.Minute)
		if err := who.Check(t.Context()); err != nil {
			t.Errorf("while the keys cannot be looked up: %v", err)
		}
		table.fault, table.revoked[hash] = nil, true
		time.Sleep(time.Second)
		if err := who.Check(t.Context()); code(err) != "api_key_revoked" {
			t.Errorf("a second after the revocation: %v", err)
		}
	})
}
