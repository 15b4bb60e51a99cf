package ingest

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
)

// newKey stores a key of a client and returns it.
func (s *service) newKey(client string, change func(*esh3ar.APIKey)) (secret string) {
	s.t.Helper()
	secret = esh3ar.NewKey()
	k := esh3ar.APIKey{ID: esh3ar.KeyID(secret), Hash: esh3ar.HashKey(secret), Client: client, CreatedAt: time.Now().UTC()}
	change(&k)
	if err := s.store.PutKeys(s.t.Context(), []esh3ar.APIKey{k}, store.AuditEntry{At: k.CreatedAt}); err != nil {
		s.t.Fatal(err)
	}
	return secret
}

// newClient stores a client and returns a key of it.
func (s *service) newClient(c esh3ar.Client) (secret string) {
	s.t.Helper()
	c.CreatedAt = time.Now().UTC()
	if c.Scopes == 0 {
		c.Scopes = esh3ar.AllScopes
	}
	if _, err := s.store.PutClient(s.t.Context(), c, store.AuditEntry{At: c.CreatedAt}); err != nil {
		s.t.Fatal(err)
	}
	return s.newKey(c.ID, func(*esh3ar.APIKey) {})
}

func TestScopesOfRoutes(t *testing.T) {
	s := newService(t, func(o *Options) {
		serve := func(w http.ResponseWriter, _ *http.Request, _ Caller) error {
			w.WriteHeader(http.StatusNoContent)
			return nil
		}
		o.Routes = []Route{{Pattern: "/v1/hooks", Scope: esh3ar.ScopeWebhooks, Methods: []string{http.MethodGet}, Serve: serve}}
	})
	id := s.accept(`{"to":"a","content":"x"}`).ID.String()
	for _, route := range []struct {
		method, path, body string
		scope              esh3ar.Scopes
	}{
		{"POST", "/v1/messages", `{"to":"a","content":"x"}`, esh3ar.ScopeSend},
		{"POST", "/v1/messages/batch", `{"messages":[{"to":"a","content":"x"}]}`, esh3ar.ScopeSend},
		{"DELETE", "/v1/messages/not-an-id", "", esh3ar.ScopeSend},
		{"GET", "/v1/messages", "", esh3ar.ScopeRead},
		{"GET", "/v1/messages/" + id, "", esh3ar.ScopeRead},
		{"GET", "/v1/dead-letters", "", esh3ar.ScopeDeadLetters},
		{"POST", "/v1/dead-letters/replay", "", esh3ar.ScopeDeadLetters},
		{"POST", "/v1/dead-letters/not-an-id/replay", "", esh3ar.ScopeDeadLetters},
		{"POST", "/v1/dead-letters/not-an-id/discard", "", esh3ar.ScopeDeadLetters},
		{"POST", "/v1/recipient-tokens", `{"sub":"a"}`, esh3ar.ScopeTokens},
		{"GET", "/v1/hooks", "", esh3ar.ScopeWebhooks},
	} {
		only := s.newKey("alice", func(k *esh3ar.APIKey) { k.Scopes = route.scope })
		others := s.newKey("alice", func(k *esh3ar.APIKey) { k.Scopes = esh3ar.AllScopes &^ route.scope })
		if a := s.do(route.method, route.path, route.body, "Authorization", "Bearer "+only); a.status == http.StatusForbidden || a.status == http.StatusUnauthorized {
			t.Errorf("%s %s with the scope %s: %d %s", route.method, route.path, route.scope, a.status, a.body)
		}
		p := s.wantProblem(s.do(route.method, route.path, route.body, "Authorization", "Bearer "+others), http.StatusForbidden, "scope_missing")
		if !strings.Contains(p.Detail, route.scope.String()) || !p.Permanent {
			t.Errorf("%s %s: %+v does not name %s", route.method, route.path, p, route.scope)
		}
	}
	// A key's scopes are never more than its client's.
	reader := s.newClient(esh3ar.Client{ID: "reader", Name: "r", Scopes: esh3ar.ScopeRead})
	s.wantProblem(s.do("POST", "/v1/messages", `{"to":"a","content":"x"}`, "Authorization", "Bearer "+reader), http.StatusForbidden, "scope_missing")
	wider := s.newKey("reader", func(k *esh3ar.APIKey) { k.Scopes = esh3ar.AllScopes })
	s.wantProblem(s.do("POST", "/v1/messages", `{"to":"a","content":"x"}`, "Authorization", "Bearer "+wider), http.StatusForbidden, "scope_missing")
	if a := s.do("GET", "/v1/messages", "", "Authorization", "Bearer "+wider); a.status != http.StatusOK {
		t.Errorf("%d %s", a.status, a.body)
	}
}

