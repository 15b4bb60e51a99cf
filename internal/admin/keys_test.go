package admin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
)

const shopKeys = "/v1/admin/clients/shop/keys"

func (w *world) keys() (list []key) {
	w.Helper()
	var page struct {
		Keys []key `json:"keys"`
	}
	w.want(200, &page, "GET", shopKeys, "")
	return page.Keys
}

func TestKeys(t *testing.T) {
	w := newWorld(t)
	w.wantError(esh3ar.KindNotFound, "client_not_found", "POST", shopKeys, "")
	w.want(201, nil, "POST", "/v1/admin/clients", `{"id":"shop"}`)
	if list := w.keys(); len(list) != 0 {
		t.Errorf("%+v", list)
	}
	var k key
	a := w.want(201, &k, "POST", shopKeys, `{"name":"Kasse 1","scopes":["send"],"expires_in":3600}`)
	end := w.now.Add(time.Hour)
	if k.ID != esh3ar.KeyID(k.Secret) || k.Hint != esh3ar.KeyHint(k.Secret) || k.Client != "shop" || k.Name != "Kasse 1" || k.Status != "active" ||
		!slices.Equal(k.Scopes, []string{"send"}) || !k.CreatedAt.Equal(w.now) || k.ExpiresAt.IsZero() || !k.ExpiresAt.Equal(end) || !k.LastUsedAt.IsZero() || !k.RevokedAt.IsZero() {
		t.Errorf("%+v", k)
	}
	if a.header.Get("Location") != shopKeys+"/"+k.ID {
		t.Errorf("%v", a.header)
	}
	stored, c, err := w.store.ClientByKey(t.Context(), esh3ar.HashKey(k.Secret))
	if err != nil || c.ID != "shop" || stored.ID != k.ID || stored.Scopes != esh3ar.ScopeSend || !stored.ExpiresAt.Equal(end) {
		t.Errorf("%+v of %+v, %v", stored, c, err)
	}
	e := w.audited()
	secret := strings.TrimPrefix(k.Secret, esh3ar.KeyPrefix+k.ID+"_")
	if e.Action != "key.create" || e.Client != "shop" || e.Object != k.ID || !strings.Contains(string(e.Detail), `"Kasse 1"`) || strings.Contains(string(e.Detail), secret) {
		t.Errorf("%+v %s", e, e.Detail)
	}
	// The secret is never shown again.
	if a := w.want(200, nil, "GET", shopKeys, ""); strings.Contains(a.body, secret) || !strings.Contains(a.body, k.Hint) {
		t.Errorf("%s", a.body)
	}
	if err := w.store.TouchKeys(t.Context(), map[[32]byte]time.Time{stored.Hash: w.now}); err != nil {
		t.Fatal(err)
	}
	w.tick(time.Hour)
	if list := w.keys(); len(list) != 1 || list[0].Status != "expired" || list[0].LastUsedAt.IsZero() {
		t.Errorf("%+v", list)
	}
	// One of which nothing is said does all that its client may, for good.
	k = key{}
	w.want(201, &k, "POST", shopKeys, "")
	if k.Scopes != nil || !k.ExpiresAt.IsZero() || k.Name != "" || k.Secret == "" {
		t.Errorf("%+v", k)
	}
	w.wantError(esh3ar.KindConflict, "client_has_keys", "DELETE", "/v1/admin/clients/shop", "")
	w.forgot = nil
	var revoked key
	w.want(200, &revoked, "DELETE", shopKeys+"/"+k.ID, "")
	if revoked.Status != "revoked" || revoked.RevokedAt.IsZero() || !revoked.RevokedAt.Equal(w.now) || len(w.forgot) != 1 || w.forgot[0] != esh3ar.HashKey(k.Secret) {
		t.Errorf("%+v; forgot %v", revoked, w.forgot)
	}
	if e := w.audited(); e.Action != "key.revoke" || e.Object != k.ID {
		t.Errorf("%+v", e)
	}
	// Again it is the same.
	at := w.now
	w.tick(time.Minute)
	w.want(200, &revoked, "DELETE", shopKeys+"/"+k.ID, "")
	if !revoked.RevokedAt.Equal(at) {
		t.Errorf("%+v", revoked)
	}
	w.wantError(esh3ar.KindNotFound, "key_not_found", "DELETE", shopKeys+"/nothing", "")
	w.want(201, nil, "POST", "/v1/admin/clients", `{"id":"other"}`)
	w.wantError(esh3ar.KindNotFound, "key_not_found", "DELETE", "/v1/admin/clients/other/keys/"+k.ID, "")
	w.want(204, nil, "DELETE", "/v1/admin/clients/shop", "")
}

