package client_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar/client"
)

// operate starts a server for the test, whose script answers the n-th request, n ≥ 1, and returns an Admin
// of it that repeats without much waiting.
func operate(t *testing.T, script func(n int, w http.ResponseWriter, r *http.Request, body string)) *client.Admin {
	t.Helper()
	n := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if got := r.Header.Get("Authorization"); got != "Bearer the-admin-key" {
			t.Errorf("authorization %q", got)
		}
		n++
		script(n, w, r, string(body))
	}))
	a, err := client.NewAdmin(srv.URL, "the-admin-key", client.WithRetry(client.RetryPolicy{Attempts: 3, Base: time.Millisecond, Max: time.Millisecond}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		a.Close()
		srv.Close()
	})
	return a
}

// want fails the test unless a request is that one.
func want(t *testing.T, r *http.Request, body, wantRequest, wantBody string) {
	t.Helper()
	if got := r.Method + " " + r.URL.RequestURI(); got != wantRequest || body != wantBody {
		t.Errorf("request %s %s, want %s %s", got, body, wantRequest, wantBody)
	}
}

func code(err error) string {
	if p, ok := errors.AsType[*client.Problem](err); ok {
		return p.Code
	}
	return ""
}

func TestAdminTenants(t *testing.T) {
	shop := map[string]any{"id": "shop", "name": "Shop", "tier": "gold", "rate": 7, "burst": 8, "daily_quota": 9, "recipients": "+962*",
		"scopes": []string{"send"}, "suspended": true, "created_at": "2026-03-01T12:00:00Z"}
	a := operate(t, func(n int, w http.ResponseWriter, r *http.Request, body string) {
		w.Header().Set("ETag", `"4"`)
		switch n {
		case 1:
			want(t, r, body, "POST /v1/admin/clients", `{"id":"shop","tier":"gold","rate":7,"scopes":["send"]}`)
			hangUp(w) // the same again is safe
		case 2:
			answer(w, 200, shop)
		case 3:
			want(t, r, body, "PATCH /v1/admin/clients/shop", `{"rate":0,"scopes":[],"suspended":false}`)
			if r.Header.Get("If-Match") != `"4"` {
				t.Errorf("If-Match %q", r.Header.Get("If-Match"))
			}
			refuse(w, client.Problem{Status: 412, Code: client.CodeClientChanged, Permanent: true})
		case 4:
			want(t, r, body, "GET /v1/admin/clients/a%20b%2Fc", "")
			refuse(w, client.Problem{Status: 404, Code: "client_not_found", Permanent: true})
		case 5:
			want(t, r, body, "DELETE /v1/admin/clients/shop", "")
			w.WriteHeader(http.StatusNoContent)
		case 6:
			hangUp(w)
		case 7: // it was deleted by the attempt before
			refuse(w, client.Problem{Status: 404, Code: "client_not_found", Permanent: true})
		case 8:
			refuse(w, client.Problem{Status: 404, Code: "client_not_found", Permanent: true})
		}
	})
	tier, rate, none, no := "gold", 7, 0, false
	tenant, err := a.CreateTenant(t.Context(), "shop", client.TenantSettings{Tier: &tier, Rate: &rate, Scopes: []string{client.ScopeSend}})
	wantTenant := client.Tenant{
		ID: "shop", Name: "Shop", Tier: "gold", Rate: 7, Burst: 8, DailyQuota: 9, Recipients: "+962*", Scopes: []string{"send"}, Suspended: true,
		CreatedAt: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), ETag: `"4"`,
	}
	if err != nil || !reflect.DeepEqual(tenant, wantTenant) {
		t.Errorf("%+v, %v", tenant, err)
	}
	_, err = a.UpdateTenant(t.Context(), "shop", client.TenantSettings{Rate: &none, Scopes: []string{}, Suspended: &no, IfMatch: tenant.ETag})
	if code(err) != client.CodeClientChanged {
		t.Errorf("%v", err)
	}
	if _, err := a.Tenant(t.Context(), "a b/c"); code(err) != "client_not_found" {
		t.Errorf("%v", err)
	}
	for range 2 {
		if err := a.DeleteTenant(t.Context(), "shop"); err != nil {
			t.Error(err)
		}
	}
	if err := a.DeleteTenant(t.Context(), "shop"); code(err) != "client_not_found" {
		t.Errorf("%v", err)
	}
}