func TestOneKeyOfARoute(t *testing.T) {
	operator := esh3ar.HashKey("the-operator's")
	served := 0
	s := newService(t, func(o *Options) {
		o.Routes = []Route{{Pattern: "/v1/operate", Key: &operator, Methods: []string{http.MethodPost},
			Serve: func(w http.ResponseWriter, _ *http.Request, who Caller) error {
				served++
				if who.Client != nil {
					t.Errorf("%+v", who)
				}
				w.WriteHeader(http.StatusNoContent)
				return nil
			}}}
	})
	if a := s.do("POST", "/v1/operate", "{}", "Authorization", "Bearer the-operator's"); a.status != http.StatusNoContent {
		t.Errorf("%d %s", a.status, a.body)
	}
	s.wantProblem(s.do("POST", "/v1/operate", "{}"), http.StatusUnauthorized, "admin_key_wrong")
	s.wantProblem(s.do("POST", "/v1/operate", "{}", "Authorization", ""), http.StatusUnauthorized, "api_key_missing")
	s.wantProblem(s.do("POST", "/v1/operate", "<a/>", "Authorization", "Bearer the-operator's", "Content-Type", "text/xml"), http.StatusUnsupportedMediaType, "unsupported_media_type")
	s.wantProblem(s.do("POST", "/v1/messages", `{"to":"a","content":"x"}`, "Authorization", "Bearer the-operator's"), http.StatusUnauthorized, "api_key_unknown")
	for range guessBurst + 5 {
		s.do("POST", "/v1/operate", "{}", "Authorization", "Bearer guess")
	}
	if a := s.do("POST", "/v1/operate", "{}", "Authorization", "Bearer guess"); a.status != http.StatusTooManyRequests || a.header.Get("Retry-After") == "" {
		t.Errorf("a guess after many: %d %s", a.status, a.body)
	}
	if a := s.do("POST", "/v1/operate", "{}", "Authorization", "Bearer the-operator's"); a.status != http.StatusNoContent || served != 2 {
		t.Errorf("the right key after many guesses: %d %s, served %d times", a.status, a.body, served)
	}
}

func TestRecipientsOfAClient(t *testing.T) {
	s := newService(t)
	key := s.newClient(esh3ar.Client{ID: "local", Name: "l", Recipients: "+962* shop-*"})
	auth := "Bearer " + key
	s.accept(`{"to":"00962 79 123 4567","content":"x"}`, "Authorization", auth)
	s.accept(`{"to":"shop-1","content":"x"}`, "Authorization", auth)
	p := s.wantProblem(s.do("POST", "/v1/messages", `{"to":"+4930123456","content":"x"}`, "Authorization", auth), http.StatusForbidden, "recipient_not_allowed")
	if len(p.Errors) != 1 || p.Errors[0].Pointer == nil || *p.Errors[0].Pointer != "/to" || !strings.Contains(p.Detail, "+962* shop-*") {
		t.Errorf("%+v", p)
	}
	// With a key it is refused, too, and the key is not used up by it.
	s.wantProblem(s.do("POST", "/v1/messages", `{"to":"bob","content":"x"}`, "Authorization", auth, "Idempotency-Key", "k"), http.StatusForbidden, "recipient_not_allowed")
	s.accept(`{"to":"shop-2","content":"x"}`, "Authorization", auth, "Idempotency-Key", "k")

	a := s.do("POST", "/v1/messages/batch", `{"messages":[{"to":"shop-1","content":"x"},{"to":"bob","content":"x"},{"to":"+96279 1234567","content":"x"}]}`, "Authorization", auth)
	var batch struct {
		Results []struct {
			Status  int          `json:"status"`
			Problem *problemJSON `json:"problem"`
		} `json:"results"`
	}
	if err := json.Unmarshal([]byte(a.body), &batch); err != nil || a.status != http.StatusMultiStatus || len(batch.Results) != 3 {
		t.Fatalf("%d %s, %v", a.status, a.body, err)
	}
	for i, want := range []int{202, 403, 202} {
		if batch.Results[i].Status != want {
			t.Errorf("result %d: %+v", i, batch.Results[i])
		}
	}
	if p := batch.Results[1].Problem; p == nil || p.Code != "recipient_not_allowed" || len(p.Errors) != 1 || *p.Errors[0].Pointer != "/to" {
		t.Errorf("%+v", p)
	}
}

