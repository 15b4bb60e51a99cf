package dispatch_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/dispatch"
	"github.com/esh3artech/esh3ar/internal/record"
	"github.com/esh3artech/esh3ar/internal/store"
)

// refuse has the database refuse rows, on insertion and update, from now on.
func (w *world) refuse(name, when string) {
	w.t.Helper()
	db, err := sql.Open("sqlite", "file:"+w.path+"?_pragma=busy_timeout(10000)")
	if err != nil {
		w.t.Fatal(err)
	}
	defer db.Close()
	for _, on := range []string{"INSERT", "UPDATE"} {
		if _, err := db.ExecContext(w.t.Context(), fmt.Sprintf(
			`CREATE TRIGGER %s_%s BEFORE %s ON message WHEN %s BEGIN SELECT RAISE(ABORT, 'poison'); END`, name, on, on, when)); err != nil {
			w.t.Fatal(err)
		}
	}
}

// rejected waits for n raw dead letters.
func (w *world) rejected(n int) []store.Rejected {
	w.t.Helper()
	var all []store.Rejected
	w.until(fmt.Sprint(n, " raw dead letters"), func() bool {
		var err error
		all, err = w.store.Rejected(w.t.Context(), 0, 1000)
		return err == nil && len(all) >= n
	})
	if len(all) != n {
		w.t.Errorf("%d raw dead letters, want %d", len(all), n)
	}
	return all
}

// events returns the statuses of the message's events, each with its status_seq.
func (w *world) events(id esh3ar.ID) (all []string) {
	w.t.Helper()
	writes, err := w.store.Events(w.t.Context(), id.Shard(), 0, 1<<20)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, write := range writes {
		for _, e := range write.Events {
			if e.Message == id {
				all = append(all, fmt.Sprint(e.Seq, " ", e.Status, " ", e.Reason))
			}
		}
	}
	return all
}

// ready connects a phone of whose recipient it is known that nothing waits: what arrives is sent at once.
func (w *world) ready(to string, ack bool) *phone {
	w.t.Helper()
	p := w.connect(to, true)
	m := w.message("bank", to, "ready")
	w.accept(m)
	w.await(m, esh3ar.StatusDelivered)
	w.next(p)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ack = ack
	return p
}

// A message that the store refuses ends as undelivered, with its client told, whatever of it is refused, and
// those beside it are stored.
func TestRefusedMessageIsUndelivered(t *testing.T) {
	// The column is the whole record: its recipient is refused there too.
	for name, test := range map[string]struct {
		when     string
		to, text string
	}{
		"its payload":   {`instr(NEW.payload, CAST('poison' AS BLOB))`, "rana", ""},
		"its label":     {`instr(NEW.payload, CAST('label' AS BLOB))`, "rana", ""},
		"its recipient": {`NEW.recipient = 'rana'`, "+unstorable", ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.refuse("poison", test.when)
			poison := w.message("bank", "rana", "poison")
			poison.Type, poison.Metadata = "label", map[string]string{"k": "v"}
			var healthy []*esh3ar.Message
			for i := range 40 {
				healthy = append(healthy, w.message("bank", fmt.Sprint("healthy", i), "well"))
			}
			w.accept(append([]*esh3ar.Message{poison}, healthy...)...)
			row := w.await(poison, esh3ar.StatusUndelivered)
			if last := row.State.Last(); last.Reason != esh3ar.ReasonRefusedByStore || last.Seq != 3 ||
				row.Message.To != test.to || row.Message.Content != "" || !row.Message.Stripped || row.Message.Metadata != nil {
				t.Errorf("stored as %+v, %+v", row.Message, row.State)
			}
			for _, m := range healthy {
				w.await(m, esh3ar.StatusQueued)
			}
			want := "[1 accepted  2 queued recipient_offline 3 undelivered refused_by_store]"
			if got := fmt.Sprint(w.events(poison.ID)); got != want {
				t.Errorf("events %s, want %s", got, want)
			}
			raw := w.rejected(1)[0]
			var whole esh3ar.Message
			if err := record.DecodeMessage(raw.Record, &whole); err != nil || whole.ID != poison.ID || whole.Content != "poison" ||
				raw.Reason != esh3ar.ReasonRefusedByStore || !strings.Contains(raw.Detail, poison.ID.String()) {
				t.Errorf("raw dead letter %+v: %v", raw, err)
			}

			// It can be listed and discarded, and not replayed.
			page, err := w.store.Messages(t.Context(), store.Query{Client: "bank", Status: esh3ar.StatusUndelivered, Limit: 10})
			if err != nil || len(page.Rows) != 1 || page.Rows[0].Message.ID != poison.ID {
				t.Errorf("undelivered: %+v, %v", page.Rows, err)
			}
			_, err = w.Replay(t.Context(), "bank", poison.ID)
			if e, ok := errors.AsType[*esh3ar.Error](err); !ok || e.Kind != esh3ar.KindConflict || e.Code != "payload_unavailable" {
				t.Errorf("replay: %v", err)
			}
			if row, err = w.Discard(t.Context(), "bank", poison.ID, "seen"); err != nil || row.State.Last().Reason != "discarded: seen" {
				t.Errorf("discard: %+v, %v", row.State.Last(), err)
			}

			// Nothing of it comes again, not even when its record is read again.
			w.stop()
			w.start()
			w.accept(poison)
			marker := w.message("bank", "rana2", "marker")
			w.accept(marker)
			w.await(marker, esh3ar.StatusQueued)
			w.rejected(1)
			if row := w.await(poison, esh3ar.StatusUndelivered); row.State.Seq() != 4 {
				t.Errorf("after a restart: %s", statuses(row))
			}
		})
	}
}

