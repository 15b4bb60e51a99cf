package node

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
	"github.com/esh3artech/esh3ar/internal/store/sqlite"
)

// moody is a store that does not answer while it is away.
type moody struct {
	*sqlite.Store
	away  atomic.Bool
	asked atomic.Int32
}

var errAway = errors.New("away")

func (m *moody) ClientByKey(ctx context.Context, hash [32]byte) (esh3ar.APIKey, esh3ar.Client, error) {
	m.asked.Add(1)
	if m.away.Load() {
		return esh3ar.APIKey{}, esh3ar.Client{}, errAway
	}
	return m.Store.ClientByKey(ctx, hash)
}

func TestKnownKeys(t *testing.T) {
	dir := t.TempDir()
	s, err := sqlite.Open(t.Context(), filepath.Join(dir, "test.db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	now := start
	clock := func() time.Time { return now }
	client := esh3ar.Client{ID: "shop", Name: "Shop", Tier: esh3ar.TierSilver, Rate: 10, Burst: 20, DailyQuota: 100, Recipients: "+962*", Scopes: esh3ar.ScopeSend, CreatedAt: start}
	if client.Revision, err = s.PutClient(t.Context(), client, store.AuditEntry{At: now, Actor: "test"}); err != nil {
		t.Fatal(err)
	}
	put := func(secret string) esh3ar.APIKey {
		t.Helper()
		k := esh3ar.APIKey{ID: esh3ar.KeyID(secret), Hash: esh3ar.HashKey(secret), Client: "shop", Name: "n", Hint: esh3ar.KeyHint(secret), CreatedAt: start, ExpiresAt: start.Add(10 * time.Hour)}
		if err := s.PutKeys(t.Context(), []esh3ar.APIKey{k}, store.AuditEntry{At: now, Actor: "test"}); err != nil {
			t.Fatal(err)
		}
		return k
	}
	secrets := []string{esh3ar.NewKey(), esh3ar.NewKey()}
	kept, ended := put(secrets[0]), put(secrets[1])
	source := &moody{Store: s}
	path := filepath.Join(dir, keysFile)
	var logged bytes.Buffer
	run := func() *knownKeys {
		logged.Reset()
		return newKnownKeys(source, path, clock, slog.New(slog.NewTextHandler(&logged, nil)))
	}
	finds := func(k *knownKeys, key esh3ar.APIKey, want error) {
		t.Helper()
		got, c, err := k.ClientByKey(t.Context(), key.Hash)
		if !errors.Is(err, want) || err == nil && (got.ID != key.ID || got.Hash != key.Hash || got.ExpiresAt != key.ExpiresAt || c != client) {
			t.Errorf("%+v, %+v, %v", got, c, err)
		}
	}

	// Nothing is known at first, and a store that does not answer is not an answer.
	k := run()
	source.away.Store(true)
	finds(k, kept, errAway)
	if k.usable() {
		t.Error("usable without a key")
	}
	k.look(t.Context())
	if _, err := os.Stat(path); err == nil {
		t.Error("a file without an answer")
	}
	source.away.Store(false)
	finds(k, kept, nil)
	finds(k, ended, nil)
	finds(k, esh3ar.APIKey{Hash: esh3ar.HashKey("unknown")}, store.ErrNotFound)
	k.look(t.Context())
	raw, err := os.ReadFile(path)
	if info, serr := os.Stat(path); err != nil || serr != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the file: %v, %v, %v", info, err, serr)
	}
	for _, secret := range secrets {
		if bytes.Contains(raw, []byte(secret[len(secret)-20:])) {
			t.Error("the file has a secret")
		}
	}

	// One that is ended behind our back is forgotten when it is asked for again; what was asked for lately is
	// not.
	ended.RevokedAt = now
	if err := s.PutKeys(t.Context(), []esh3ar.APIKey{ended}, store.AuditEntry{At: now, Actor: "test"}); err != nil {
		t.Fatal(err)
	}
	before := source.asked.Load()
	k.look(t.Context())
	if n := source.asked.Load() - before; n != 0 {
		t.Errorf("asked %d times at once", n)
	}
	now = now.Add(keysCheck)
	k.look(t.Context())

	// The next run, without the store.
	source.away.Store(true)
	k = run()
	finds(k, kept, nil)
	finds(k, ended, errAway)
	if !k.usable() {
		t.Error("not usable")
	}
	// When the store has answered once, the last run does not count any more.
	source.away.Store(false)
	finds(k, kept, nil)
	source.away.Store(true)
	finds(k, kept, errAway)

	// What is too old, not understood or broken is not believed.
	for what, change := range map[string]func() []byte{
		"too old":       func() []byte { now = now.Add(keysWorth + time.Hour); return raw },
		"a new field":   func() []byte { return bytes.Replace(raw, []byte(`"Rate":`), []byte(`"RateOfOldTimes":`), 1) },
		"a new version": func() []byte { return bytes.Replace(raw, []byte(`"version":1`), []byte(`"version":2`), 1) },
		"a bad hash":    func() []byte { return bytes.Replace(raw, []byte(`"hash":"`), []byte(`"hash":"zz`), 1) },
		"torn":          func() []byte { return raw[:len(raw)/2] },
	} {
		now = start
		changed := change()
		if err := os.WriteFile(path, changed, 0o600); err != nil {
			t.Fatal(err)
		}
		k := run()
		finds(k, kept, errAway)
		if logged.Len() == 0 {
			t.Errorf("%s: not told", what)
		}
	}
}

// TestKnownKeysRace has keys looked up while the file is written.
func TestKnownKeysRace(t *testing.T) {
	dir := t.TempDir()
	s, err := sqlite.Open(t.Context(), filepath.Join(dir, "test.db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if err := bootstrap(t.Context(), s, "key", time.Now()); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, keysFile)
	k := newKnownKeys(s, path, time.Now, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- k.run(ctx) }()
	for range 100 {
		if _, _, err := k.ClientByKey(t.Context(), esh3ar.HashKey("key")); err != nil {
			t.Fatal(err)
		}
		k.look(t.Context())
	}
	cancel()
	<-done
	if k := newKnownKeys(s, path, time.Now, slog.New(slog.DiscardHandler)); !k.usable() {
		t.Error("nothing was written")
	}
}