func TestGrant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table, hash := newKeyTable(), esh3ar.HashKey("k")
		table.clients[hash] = esh3ar.Client{ID: "alice", Scopes: esh3ar.AllScopes}
		expires := time.Now().Add(time.Minute)
		table.expires = map[[32]byte]time.Time{hash: expires}
		k := newKeyring(table, time.Second, time.Now)
		ask := func() error {
			_, err := k.grant(t.Context(), hash, "", esh3ar.ScopeSend)
			return err
		}
		if err := ask(); err != nil {
			t.Fatal(err)
		}
		table.change(func() { table.clients[hash] = esh3ar.Client{ID: "alice", Scopes: esh3ar.AllScopes, Suspended: true} })
		time.Sleep(time.Second)
		if err := ask(); code(err) != "client_suspended" || esh3ar.KindOf(err) != esh3ar.KindForbidden {
			t.Errorf("a second after the suspension: %v", err)
		}
		table.change(func() { table.clients[hash] = esh3ar.Client{ID: "alice", Scopes: esh3ar.ScopeRead} })
		time.Sleep(time.Second)
		if err := ask(); code(err) != "scope_missing" {
			t.Errorf("a second after the scope was taken: %v", err)
		}
		// What cannot be understood is like no answer.
		table.change(func() {
			table.clients[hash] = esh3ar.Client{ID: "alice", Scopes: esh3ar.AllScopes, Recipients: "00962*"}
		})
		time.Sleep(time.Second)
		if err := ask(); code(err) != "scope_missing" {
			t.Errorf("with a pattern that cannot be read: %v", err)
		}
		table.change(func() { table.clients[hash] = esh3ar.Client{ID: "alice", Scopes: esh3ar.AllScopes} })
		time.Sleep(time.Second)
		if err := ask(); err != nil {
			t.Error(err)
		}
		// It expires by itself, also while the store is down.
		table.change(func() { table.fault = errors.New("down") })
		time.Sleep(time.Until(expires) - time.Microsecond)
		if err := ask(); err != nil {
			t.Errorf("before it expires: %v", err)
		}
		time.Sleep(time.Microsecond)
		if err := ask(); code(err) != "api_key_expired" || esh3ar.KindOf(err) != esh3ar.KindUnauthorized {
			t.Errorf("when it expires: %v", err)
		}
	})
}

func TestUsesAreNoted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table, hash, other := newKeyTable(), esh3ar.HashKey("k"), esh3ar.HashKey("o")
		table.clients[hash], table.clients[other] = esh3ar.Client{ID: "alice"}, esh3ar.Client{ID: "bob"}
		k := newKeyring(table, time.Second, time.Now)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); k.noteUses(ctx) }()
		use := func(hash [32]byte, want esh3ar.Scopes) {
			_, _ = k.grant(t.Context(), hash, "", want)
		}
		told := func() []map[[32]byte]time.Time {
			synctest.Wait()
			table.mu.Lock()
			defer table.mu.Unlock()
			list := table.touched
			table.touched = nil
			return list
		}
		time.Sleep(5 * time.Second)
		at := time.Now()
		for range 100 {
			use(hash, 0)
		}
		use(other, esh3ar.ScopeSend) // which it does not have
		time.Sleep(useEvery)
		if list := told(); len(list) != 1 || len(list[0]) != 1 || !list[0][hash].Equal(at) {
			t.Errorf("told %v, want %v at %v", list, hash, at)
		}
		time.Sleep(10 * useEvery)
		if list := told(); len(list) != 0 {
			t.Errorf("told %v of nothing", list)
		}
		// What a store that is down was not told it is told later.
		table.change(func() { table.fault = errors.New("down") })
		use(hash, 0)
		at = time.Now()
		time.Sleep(3 * useEvery)
		table.change(func() { table.fault = nil })
		time.Sleep(useEvery)
		if list := told(); len(list) != 1 || !list[0][hash].Equal(at) {
			t.Errorf("after the outage told %v", list)
		}
		// And at the end at once.
		use(hash, 0)
		use(other, 0)
		stop()
		<-done
		if list := told(); len(list) != 1 || len(list[0]) != 2 {
			t.Errorf("at the end told %v", list)
		}
	})
}

