package postgres_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
	"github.com/esh3artech/esh3ar/internal/store/postgres"
	"github.com/esh3artech/esh3ar/internal/store/postgres/pgtest"
	"github.com/esh3artech/esh3ar/internal/store/storetest"
)

// startServer starts a server of the test's own.
func startServer(t *testing.T, settings ...string) *pgtest.Server {
	t.Helper()
	s, err := pgtest.Start(settings...)
	return closeServer(t, s, err)
}

func closeServer(t *testing.T, s *pgtest.Server, err error) *pgtest.Server {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// committer stores deliverable messages of shard 1, a few in each commit.
type committer struct {
	t        *testing.T
	s        *postgres.Store
	commitTo store.Store // s, or what is around it
	b        store.Batch
	changes  []store.Change
	stored   int
	number   int64
}

func newCommitter(t *testing.T, s *postgres.Store) *committer {
	t.Helper()
	claim, err := s.Claim(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	return &committer{t: t, s: s, commitTo: s, b: store.Batch{Shard: 1, Epoch: claim.Epoch}, changes: storetest.Deliverable(1, 4000, true)}
}

// commit stores the next messages; after an error the same ones are the next again.
func (c *committer) commit(limit time.Duration) error {
	const size = 20
	c.b.Changes, c.b.At = c.changes[c.stored:c.stored+size], time.Now()
	c.b.Positions[0] = uint64(c.stored + size)
	c.b.Number = c.number + 1
	ctx, cancel := context.WithTimeout(c.t.Context(), limit)
	defer cancel()
	err := c.commitTo.Commit(ctx, &c.b)
	if err == nil {
		c.stored += size
		c.number++
	}
	return err
}

// until commits until it succeeds or fails, as wanted; in between errors must be worth a retry.
func (c *committer) until(success bool) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	for {
		err := c.commit(3 * time.Second)
		if errors.Is(err, store.ErrPermanent) || errors.Is(err, store.ErrNotOwner) {
			c.t.Fatalf("commit: got error %v, want one that is worth a retry", err)
		}
		switch {
		case (err == nil) == success:
			return
		case ctx.Err() != nil:
			c.t.Fatalf("a minute of commits; the last one's error: %v", err)
		}
	}
}

// check fails the test unless everything that was stored is there.
func (c *committer) check() {
	c.t.Helper()
	var ids []esh3ar.ID
	for _, change := range c.changes[:c.stored] {
		ids = append(ids, change.Message.ID)
	}
	rows, err := c.s.Rows(c.t.Context(), 1, ids)
	if err != nil {
		c.t.Fatal(err)
	}
	if len(rows) != len(ids) {
		c.t.Errorf("%d of %d messages that were stored are there", len(rows), len(ids))
	}
	p, err := c.s.Positions(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	if got := p[1][0]; got != uint64(c.stored) {
		c.t.Errorf("position %d, want %d", got, c.stored)
	}
}

// TestFailoverToStandby loses the primary under a committer, in the ways in which primaries are lost, and
// promotes its synchronous standby: the same store goes on there, and nothing that it stored is missing.
func TestFailoverToStandby(t *testing.T) {
	for _, lost := range []struct {
		name string
		lose func(*pgtest.Server) error
	}{
		{"killed", (*pgtest.Server).Kill},
		{"silent", (*pgtest.Server).Freeze},
	} {
		t.Run(lost.name, func(t *testing.T) {
			t.Parallel()
			primary := startServer(t)
			standby, err := primary.Standby()
			closeServer(t, standby, err)

			// A standby alone is a store that is not there yet.
			if _, err := postgres.Open(t.Context(), standby.URL("postgres"), postgres.Options{}); !postgres.Unreachable(err) {
				t.Errorf("opening a standby: got error %v, want one that passes", err)
			}
			s := openURL(t, pgtest.URLs("postgres", primary, standby)+"&connect_timeout=1", postgres.Options{})
			c := newCommitter(t, s)
			for range 20 {
				if err := c.commit(time.Minute); err != nil {
					t.Fatal(err)
				}
			}
			gone := make(chan error, 1)
			go func() { gone <- lost.lose(primary) }()
			c.until(false)
			if err := <-gone; err != nil {
				t.Fatal(err)
			}
			c.until(false) // the standby is there and takes no writes yet
			if err := standby.Promote(); err != nil {
				t.Fatal(err)
			}
			c.until(true)
			for range 20 {
				if err := c.commit(time.Minute); err != nil {
					t.Fatal(err)
				}
			}
			c.check()
			if lost.name == "silent" {
				// Connections to it that are being closed end with it.
				if err := primary.Kill(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestFailoverToLaggingStandby loses the primary with commits that its standby never got. The owner is told, at its next commit, that
// they are lost, stores nothing over the gap, and goes on from the positions of a new claim.
func TestFailoverToLaggingStandby(t *testing.T) {
	t.Parallel()
	primary := startServer(t)
	standby, err := primary.Standby()
	closeServer(t, standby, err)
	s := openURL(t, pgtest.URLs("postgres", primary, standby)+"&connect_timeout=1", postgres.Options{})
	c := newCommitter(t, s)
	commit := func(times int) {
		t.Helper()
		for range times {
			if err := c.commit(time.Minute); err != nil {
				t.Fatal(err)
			}
		}
	}
	commit(10)
	had := c.stored
	if err := primary.Leave(standby); err != nil {
		t.Fatal(err)
	}
	commit(10)
	if err := errors.Join(primary.Kill(), standby.Promote()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		err := c.commit(3 * time.Second)
		if errors.Is(err, store.ErrSetBack) {
			break
		}
		if err == nil || ctx.Err() != nil {
			t.Fatalf("a commit over a gap: got error %v, want %v", err, store.ErrSetBack)
		}
	}
	claim, err := s.Claim(t.Context(), 1)
	if err != nil || claim.Positions[0] != uint64(had) {
		t.Fatalf("claim %+v, error %v; want position %d", claim, err, had)
	}
	c.b.Epoch, c.number, c.stored = claim.Epoch, 0, had
	commit(20)
	c.check()
}

// TestFailoverPastAClaim loses the primary with an owner's claim and all its commits, before the owner notices, to a standby that another
// owner claims the shard in, under the same number. It stores as much as the first did, which is refused all the same.
func TestFailoverPastAClaim(t *testing.T) {
	t.Parallel()
	primary := startServer(t)
	standby, err := primary.Standby()
	closeServer(t, standby, err)
	urls := pgtest.URLs("postgres", primary, standby) + "&connect_timeout=1"
	s := openURL(t, urls, postgres.Options{})
	if err := primary.Leave(standby); err != nil {
		t.Fatal(err)
	}
	first := newCommitter(t, s)
	for range 5 {
		if err := first.commit(time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(primary.Kill(), standby.Promote()); err != nil {
		t.Fatal(err)
	}
	second := newCommitter(t, openURL(t, urls, postgres.Options{}))
	if first.b.Epoch.Number != second.b.Epoch.Number {
		t.Fatalf("epoch %d after %d was lost", second.b.Epoch.Number, first.b.Epoch.Number)
	}
	for range 5 {
		if err := second.commit(time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		err := first.commit(3 * time.Second)
		if errors.Is(err, store.ErrNotOwner) && errors.Is(err, store.ErrSetBack) {
			break
		}
		if err == nil || ctx.Err() != nil {
			t.Fatalf("a commit after the claim was lost: got error %v, want %v and %v", err, store.ErrNotOwner, store.ErrSetBack)
		}
	}
	if err := second.commit(time.Minute); err != nil {
		t.Fatal(err)
	}
	second.check()
}