// A message that a device got before the store refused it is delivered, early acknowledgement or late.
func TestRefusedMessageIsDelivered(t *testing.T) {
	for _, early := range []bool{true, false} {
		t.Run(fmt.Sprint("early ", early), func(t *testing.T) {
			w := newWorld(t)
			w.refuse("poison", `instr(NEW.payload, CAST('poison' AS BLOB))`)
			p := w.ready("rana", early)
			m := w.message("bank", "rana", "poison")
			w.accept(m)
			if d := w.next(p); d.Message.Content != "poison" {
				t.Errorf("got %+v", d.Message)
			}
			want := "[1 accepted  2 queued  3 sent  4 delivered ]"
			if !early {
				w.await(m, esh3ar.StatusUndelivered)
				p.att.MarkRead([]esh3ar.ID{m.ID})
				w.await(m, esh3ar.StatusRead)
				want = "[1 accepted  2 queued  3 sent  4 undelivered refused_by_store 5 delivered late_acknowledgement 6 read ]"
			} else {
				w.await(m, esh3ar.StatusDelivered)
			}
			if got := fmt.Sprint(w.events(m.ID)); got != want {
				t.Errorf("events %s, want %s", got, want)
			}
			w.rejected(1)
			// The recipient's next messages are not held up.
			next := w.message("bank", "rana", "next")
			w.accept(next)
			if d := w.next(p); d.Message.ID != next.ID {
				t.Errorf("got %q", d.Message.Content)
			}
		})
	}
}

// held is a store whose commits wait while somebody holds them. It tells of those of poison.
type held struct {
	dispatch.Store
	hold   sync.RWMutex
	poison chan struct{} // of capacity 1
}

func (s *held) Commit(ctx context.Context, b *store.Batch) error {
	if slices.ContainsFunc(b.Changes, func(c store.Change) bool { return c.Message.Content == "poison" }) {
		select {
		case s.poison <- struct{}{}:
		default:
		}
	}
	s.hold.RLock()
	defer s.hold.RUnlock()
	return s.Store.Commit(ctx, b)
}