// deadLetters is an Operator that does all it is asked to.
type deadLetters struct {
	Operator
	asked []string
}

func (d *deadLetters) Replay(_ context.Context, client string, id esh3ar.ID) (store.Row, error) {
	d.asked = append(d.asked, client+" replay")
	return store.Row{Message: esh3ar.Message{ID: id, Client: client, To: "x", Content: "c"}, State: esh3ar.NewState(testNow)}, nil
}

func (d *deadLetters) Discard(_ context.Context, client string, id esh3ar.ID, why string) (store.Row, error) {
	d.asked = append(d.asked, client+" discard "+why)
	return store.Row{Message: esh3ar.Message{ID: id, Client: client, To: "x", Content: "c"}, State: esh3ar.NewState(testNow)}, nil
}

// brokenAuditor takes no entry.
type brokenAuditor struct{}

func (brokenAuditor) Audit(context.Context, store.AuditEntry) error {
	return errors.New("the store is down")
}

func TestDeadLettersAreAudited(t *testing.T) {
	d := new(deadLetters)
	s := newService(t, func(o *Options) { o.Operator = d })
	const path = "/v1/dead-letters/0198c0de-7a1b-7c3d-8e4f-0123456789ab"
	for _, do := range []string{"/replay", "/discard"} {
		if a := s.do("POST", path+do, map[string]string{"/discard": `{"reason":"größe ورد"}`}[do]); a.status != http.StatusOK {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	entries, err := s.store.Audited(t.Context(), store.AuditQuery{Client: "alice", Limit: 2})
	if err != nil || len(entries) != 2 {
		t.Fatalf("%+v, %v", entries, err)
	}
	for i, want := range []store.AuditEntry{
		{Action: "dead_letter.discard", Detail: []byte(`{"reason":"größe ورد"}`)}, {Action: "dead_letter.replay"},
	} {
		e := entries[i]
		if e.Action != want.Action || string(e.Detail) != string(want.Detail) || e.Actor != "alice/a" || e.Address != "127.0.0.1" ||
			e.Client != "alice" || !strings.HasSuffix(path, e.Object) || time.Since(e.At) > time.Minute {
			t.Errorf("%+v, want %+v", e, want)
		}
	}

	// Nobody's body is read before the key is known, and nothing is noted that was not done.
	d.asked = nil
	s.wantProblem(s.do("POST", path+"/discard", "<not json", "Authorization", "Bearer nobody"), http.StatusUnauthorized, "api_key_unknown")
	s.wantProblem(s.do("POST", path+"/discard", "{", "Authorization", "Bearer "+bobKey), http.StatusBadRequest, "malformed_json")
	entries, err = s.store.Audited(t.Context(), store.AuditQuery{Action: "dead_letter.discard", Limit: 10})
	if len(d.asked) != 0 || err != nil || len(entries) != 1 {
		t.Errorf("asked for %v, entries %+v, %v", d.asked, entries, err)
	}
}

func TestAnAuditLogThatFailsIsTold(t *testing.T) {
	s := newService(t, func(o *Options) { o.Operator, o.Auditor = new(deadLetters), brokenAuditor{} })
	a := s.do("POST", "/v1/dead-letters/0198c0de-7a1b-7c3d-8e4f-0123456789ab/replay", "")
	if log := s.logged.String(); a.status != http.StatusOK || !strings.Contains(log, "the audit log misses an entry") || !strings.Contains(log, "alice/a") {
		t.Errorf("%d %s; log: %s", a.status, a.body, log)
	}
}