func TestRotation(t *testing.T) {
	w := newWorld(t)
	w.want(201, nil, "POST", "/v1/admin/clients", `{"id":"shop"}`)
	rotate := func(id, body string) (k key) {
		w.Helper()
		w.want(201, &k, "POST", shopKeys+"/"+id+"/rotate", body)
		return k
	}
	works := func(secret string) bool {
		w.Helper()
		k, _, err := w.store.ClientByKey(t.Context(), esh3ar.HashKey(secret))
		if err != nil {
			t.Fatal(err)
		}
		return k.Works(w.now)
	}
	var old key
	w.want(201, &old, "POST", shopKeys, `{"name":"till","scopes":["send","read"],"expires_in":864000}`)
	w.tick(9 * 24 * time.Hour)
	fresh := rotate(old.ID, `{"overlap":3600}`)
	if fresh.Name != "till" || !slices.Equal(fresh.Scopes, []string{"send", "read"}) || fresh.ExpiresAt.IsZero() || !fresh.ExpiresAt.Equal(w.now.Add(240*time.Hour)) ||
		fresh.Replaces == nil || fresh.Replaces.ID != old.ID || !fresh.Replaces.ExpiresAt.Equal(w.now.Add(time.Hour)) || fresh.Replaces.Secret != "" {
		t.Errorf("%+v, replaces %+v", fresh, fresh.Replaces)
	}
	if e := w.audited(); e.Action != "key.rotate" || e.Object != fresh.ID || !strings.Contains(string(e.Detail), `"replaces":"`+old.ID) {
		t.Errorf("%+v %s", e, e.Detail)
	}
	if !works(old.Secret) || !works(fresh.Secret) {
		t.Error("the keys do not overlap")
	}
	w.tick(time.Hour)
	if works(old.Secret) || !works(fresh.Secret) {
		t.Error("the old key works on, or the new one does not")
	}
	w.wantError(esh3ar.KindConflict, "key_ended", "POST", shopKeys+"/"+old.ID+"/rotate", "")

	// A longer overlap does not keep a key longer than it would have lived, and none ends it at once.
	short := rotate(fresh.ID, `{"expires_in":60,"overlap":0}`)
	if works(fresh.Secret) || !works(short.Secret) {
		t.Error("an overlap of nothing")
	}
	last := rotate(short.ID, `{"expires_at":null}`)
	if !last.ExpiresAt.IsZero() || !last.Replaces.ExpiresAt.Equal(w.now.Add(time.Minute)) {
		t.Errorf("%+v, replaces %+v", last, last.Replaces)
	}
	again := rotate(last.ID, "")
	if !again.ExpiresAt.IsZero() || !again.Replaces.ExpiresAt.Equal(w.now.Add(defaultOverlap)) {
		t.Errorf("%+v, replaces %+v", again, again.Replaces)
	}
	w.wantFaults("POST", shopKeys+"/"+again.ID+"/rotate", `{"overlap":-1,"name":"x"}`, "/name unknown_field", "/overlap out_of_range")
	w.wantFaults("POST", shopKeys+"/"+again.ID+"/rotate", `{"overlap":7776001,"expires_in":0}`, "/expires_in out_of_range", "/overlap out_of_range")
}

func TestBadKeys(t *testing.T) {
	w := newWorld(t)
	w.want(201, nil, "POST", "/v1/admin/clients", `{"id":"shop","scopes":["read"]}`)
	w.wantFaults("POST", shopKeys, `{"name":" x","scopes":["send","all"],"expires_at":"tomorrow","secret":"mine"}`,
		"/expires_at bad_time", "/name bad_name", "/scopes unknown_scope", "/secret unknown_field")
	w.wantFaults("POST", shopKeys, `{"expires_at":"2026-03-01T12:00:00Z"}`, "/expires_at already_expired")
	w.wantFaults("POST", shopKeys, `{"expires_at":"2027-03-01T12:00:00Z","expires_in":5}`, "/expires_in given_twice")
	w.wantFaults("POST", shopKeys, `{"expires_in":-5}`, "/expires_in out_of_range")
	if e := w.wantError(esh3ar.KindInvalid, "scope_not_the_clients", "POST", shopKeys, `{"scopes":["read","send"]}`); e.Pointer != "/scopes" || !strings.Contains(e.Message, "send") {
		t.Errorf("%+v", e)
	}
	for range esh3ar.MaxKeys {
		w.want(201, nil, "POST", shopKeys, `{"expires_in":60}`)
	}
	w.wantError(esh3ar.KindConflict, "too_many_keys", "POST", shopKeys, "")
	w.wantError(esh3ar.KindConflict, "too_many_keys", "POST", shopKeys+"/"+w.keys()[0].ID+"/rotate", "")
	w.tick(time.Minute)
	w.want(201, nil, "POST", shopKeys, "")
}

