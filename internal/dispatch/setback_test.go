package dispatch_test

import (
	"database/sql"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/dispatch"
)

// The store loses commits while the shard's owner lives on, as when a standby takes over that lagged. The owner finds it out by
// its next commit, by what it reads for a recipient, or, if there is neither, by looking, and reads again from the journal what is missing, each message with its
// idempotency key, whether it was in flight then or waited in the store alone.
func TestStoreSetBackUnderItsOwner(t *testing.T) {
	const (
		byCommit  = "found out by a commit"
		byLooking = "found out by looking"
		byReading = "found out by reading"
	)
	for _, name := range []string{byCommit, byLooking, byReading} {
		t.Run(name, func(t *testing.T) {
			check := time.Hour
			if name == byLooking {
				check = 5 * time.Millisecond
			}
			n := newNodesWith(t, func(o *dispatch.Options) { o.CheckEvery = check }, "owner")
			shard := esh3ar.ShardOf("user", shards)
			n.registry.give(shard, "owner")
			other := "other"
			for i := 0; esh3ar.ShardOf(other, shards) != shard; i++ {
				other = fmt.Sprint("other", i)
			}
			kept := n.keyed("user", "kept key", "kept")
			n.accept(kept)
			n.await(kept, esh3ar.StatusQueued)
			n.copyStore()

			flying, waiting := n.keyed("user", "flying key", "flying"), n.keyed(other, "waiting key", "waiting")
			n.accept(flying)
			n.accept(waiting)
			n.await(flying, esh3ar.StatusQueued)
			n.await(waiting, esh3ar.StatusQueued)
			p := &phone{got: make(chan *dispatch.Delivery, 100)}
			p.att = n.by["owner"].Attach("user", p)
			n.next(p) // read back from the store, like the other
			n.next(p)
			n.await(flying, esh3ar.StatusSent)

			before := len(n.told(shard))
			n.restoreStore()
			var others *phone
			switch name {
			case byCommit:
				p.att.Acknowledge([]esh3ar.ID{kept.ID, flying.ID})
			case byReading:
				others = n.follow(other)
			}
			n.until("the owner to begin anew", func() bool { return len(n.told(shard)) >= before+2 })
			for _, m := range []*esh3ar.Message{kept, flying, waiting} {
				n.until(m.Content+" to be there again", func() bool {
					_, err := n.store.Message(t.Context(), m.Client, m.ID)
					return err == nil
				})
				if first, err := n.store.Idempotent(t.Context(), m.Client, m.Key); err != nil || first.ID != m.ID || first.Digest != m.Digest {
					t.Errorf("%s: its key is remembered for %+v, error %v", m.Content, first, err)
				}
			}
			again := n.follow("user")
			if others == nil {
				others = n.follow(other)
			}
			for _, m := range []*esh3ar.Message{kept, flying, waiting} {
				n.await(m, esh3ar.StatusDelivered)
			}
			if got := again.firsts(); !slices.Equal(got, []string{"kept", "flying"}) {
				t.Errorf("its recipient got %v", got)
			}
			if got := others.firsts(); !slices.Equal(got, []string{"waiting"}) {
				t.Errorf("the other recipient got %v", got)
			}
		})
	}
}

// The store loses the claim of an owner that lives on, and gives its number to the next one: the first is refused and ends, though as many
// commits are stored as it knows of.
func TestStoreSetBackPastAClaim(t *testing.T) {
	n := newNodesWith(t, func(o *dispatch.Options) { o.CheckEvery = time.Hour }, "old", "new")
	shard := esh3ar.ShardOf("user", shards)
	n.copyStore()
	n.registry.give(shard, "old")
	first := n.message("client", "user", "first")
	n.accept(first)
	n.await(first, esh3ar.StatusQueued)

	n.restoreStore()
	n.registry.force(shard, "new")
	n.await(first, esh3ar.StatusQueued) // read from the journal again
	second := n.message("client", "user", "second")
	n.accept(second) // both read it
	n.succeeded(shard, first, second)
	if got := n.told(shard); !slices.Equal(got, []string{"old", "new", "-old"}) {
		t.Errorf("owners: %v", got)
	}
}

// copyStore takes a copy of the store as it is.
func (w *world) copyStore() {
	w.t.Helper()
	w.sql(func(db *sql.DB) error {
		_, err := db.ExecContext(w.t.Context(), `VACUUM INTO ?`, w.path+".copy")
		return err
	})
}

// restoreStore puts the copy's rows in the place of the store's, which stays open.
func (w *world) restoreStore() {
	w.t.Helper()
	w.sql(func(db *sql.DB) error {
		if _, err := db.ExecContext(w.t.Context(), `ATTACH ? AS copy`, w.path+".copy"); err != nil {
			return err
		}
		tx, err := db.BeginTx(w.t.Context(), nil)
		if err != nil {
			return err
		}
		for _, table := range []string{"message", "idempotency", "event", "reject", "shard", "recipient", "indexer"} {
			if _, err := tx.ExecContext(w.t.Context(), fmt.Sprintf(`DELETE FROM main.%[1]s; INSERT INTO main.%[1]s SELECT * FROM copy.%[1]s`, table)); err != nil {
				return err
			}
		}
		return tx.Commit()
	})
}

// sql does something to the store's file beside the store.
func (w *world) sql(do func(*sql.DB) error) {
	w.t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.ToSlash(w.path)+"?_pragma=busy_timeout(10000)&_txlock=immediate")
	if err != nil {
		w.t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1) // what is attached is attached to one connection
	if err := do(db); err != nil {
		w.t.Fatal(err)
	}
}
