package presence

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/esh3artech/esh3ar"
	delivering "github.com/esh3artech/esh3ar/internal/delivery"
	"github.com/esh3artech/esh3ar/internal/dispatch"
	"github.com/esh3artech/esh3ar/internal/journal"
	"github.com/esh3artech/esh3ar/internal/journal/memory"
	"github.com/esh3artech/esh3ar/internal/record"
	"github.com/esh3artech/esh3ar/internal/store"
	"github.com/esh3artech/esh3ar/internal/store/sqlite"
)

// dispatching is a real dispatcher, as a router sees it.
type dispatching struct {
	t     *testing.T
	log   *memory.Log
	store *sqlite.Store
	*dispatch.Dispatcher
}

// ackTimeout is far beyond what the tests wait for.
const ackTimeout = time.Hour

func newDispatching(t *testing.T) *dispatching {
	t.Helper()
	d := &dispatching{t: t}
	var err error
	if d.store, err = sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "test.db"), sqlite.Options{}); err != nil {
		t.Fatal(err)
	}
	if d.log, err = memory.Open(new(memory.Disk), memory.Options{Shards: shards}); err != nil {
		t.Fatal(err)
	}
	d.Dispatcher, err = dispatch.New(dispatch.Options{
		Log: d.log, Store: d.store, Shards: shards,
		Params: delivering.Params{
			Window: 10, WindowBytes: 1 << 20, Hold: 20, Settle: 50 * time.Millisecond, AckTimeout: ackTimeout, MaxAttempts: 10,
			Backoff: delivering.Backoff{Base: time.Millisecond, Cap: 10 * time.Millisecond},
		},
		CommitEvery: 5 * time.Millisecond, ScanEvery: 100 * time.Millisecond, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx, time.Second) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		d.log.Close()
		if err := d.store.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// Attach implements Local.
func (d *dispatching) Attach(recipient string, c Connection) (Tie, bool) {
	a := d.Dispatcher.Attach(recipient, given{c})
	return a, a != nil
}

// given is a connection as a dispatcher sees it.
type given struct{ Connection }

func (g given) Deliver(d *dispatch.Delivery) {
	e, ok := d.Encoded.(*Encoded)
	if !ok {
		e = new(Encoded)
		d.Encoded = e
	}
	g.Connection.Deliver(d.Message, d.Attempt, e)
}

func (d *dispatching) accept(m *esh3ar.Message) {
	d.t.Helper()
	p := journal.Partition{Shard: m.ID.Shard(), Tier: uint8(m.Tier)}
	if _, err := d.log.Append(d.t.Context(), p, journal.AppendRecord(nil, record.AppendMessage(nil, m))); err != nil {
		d.t.Fatal(err)
	}
}

// queued waits, for so long at most, until the store has the message as queued for that reason, and returns how long it took.
func (d *dispatching) queued(m *esh3ar.Message, reason esh3ar.Reason, most time.Duration) time.Duration {
	d.t.Helper()
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		row, err := d.store.Message(d.t.Context(), m.Client, m.ID)
		if err == nil && row.State.Status == esh3ar.StatusQueued && row.State.Last().Reason == reason {
			return time.Since(began)
		}
		if time.Since(began) > most {
			d.t.Fatalf("not queued as %s within %v: %+v, %v", reason, most, row.State.Timeline, err)
		}
	}
}

// silent is a device that acknowledges nothing and tells which attempt it got.
type silent chan uint32

func (s silent) Deliver(_ *esh3ar.Message, attempt uint32, _ *Encoded) { s <- attempt }

// gets waits, for so long at most, until the device gets that attempt.
func (s silent) gets(t *testing.T, want uint32, most time.Duration) {
	t.Helper()
	select {
	case attempt := <-s:
		if attempt != want {
			t.Errorf("the device got attempt %d, not %d", attempt, want)
		}
	case <-time.After(most):
		t.Fatalf("the device got nothing within %v", most)
	}
}

// A hub vanishes with a message in flight to its device, which is not acknowledged: to the owner that attempt has failed as soon as
// it knows, and not when the time for the acknowledgement is over; whoever comes from elsewhere gets the message at once. A hub that
// is back is tied anew.
func TestHubVanishes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDispatching(t)
		c := newCluster(t, 1, "hub", "other")
		owner := c.start("owner", func(o *Options) { o.Local = d })
		defer c.stop()
		synctest.Wait()
		c.give(0, "owner")
		const (
			moment   = 500 * time.Millisecond
			patience = 6500 * time.Millisecond // of the owner: Patience, a heartbeat until it looks, and what it takes to store
		)
		hub, other := c.nodes["hub"].router, c.nodes["other"].router
		m := text(user(0, 0), "in flight")
		d.accept(m)
		d.queued(m, esh3ar.ReasonRecipientOffline, time.Second)

		// Nothing is heard of the hub any more.
		phone := make(silent, 10)
		hub.Attach(m.To, phone)
		phone.gets(t, 1, moment)
		c.net.setCut("hub", true)
		took := d.queued(m, esh3ar.ReasonConnectionLost, patience)
		t.Logf("the hub is cut off: its message is to be sent again after %v", took)
		if took < time.Second {
			t.Errorf("a hub that says nothing for %v has vanished", took)
		}
		elsewhere := make(silent, 10)
		a := other.Attach(m.To, elsewhere)
		elsewhere.gets(t, 2, moment)

		// The cluster says that the other node has gone: the owner does not wait.
		c.net.setCut("other", true)
		owner.router.Gone("other")
		took = d.queued(m, esh3ar.ReasonConnectionLost, moment)
		t.Logf("the other hub has gone: its message is to be sent again after %v", took)
		a.Detach(false)

		// Both are back, and the first one's device is still there.
		c.net.setCut("hub", false)
		c.net.setCut("other", false)
		phone.gets(t, 3, 5*time.Second)

		// The device is elsewhere before the owner knows.
		c.net.setCut("hub", true)
		time.Sleep(time.Second)
		other.Attach(m.To, elsewhere)
		elsewhere.gets(t, 3, moment)
		time.Sleep(patience)
		row, err := d.store.Message(t.Context(), m.Client, m.ID)
		if err != nil || row.State.Status != esh3ar.StatusSent || row.Place != store.InQueue || len(elsewhere) > 0 {
			t.Errorf("the message is %s, %v, and was sent to the device %d times too often", row.State.Status, err, len(elsewhere))
		}
	})
}
