package ingest

import (
	"log/slog"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
	"github.com/esh3artech/esh3ar/internal/store/breaker"
	"github.com/esh3artech/esh3ar/internal/store/postgres"
	"github.com/esh3artech/esh3ar/internal/store/postgres/pgtest"
)

// TestKeysOverNodes has two nodes over one database: what ends a key works on both within a second, and keys
// that they know work on while the database is away.
func TestKeysOverNodes(t *testing.T) {
	pg, err := pgtest.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pg.Close(); err != nil {
			t.Error(err)
		}
	})
	url := pg.Database(t)
	var nodes [2]*keyring
	var stores [2]*breaker.Store
	for i := range nodes {
		s, err := postgres.Open(t.Context(), url, postgres.Options{Conns: 4})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		stores[i] = breaker.New(s, breaker.Options{Logger: slog.New(slog.DiscardHandler)})
		nodes[i] = newKeyring(stores[i], time.Second, time.Now)
	}
	client := esh3ar.Client{ID: "shop", Name: "Shop", Scopes: esh3ar.AllScopes, CreatedAt: time.Now().UTC()}
	entry := store.AuditEntry{At: client.CreatedAt, Actor: "admin", Client: "shop"}
	if client.Revision, err = stores[0].PutClient(t.Context(), client, entry); err != nil {
		t.Fatal(err)
	}
	var keys [2]esh3ar.APIKey
	for i := range keys {
		secret := esh3ar.NewKey()
		keys[i] = esh3ar.APIKey{ID: esh3ar.KeyID(secret), Hash: esh3ar.HashKey(secret), Client: "shop", CreatedAt: client.CreatedAt}
	}
	if err := stores[0].PutKeys(t.Context(), keys[:], entry); err != nil {
		t.Fatal(err)
	}
	ask := func(n, key int) string {
		_, err := nodes[n].grant(t.Context(), keys[key].Hash, "192.0.2.1:1", esh3ar.ScopeSend)
		return code(err)
	}
	for n := range nodes {
		for key := range keys {
			if got := ask(n, key); got != "" {
				t.Fatalf("node %d, key %d: %s", n, key, got)
			}
		}
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	// within fails the test unless both nodes, which are asked all the while, answer so within a second and
	// the time of a look-up.
	within := func(what string, key int, want string) {
		t.Helper()
		began := time.Now()
		for n := range nodes {
			for got := ask(n, key); got != want; got = ask(n, key) {
				if time.Since(began) > time.Second+keyLookupTime {
					t.Fatalf("%s: node %d still answers %q", what, n, got)
				}
				<-tick.C
			}
		}
		t.Logf("%s: told after %s", what, time.Since(began))
	}
	client.Suspended = true
	if client.Revision, err = stores[0].PutClient(t.Context(), client, entry); err != nil {
		t.Fatal(err)
	}
	within("suspension", 1, "client_suspended")
	client.Suspended = false
	if _, err := stores[1].PutClient(t.Context(), client, entry); err != nil {
		t.Fatal(err)
	}
	within("the end of the suspension", 1, "")
	revoked := keys[0]
	revoked.RevokedAt = time.Now().UTC()
	if err := stores[1].PutKeys(t.Context(), []esh3ar.APIKey{revoked}, entry); err != nil {
		t.Fatal(err)
	}
	within("revocation", 0, "api_key_revoked")

	if err := pg.Stop(); err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); time.Since(began) < 2*time.Second; <-tick.C {
		for n := range nodes {
			if got := ask(n, 1); got != "" {
				t.Fatalf("a known key while the database is away: node %d: %s", n, got)
			}
			if got := ask(n, 0); got != "api_key_revoked" {
				t.Fatalf("a revoked key while the database is away: node %d: %q", n, got)
			}
		}
	}
	if _, err := nodes[0].grant(t.Context(), esh3ar.HashKey("new"), "192.0.2.1:1", 0); code(err) != "api_key_not_checked" {
		t.Errorf("a new key while the database is away: %v", err)
	}
	if err := pg.Resume(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(30 * time.Second)
	for {
		_, err := nodes[0].grant(t.Context(), esh3ar.HashKey("new"), "192.0.2.1:1", 0)
		if code(err) == "api_key_unknown" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("after the outage: %v", err)
		}
		<-tick.C
	}
}
