package postgres_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
	"github.com/esh3artech/esh3ar/internal/store/postgres"
	"github.com/esh3artech/esh3ar/internal/store/postgres/pgtest"
	"github.com/esh3artech/esh3ar/internal/store/storetest"
)

func TestPoison(t *testing.T) {
	url := server.Database(t)
	s := openURL(t, url, postgres.Options{})
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, table := range []string{"queue", "message"} {
		if _, err := conn.Exec(t.Context(), `ALTER TABLE `+table+` ADD CHECK (recipient <> '`+storetest.Poison+`')`); err != nil {
			t.Fatal(err)
		}
	}
	storetest.RunPoison(t, s)
}

// TestOutage takes the server away in every way that it can go, under a committer that goes on: its
// errors are worth a retry, it succeeds as soon as the server is back, and what it was told is stored
// is there.
func TestOutage(t *testing.T) {
	server, err := pgtest.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, outage := range []struct {
		name       string
		begin, end func() error
	}{
		{name: "stop", begin: server.Stop, end: server.Resume},
		{name: "kill", begin: server.Kill, end: server.Resume},
		{name: "freeze", begin: server.Freeze, end: server.Thaw},
	} {
		t.Run(outage.name, func(t *testing.T) {
			s := openURL(t, server.Database(t), postgres.Options{})
			claim, err := s.Claim(t.Context(), 1)
			if err != nil {
				t.Fatal(err)
			}
			const size, limit = 20, 300 * time.Millisecond
			changes := storetest.Deliverable(1, 4000, true)
			b := &store.Batch{Shard: 1, Epoch: claim.Epoch}
			next := 0
			commit := func(limit time.Duration) error {
				b.Changes, b.At = changes[next:next+size], time.Now()
				b.Positions[0] = uint64(next + size)
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				defer cancel()
				err := s.Commit(ctx, b)
				if err == nil {
					next += size
				}
				return err
			}
			// Some connections for the outage to break.
			done := make(chan error)
			for range 8 {
				go func() { done <- s.Ping(t.Context()) }()
			}
			for range 8 {
				if err := <-done; err != nil {
					t.Fatal(err)
				}
			}
			for range 20 {
				if err := commit(time.Minute); err != nil {
					t.Fatal(err)
				}
			}

			// The server goes while commits are under way.
			began := make(chan error, 1)
			go func() { began <- outage.begin() }()
			for err = nil; err == nil; {
				if err = commit(limit); err == nil && next+size > len(changes)/2 {
					next = 0 // round again: repeated commits are as good as fresh ones here
				}
			}
			if err := <-began; err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			for range 3 {
				if err := commit(limit); err == nil || errors.Is(err, store.ErrPermanent) || errors.Is(err, store.ErrNotOwner) {
					t.Errorf("commit without a server: got error %v, want one that is worth a retry", err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				if _, err := s.Message(ctx, "client-1", changes[0].Message.ID); err == nil || errors.Is(err, store.ErrNotFound) {
					t.Errorf("read without a server: got error %v", err)
				}
				cancel()
			}
			if d := time.Since(start); d > 10*limit {
				t.Errorf("calls that were given %v each took %v", limit, d)
			}

			if err := outage.end(); err != nil {
				t.Fatal(err)
			}
			// The first call succeeds: no dead connection is left to fail on.
			if err := commit(time.Minute); err != nil {
				t.Errorf("the first commit after the outage: %v", err)
			}
			ids := make([]esh3ar.ID, 0, len(changes))
			for _, c := range changes[:next] {
				ids = append(ids, c.Message.ID)
			}
			rows, err := s.Rows(t.Context(), 1, ids)
			if err != nil {
				t.Fatal(err)
			}
			if len(rows) != len(ids) {
				t.Errorf("%d of %d messages that were stored are there", len(rows), len(ids))
			}
		})
	}
}
