package storetest

import (
	"database/sql"
	"fmt"
	"os"
	"testing"
	"testing/fstest"
	"time"

	"github.com/pressly/goose/v3"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
	"github.com/esh3artech/esh3ar/internal/store/migration"
)

// RunMigrateClients brings an empty database to the first schema, whose file is migrations/00001_initial.sql,
// puts clients, keys and a claimed shard into it as that version did, and has open migrate it: they must work as they did.
// Blob and boolean are how the dialect writes literals.
func RunMigrateClients(t *testing.T, dialect goose.Dialect, db *sql.DB, blob func([]byte) string, boolean func(bool) string, open func() store.Store) {
	initial, err := os.ReadFile("migrations/00001_initial.sql")
	if err != nil {
		t.Fatal(err)
	}
	set, err := migration.New(dialect, db, fstest.MapFS{"00001_initial.sql": {Data: initial}})
	if err != nil {
		t.Fatal(err)
	}
	if err := set.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	type old struct {
		client esh3ar.Client
		key    esh3ar.APIKey
	}
	var all []old
	for id, scopes := range map[string]esh3ar.Scopes{"plain": esh3ar.DefaultScopes, "mints": esh3ar.AllScopes} {
		secret := id + "-key"
		o := old{
			esh3ar.Client{ID: id, Name: "Name", Tier: esh3ar.TierBronze, Scopes: scopes, CreatedAt: at, Revision: 1},
			esh3ar.APIKey{ID: esh3ar.KeyID(secret), Hash: esh3ar.HashKey(secret), Client: id, Hint: "hint", CreatedAt: at},
		}
		revoked := "NULL"
		if id == "mints" {
			o.key.RevokedAt = at
			revoked = fmt.Sprint(at.UnixMicro())
		}
		for _, query := range []string{
			fmt.Sprintf(`INSERT INTO client (id, name, tier, mint_tokens, created_at) VALUES ('%s', 'Name', 2, %s, %d)`,
				id, boolean(scopes.Has(esh3ar.ScopeTokens)), at.UnixMicro()),
			fmt.Sprintf(`INSERT INTO api_key (hash, client, hint, created_at, revoked_at) VALUES (%s, '%s', 'hint', %d, %s)`,
				blob(o.key.Hash[:]), id, at.UnixMicro(), revoked),
		} {
			if _, err := db.ExecContext(t.Context(), query); err != nil {
				t.Fatalf("%s: %v", query, err)
			}
		}
		all = append(all, o)
	}
	if _, err := db.ExecContext(t.Context(), `INSERT INTO shard (shard, epoch) VALUES (0, 1)`); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s := open()
	// It was used, with a journal, and so it is somebody's.
	candidate := store.NewIdentifier()
	id, err := s.Identify(t.Context(), candidate, true)
	if err != nil || id == candidate || store.CheckIdentifier(id) != nil {
		t.Errorf("a used store that was asked whether it is %s: %q, error %v", candidate, id, err)
	}
	claim, err := s.Claim(t.Context(), 0)
	if err != nil || claim.Epoch.Number != 2 {
		t.Errorf("claim of a shard that was claimed once: %+v, error %v", claim, err)
	}
	if err := s.Commit(t.Context(), &store.Batch{Epoch: claim.Epoch, Number: 1, At: at}); err != nil {
		t.Errorf("commit: %v", err)
	}
	for _, want := range all {
		k, c, err := s.ClientByKey(t.Context(), want.key.Hash)
		if err != nil {
			t.Fatal(err)
		}
		same(t, "client", c, want.client)
		same(t, "key", k, want.key)
	}
}
