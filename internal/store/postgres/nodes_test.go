package postgres_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
	"github.com/esh3artech/esh3ar/internal/store/postgres"
	"github.com/esh3artech/esh3ar/internal/store/storetest"
)

// TestMigrate starts several nodes at once over an empty database.
func TestMigrate(t *testing.T) {
	url := server.Database(t)
	if _, err := postgres.Open(t.Context(), url, postgres.Options{NoMigrate: true}); err == nil {
		t.Fatal("a store that may not migrate opened an empty database")
	}
	list, err := postgres.Migrations(t.Context(), url)
	if err != nil || len(list) == 0 || !list[0].AppliedAt.IsZero() {
		t.Fatalf("migrations of an empty database: %+v, error %v", list, err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			s, err := postgres.Open(t.Context(), url, postgres.Options{})
			if err != nil {
				t.Error(err)
				return
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	list, err = postgres.Migrations(t.Context(), url)
	if err != nil || len(list) == 0 || list[len(list)-1].AppliedAt.IsZero() {
		t.Fatalf("migrations: %+v, error %v", list, err)
	}
	openURL(t, url, postgres.Options{NoMigrate: true})
}

// TestNodes has nodes take one shard from each other while they commit to it: whoever lost it is told,
// and what was committed is there once.
func TestNodes(t *testing.T) {
	const nodes, commits, size = 4, 40, 5
	url := server.Database(t)
	changes := storetest.Deliverable(1, nodes*commits*size, true)
	var mu sync.Mutex
	stored, lost := 0, 0
	var wg, claimed sync.WaitGroup
	claimed.Add(nodes)
	for n := range nodes {
		s := openURL(t, url, postgres.Options{Conns: 2})
		wg.Go(func() {
			claim, err := s.Claim(t.Context(), 1)
			claimed.Done()
			if err != nil {
				t.Error(err)
				return
			}
			claimed.Wait() // all but one have lost it already
			for i := range commits {
				at := (n*commits + i) * size
				b := &store.Batch{Shard: 1, Epoch: claim.Epoch, At: time.Now(), Changes: changes[at : at+size]}
				err := s.Commit(t.Context(), b)
				mu.Lock()
				switch {
				case err == nil:
					stored += size
				case errors.Is(err, store.ErrNotOwner):
					lost++
				default:
					t.Errorf("node %d: %v", n, err)
				}
				mu.Unlock()
				if err == nil {
					continue
				}
				if claim, err = s.Claim(t.Context(), 1); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	s := openURL(t, url, postgres.Options{})
	ids := make([]esh3ar.ID, len(changes))
	for i := range changes {
		ids[i] = changes[i].Message.ID
	}
	rows, err := s.Rows(t.Context(), 1, ids)
	if err != nil {
		t.Fatal(err)
	}
	events := 0
	writes, err := s.Events(t.Context(), 1, 0, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range writes {
		events += len(w.Events)
	}
	if len(rows) != stored || events != 4*stored || stored+lost*size != len(changes) || lost == 0 {
		t.Errorf("%d rows and %d events of %d stored messages; %d of %d commits lost the shard",
			len(rows), events, stored, lost, nodes*commits)
	}
}
