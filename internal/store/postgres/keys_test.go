package postgres_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
	"github.com/esh3artech/esh3ar/internal/store/postgres"
)

// TestKeysAreCarriedOver migrates a database of the time when keys were kept as they are.
func TestKeysAreCarriedOver(t *testing.T) {
	url := server.Database(t)
	s, err := postgres.Open(t.Context(), url, postgres.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), `
		DROP TABLE idempotency;
		DROP SEQUENCE idempotency_number;
		CREATE TABLE idempotency (client bytea NOT NULL, key bytea NOT NULL, id uuid NOT NULL, digest bytea NOT NULL,
			recipient bytea NOT NULL, accepted_at bigint NOT NULL, PRIMARY KEY (client, key));
		CREATE INDEX idempotency_accepted_at ON idempotency (accepted_at);
		DROP TABLE deployment;
		ALTER TABLE shard DROP COLUMN commits, DROP COLUMN token;
		DROP TABLE identity;
		DELETE FROM goose_db_version WHERE version_id >= 4`); err != nil {
		t.Fatal(err)
	}
	v7 := uuid.Must(uuid.NewV7())
	start := time.Date(2026, 3, 1, 23, 59, 0, 0, time.UTC)
	want := make(map[string]store.Remembered)
	for i, key := range []string{v7.String(), "an order", "a\\b\n\x00\xff", uuid.NewString(), "0198c0de-7A1B-7c3d-8e4f-0123456789ab", "0198c0de-7a1b-7c3d-ce4f-0123456789ab"} {
		r := store.Remembered{ID: esh3ar.ID{byte(i + 1)}, Digest: [32]byte{byte(i)}, To: "rana", AcceptedAt: start.Add(time.Duration(i) * 20 * time.Hour)}
		want[key] = r
		if _, err := conn.Exec(t.Context(), `INSERT INTO idempotency VALUES ($1, $2, $3, $4, $5, $6)`,
			[]byte("c"), []byte(key), r.ID, r.Digest[:], []byte(r.To), r.AcceptedAt.UnixMicro()); err != nil {
			t.Fatal(err)
		}
	}
	s = openURL(t, url, postgres.Options{})
	check := func(forgotten time.Time) {
		t.Helper()
		for key, r := range want {
			got, err := s.Idempotent(t.Context(), "c", key)
			if r.AcceptedAt.Before(forgotten) {
				if !errors.Is(err, store.ErrNotFound) {
					t.Errorf("key %q of %v: %+v, %v", key, r.AcceptedAt, got, err)
				}
			} else if err != nil || got != r {
				t.Errorf("key %q: %+v, %v; want %+v", key, got, err, r)
			}
			if _, err := s.Idempotent(t.Context(), "d", key); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("key %q of another client: %v", key, err)
			}
		}
	}
	check(time.Time{})

	// Those that are forgotten are so at once, whenever their day goes; the days go one by one.
	cut := start.Add(50 * time.Hour)
	if p, err := s.Prune(t.Context(), store.Cutoffs{Keys: cut}); err != nil || !p.More {
		t.Fatalf("%+v, %v", p, err)
	}
	check(cut)
	for more := true; more; {
		p, err := s.Prune(t.Context(), store.Cutoffs{Keys: cut})
		if err != nil {
			t.Fatal(err)
		}
		more = p.More
	}
	check(cut)
	var left int
	if err := conn.QueryRow(t.Context(), `SELECT count(*) FROM idempotency WHERE accepted_at < $1`, cut.Truncate(24*time.Hour).UnixMicro()).Scan(&left); err != nil || left != 0 {
		t.Errorf("%d keys of days that are over, %v", left, err)
	}

	// A message whose key is forgotten is stored without it, and makes no day of its own.
	epoch, err := s.Claim(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	m := &esh3ar.Message{ID: esh3ar.ID{9, 15: 1}, Client: "c", To: "rana", Key: "late", AcceptedAt: start}
	b := &store.Batch{Shard: 1, Epoch: epoch.Epoch, At: cut, Changes: []store.Change{{Message: m, State: esh3ar.NewState(start), Ord: 1}}}
	if err := s.Commit(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Idempotent(t.Context(), "c", "late"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a forgotten key: %v", err)
	}
	var days int
	if err := conn.QueryRow(t.Context(), `SELECT count(*) FROM pg_inherits WHERE inhparent = 'idempotency'::regclass AND inhrelid = to_regclass('idempotency_20260301')`).Scan(&days); err != nil || days != 0 {
		t.Errorf("the forgotten day is there: %d, %v", days, err)
	}
}