func TestAuditLog(t *testing.T) {
	w := newWorld(t)
	for i := range 5 {
		w.tick(time.Hour)
		w.want(201, nil, "POST", "/v1/admin/clients", fmt.Sprintf(`{"id":"c%d"}`, i))
	}
	if err := w.store.Audit(t.Context(), store.AuditEntry{At: w.now, Actor: "c0/k", Action: "dead_letter.replay", Client: "c0", Object: "m"}); err != nil {
		t.Fatal(err)
	}
	list := func(query string) (clients []string) {
		w.Helper()
		for cursor := ""; ; {
			var page struct {
				Entries []entry `json:"entries"`
				Next    string  `json:"next_cursor"`
			}
			w.want(200, &page, "GET", "/v1/admin/audit?"+query+cursor, "")
			for _, e := range page.Entries {
				clients = append(clients, e.Client)
			}
			if page.Next == "" {
				return clients
			}
			cursor = "&cursor=" + page.Next
		}
	}
	for query, want := range map[string][]string{
		"":                     {"c0", "c4", "c3", "c2", "c1", "c0"},
		"limit=1":              {"c0", "c4", "c3", "c2", "c1", "c0"},
		"limit=2&client=c0":    {"c0", "c0"},
		"actor=admin&limit=3":  {"c4", "c3", "c2", "c1", "c0"},
		"action=client.delete": nil,
		"from=2026-03-01T15:00:00Z&until=2026-03-01T17:00:00%2B00:00": {"c3", "c2"},
	} {
		if got := list(query); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", query, got, want)
		}
	}
	w.wantFaults("GET", "/v1/admin/audit?from=yesterday&until=5&cursor=YzE6YQ&who=me&limit=201", "",
		"cursor bad_cursor", "from bad_time", "limit bad_limit", "until bad_time", "who unknown_parameter")
}

// downStore is a store that does not answer.
type downStore struct{ Store }

var errDown = errors.New("connection refused to 10.0.0.7")

func (downStore) Client(context.Context, string) (esh3ar.Client, error) {
	return esh3ar.Client{}, errDown
}
func (downStore) ListClients(context.Context, string, int) ([]esh3ar.Client, error) {
	return nil, errDown
}
func (downStore) PutClient(context.Context, esh3ar.Client, store.AuditEntry) (int64, error) {
	return 0, errDown
}
func (downStore) DeleteClient(context.Context, string, store.AuditEntry) error { return errDown }
func (downStore) Audited(context.Context, store.AuditQuery) ([]store.AuditEntry, error) {
	return nil, errDown
}

func TestStoreIsDown(t *testing.T) {
	w := newWorld(t)
	w.serve(downStore{})
	for _, request := range [][3]string{
		{"GET", "/v1/admin/clients"}, {"GET", "/v1/admin/clients/c"}, {"PATCH", "/v1/admin/clients/c", `{"rate":1}`},
		{"GET", "/v1/admin/clients/c/keys"}, {"POST", "/v1/admin/clients/c/keys"}, {"DELETE", "/v1/admin/clients/c/keys/k"},
		{"POST", "/v1/admin/clients/c/keys/k/rotate"}, {"GET", "/v1/admin/audit"},
	} {
		e := w.wantError(esh3ar.KindUnavailable, "store_unavailable", request[0], request[1], request[2])
		if e.RetryAfter <= 0 || !errors.Is(e, errDown) || strings.Contains(e.Message, "10.0.0.7") {
			t.Errorf("%v: %+v", request, e)
		}
	}
	for _, request := range [][3]string{{"POST", "/v1/admin/clients", `{"id":"c"}`}, {"DELETE", "/v1/admin/clients/c"}} {
		w.wantError(esh3ar.KindOutcomeUnknown, "outcome_unknown", request[0], request[1], request[2])
	}
}