func TestAdminListings(t *testing.T) {
	a := operate(t, func(n int, w http.ResponseWriter, r *http.Request, body string) {
		switch n {
		case 1:
			want(t, r, body, "GET /v1/admin/clients", "")
			answer(w, 200, map[string]any{"clients": []any{map[string]any{"id": "a"}, map[string]any{"id": "b"}}, "next_cursor": "x"})
		case 2:
			want(t, r, body, "GET /v1/admin/clients?cursor=x", "")
			answer(w, 200, map[string]any{"clients": []any{map[string]any{"id": "c"}}})
		case 3:
			want(t, r, body, "GET /v1/admin/audit?action=key.revoke&actor=admin&client=shop&from=2026-03-01T12%3A00%3A00Z&limit=2", "")
			answer(w, 200, map[string]any{"entries": []any{map[string]any{"number": 5, "actor": "admin", "detail": map[string]any{"n": 1}}}, "next_cursor": "y"})
		case 4:
			want(t, r, body, "GET /v1/admin/audit?action=key.revoke&actor=admin&client=shop&cursor=y&from=2026-03-01T12%3A00%3A00Z&limit=2", "")
			answer(w, 200, map[string]any{"entries": []any{}, "next_cursor": "y"})
		}
	})
	var ids string
	for tenant, err := range a.Tenants(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		ids += tenant.ID
	}
	if ids != "abc" {
		t.Errorf("%q", ids)
	}
	var entries []client.AuditEntry
	var last error
	q := client.AuditQuery{Client: "shop", Actor: "admin", Action: "key.revoke", From: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), PageSize: 2}
	for e, err := range a.Audit(t.Context(), q) {
		if err != nil {
			last = err
			break
		}
		entries = append(entries, e)
	}
	if len(entries) != 1 || entries[0].Number != 5 || string(entries[0].Detail) != `{"n":1}` || last == nil {
		t.Errorf("%+v, %v", entries, last)
	}
}

func TestAdminKeys(t *testing.T) {
	a := operate(t, func(n int, w http.ResponseWriter, r *http.Request, body string) {
		switch n {
		case 1:
			want(t, r, body, "POST /v1/admin/clients/shop/keys", `{"name":"till","scopes":["send"],"expires_at":"2026-03-01T12:00:00Z"}`)
			answer(w, 201, map[string]any{"id": "k1", "secret": "esh_k1_s", "status": "active", "expires_at": "2026-03-01T12:00:00Z"})
		case 2:
			want(t, r, body, "POST /v1/admin/clients/shop/keys/k1/rotate", `{"overlap":2}`)
			answer(w, 201, map[string]any{"id": "k2", "secret": "esh_k2_s", "replaces": map[string]any{"id": "k1"}})
		case 3:
			want(t, r, body, "DELETE /v1/admin/clients/shop/keys/k1", "")
			refuse(w, client.Problem{Status: 503, Code: "store_unavailable"})
		case 4:
			answer(w, 200, map[string]any{"id": "k1", "status": "revoked", "revoked_at": "2026-03-01T12:00:00Z"})
		case 5:
			want(t, r, body, "GET /v1/admin/clients/shop/keys", "")
			answer(w, 200, map[string]any{"keys": []any{map[string]any{"id": "k2"}, map[string]any{"id": "k1"}}})
		case 6: // must not be repeated: it may have made a key
			want(t, r, body, "POST /v1/admin/clients/shop/keys", `{}`)
			hangUp(w)
		case 7:
			refuse(w, client.Problem{Status: 409, Code: client.CodeTooManyKeys, Permanent: true})
		default:
			t.Errorf("request %d: %s %s", n, r.Method, r.URL)
		}
	})
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	k, err := a.CreateKey(t.Context(), "shop", client.KeySettings{Name: "till", Scopes: []string{client.ScopeSend}, ExpiresAt: at})
	if err != nil || k.Secret != "esh_k1_s" || !k.ExpiresAt.Equal(at) || !k.LastUsedAt.IsZero() {
		t.Errorf("%+v, %v", k, err)
	}
	if k, err = a.RotateKey(t.Context(), "shop", k.ID, 1500*time.Millisecond); err != nil || k.ID != "k2" || k.Replaces == nil || k.Replaces.ID != "k1" {
		t.Errorf("%+v, %v", k, err)
	}
	if k, err = a.RevokeKey(t.Context(), "shop", "k1"); err != nil || k.Status != "revoked" || !k.RevokedAt.Equal(at) {
		t.Errorf("%+v, %v", k, err)
	}
	if list, err := a.Keys(t.Context(), "shop"); err != nil || len(list) != 2 || list[1].ID != "k1" {
		t.Errorf("%+v, %v", list, err)
	}
	if _, err := a.CreateKey(t.Context(), "shop", client.KeySettings{}); err == nil || code(err) != "" {
		t.Errorf("%v", err)
	}
	if _, err := a.CreateKey(t.Context(), "shop", client.KeySettings{}); code(err) != client.CodeTooManyKeys {
		t.Errorf("%v", err)
	}
}

func TestNewAdmin(t *testing.T) {
	for _, bad := range [][2]string{{"ftp://x", "k"}, {"http://x", ""}, {"http://x", "a b"}} {
		if a, err := client.NewAdmin(bad[0], bad[1]); err == nil {
			t.Errorf("%q: %v", bad, a)
		}
	}
}