// Nothing is done to a message that the store refused before its recipient knows of that.
func TestRefusedBeforeItsRecipientKnows(t *testing.T) {
	w := newWorld(t)
	w.stop()
	s := &held{Store: w.store, poison: make(chan struct{}, 1)}
	w.start(func(o *dispatch.Options) { o.Store = s })
	w.refuse("poison", `instr(NEW.payload, CAST('poison' AS BLOB))`)
	p := w.ready("rana", false)
	g := make(gate)
	letGo := sync.OnceFunc(func() { close(g) })
	t.Cleanup(letGo) // before the dispatcher, which waits for it
	w.Attach("rana", g)

	s.hold.Lock()
	m, next := w.message("bank", "rana", "poison"), w.message("bank", "rana", "next")
	w.accept(m)
	g <- struct{}{}
	g <- struct{}{}
	w.next(p)
	<-s.poison
	w.accept(next)
	g <- struct{}{} // the recipient is held up from here on
	s.hold.Unlock()
	w.await(m, esh3ar.StatusUndelivered)

	discard := func(ctx context.Context) chan error {
		discarded := make(chan error, 1)
		go func() {
			_, err := w.Discard(ctx, "bank", m.ID, "seen")
			discarded <- err
		}()
		return discarded
	}
	ended := func(discarded chan error) error {
		select {
		case err := <-discarded:
			return err
		case <-time.After(20 * time.Second):
			t.Fatal("the request does not end")
			return nil
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	err := ended(discard(ctx))
	if e, ok := errors.AsType[*esh3ar.Error](err); !ok || e.Code != "store_unavailable" {
		t.Errorf("while its recipient does not know: %v", err)
	}
	discarded := discard(t.Context())
	letGo()
	if err := ended(discarded); err != nil {
		t.Error(err)
	}
	if row := w.await(m, esh3ar.StatusUndelivered); row.State.Last().Reason != "discarded: seen" {
		t.Errorf("the last of it is %+v", row.State.Last())
	}
}

// Of a message that the store refuses when its shard has no recipients any more nobody waits for one to know.
func TestRefusedAfterItsRecipientIsGone(t *testing.T) {
	w := newWorld(t)
	w.stop()
	s := &held{Store: w.store, poison: make(chan struct{}, 1)}
	w.start(func(o *dispatch.Options) { o.Store = s })
	w.refuse("poison", `instr(NEW.payload, CAST('poison' AS BLOB))`)
	w.ready("rana", true)
	s.hold.Lock()
	m := w.message("bank", "rana", "poison")
	w.accept(m)
	<-s.poison
	discarded := make(chan error, 1)
	go func() {
		_, err := w.Discard(t.Context(), "bank", m.ID, "seen")
		discarded <- err
	}()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		w.stop()
	}()
	w.until("the shard takes nothing more", func() bool { return w.connect("rana", true).att == nil })
	s.hold.Unlock()
	<-stopped
	select {
	case err := <-discarded:
		if err == nil {
			t.Error("it was delivered, and discarded")
		}
	case <-time.After(20 * time.Second):
		t.Error("the request does not end with its shard")
	}
}

// Of a message of which the store takes nothing at all its raw record is kept, and the shard goes on.
func TestRefusedAltogether(t *testing.T) {
	w := newWorld(t)
	w.refuse("poison", `NEW.client = 'mallory'`)
	poison, healthy := w.message("mallory", "rana", "poison"), w.message("bank", "rana", "well")
	w.accept(poison, healthy)
	w.await(healthy, esh3ar.StatusQueued)
	var whole esh3ar.Message
	if err := record.DecodeMessage(w.rejected(1)[0].Record, &whole); err != nil || whole.Content != "poison" {
		t.Errorf("raw dead letter: %+v, %v", whole, err)
	}
	if got := w.events(poison.ID); len(got) != 0 {
		t.Errorf("events %q", got)
	}
	// The position is behind it.
	w.until("everything is stored", func() bool {
		c, err := w.store.Positions(t.Context())
		return err == nil && c[poison.ID.Shard()][poison.Tier] > 0
	})
}

// Messages that go on in memory while the store refuses them end once, however the two interleave.
func TestRefusedInMotion(t *testing.T) {
	w := newWorld(t)
	w.stop()
	w.start(func(o *dispatch.Options) {
		o.Params.AckTimeout, o.Params.Settle, o.Params.MaxAttempts = 3*time.Millisecond, time.Millisecond, 1000
	})
	w.refuse("poison", `instr(NEW.payload, CAST('poison' AS BLOB))`)
	var all []*esh3ar.Message
	var phones []*phone
	for i := range 50 {
		to := fmt.Sprint("r", i)
		phones = append(phones, w.ready(to, false))
		all = append(all, w.message("bank", to, "poison"))
	}
	w.accept(all...)
	for i, p := range phones {
		d := w.next(p)
		if i%2 == 0 {
			p.att.Acknowledge([]esh3ar.ID{d.Message.ID})
		}
	}
	for i, m := range all {
		want := esh3ar.StatusUndelivered
		if i%2 == 0 {
			want = esh3ar.StatusDelivered
		}
		row := w.await(m, want)
		var line []string
		for _, tr := range row.State.Timeline {
			line = append(line, fmt.Sprint(tr.Seq, " ", tr.Status, " ", tr.Reason))
		}
		if events := w.events(m.ID); fmt.Sprint(events) != fmt.Sprint(line) {
			t.Errorf("events %q, timeline %q", events, line)
		}
	}
}
