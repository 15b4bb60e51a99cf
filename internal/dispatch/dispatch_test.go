package dispatch_test

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/delivery"
	"github.com/esh3artech/esh3ar/internal/dispatch"
	"github.com/esh3artech/esh3ar/internal/journal"
	"github.com/esh3artech/esh3ar/internal/journal/memory"
	"github.com/esh3artech/esh3ar/internal/record"
	"github.com/esh3artech/esh3ar/internal/store"
	"github.com/esh3artech/esh3ar/internal/store/sqlite"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const shards = 2

// world is a dispatcher over a real store and a journal in memory. It can be stopped and started.
type world struct {
	t     testing.TB
	log   *memory.Log
	store *sqlite.Store
	path  string // of the store's file
	ids   esh3ar.IDs

	*dispatch.Dispatcher
	stop func()
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, path: filepath.Join(t.TempDir(), "test.db")}
	var err error
	if w.store, err = sqlite.Open(t.Context(), w.path, sqlite.Options{}); err != nil {
		t.Fatal(err)
	}
	w.log = openLog(t)
	w.start()
	t.Cleanup(func() {
		w.stop()
		if err := w.store.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// start runs a new dispatcher, as after a restart of the process.
func (w *world) start(options ...func(*dispatch.Options)) {
	w.t.Helper()
	o := dispatch.Options{
		Log: w.log, Store: w.store, Shards: shards,
		Params: delivery.Params{
			Window: 10, WindowBytes: 1 << 20, Hold: 20, Settle: 50 * time.Millisecond,
			AckTimeout: time.Minute, MaxAttempts: 3,
			Backoff: delivery.Backoff{Base: time.Millisecond, Cap: 10 * time.Millisecond},
		},
		CommitEvery: time.Millisecond, ScanEvery: 10 * time.Millisecond,
		Logger: slog.New(slog.NewTextHandler(w.t.Output(), nil)),
	}
	for _, f := range options {
		f(&o)
	}
	d, err := dispatch.New(o)
	if err != nil {
		w.t.Fatal(err)
	}
	w.Dispatcher = d
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.t.Context()))
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx, 10*time.Second) }()
	var once sync.Once
	w.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				w.t.Errorf("Run: %v", err)
			}
		})
	}
}

// message returns a text message that was accepted now.
func (w *world) message(client, to, text string) *esh3ar.Message {
	now := time.Now()
	return &esh3ar.Message{
		ID: w.ids.New(now, esh3ar.ShardOf(to, shards)), Client: client, From: client, To: to,
		Content: text, AcceptedAt: now.UTC().Truncate(time.Microsecond),
	}
}

// accept appends messages to the journal, each shard's in one entry.
func (w *world) accept(ms ...*esh3ar.Message) {
	w.t.Helper()
	batches := make(map[journal.Partition][]byte)
	for _, m := range ms {
		p := journal.Partition{Shard: m.ID.Shard(), Tier: uint8(m.Tier)}
		batches[p] = journal.AppendRecord(batches[p], record.AppendMessage(nil, m))
	}
	for p, b := range batches {
		if _, err := w.log.Append(w.t.Context(), p, b); err != nil {
			w.t.Fatal(err)
		}
	}
}

// await returns the message's row once it has that status.
func (w *world) await(m *esh3ar.Message, want esh3ar.Status) store.Row {
	w.t.Helper()
	var row store.Row
	w.until(fmt.Sprintf("%s is %s", m.Content, want), func() bool {
		var err error
		row, err = w.store.Message(w.t.Context(), m.Client, m.ID)
		return err == nil && row.State.Status == want
	})
	return row
}

func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			w.t.Fatalf("not in time: %s", what)
		case <-tick.C:
		}
	}
}

// phone is a device that remembers what it got and acknowledges it if it should.
type phone struct {
	got chan *dispatch.Delivery
	att *dispatch.Attachment
	ack bool

	mu  sync.Mutex
	all []string
}

// connect attaches a phone to a recipient.
func (w *world) connect(to string, ack bool) *phone {
	p := &phone{got: make(chan *dispatch.Delivery, 10000), ack: ack}
	p.mu.Lock() // until att is set
	defer p.mu.Unlock()
	p.att = w.Attach(to, p)
	return p
}

func (p *phone) Deliver(d *dispatch.Delivery) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = append(p.all, d.Message.Content)
	p.got <- d
	if p.ack {
		p.att.Acknowledge([]esh3ar.ID{d.Message.ID})
	}
}

func (p *phone) texts() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.all)
}

func (w *world) next(p *phone) *dispatch.Delivery {
	w.t.Helper()
	select {
	case d := <-p.got:
		return d
	case <-time.After(20 * time.Second):
		w.t.Fatal("nothing delivered in time")
		return nil
	}
}

func statuses(r store.Row) string {
	s := ""
	for i, t := range r.State.Timeline {
		if i > 0 {
			s += " "
		}
		s += t.Status.String()
	}
	return s
}

func TestDeliveredAtOnce(t *testing.T) {
	w := newWorld(t)
	p := w.connect("rana", true)
	m := w.message("bank", "rana", "hello")
	w.accept(m)
	if d := w.next(p); d.Message.ID != m.ID || d.Attempt != 1 {
		t.Errorf("delivered %s, attempt %d", d.Message.ID, d.Attempt)
	}
	row := w.await(m, esh3ar.StatusDelivered)
	if got := statuses(row); got != "accepted queued sent delivered" {
		t.Errorf("timeline: %s", got)
	}
	if row.Place != store.InHistory {
		t.Errorf("place: %d", row.Place)
	}
}

func TestWaitsForTheRecipient(t *testing.T) {
	w := newWorld(t)
	var ms []*esh3ar.Message
	var want []string
	for i := range 95 {
		m := w.message("bank", "rana", fmt.Sprint("m", i))
		ms, want = append(ms, m), append(want, m.Content)
		w.accept(m)
	}
	for _, m := range ms {
		w.await(m, esh3ar.StatusQueued)
	}
	p := w.connect("rana", true)
	for _, m := range ms {
		w.await(m, esh3ar.StatusDelivered)
	}
	if got := p.texts(); !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}

// New messages arrive all the time while the waiting ones are caught up with, at several sizes of
// burst, so that the held tail overflows and is parked again and again.
func TestCatchUpIsNotOvertaken(t *testing.T) {
	for _, burst := range []int{1, 7, 50} {
		t.Run(fmt.Sprint(burst), func(t *testing.T) {
			w := newWorld(t)
			const n = 600
			var want []string
			var last *esh3ar.Message
			var p *phone
			for i := 0; i < n; {
				var ms []*esh3ar.Message
				for range burst {
					last = w.message("bank", "rana", fmt.Sprint("m", i))
					ms, want = append(ms, last), append(want, last.Content)
					i++
				}
				w.accept(ms...)
				if p == nil && i >= n/3 {
					p = w.connect("rana", true)
				}
			}
			w.await(last, esh3ar.StatusDelivered)
			if got := p.texts(); !slices.Equal(got, want) {
				t.Errorf("got %d of %d: %v", len(got), len(want), got)
			}
		})
	}
}

func TestRestartGoesOnAtThePosition(t *testing.T) {
	w := newWorld(t)
	first := w.message("bank", "rana", "first")
	waiting := w.message("bank", "omar", "waiting")
	p := w.connect("rana", true)
	w.accept(first, waiting)
	w.await(first, esh3ar.StatusDelivered)
	w.await(waiting, esh3ar.StatusQueued)
	w.stop()

	between := w.message("bank", "rana", "between")
	w.accept(between)
	w.start()
	p2, omar := w.connect("rana", true), w.connect("omar", true)
	w.await(between, esh3ar.StatusDelivered)
	w.await(waiting, esh3ar.StatusDelivered)
	if got := fmt.Sprint(p.texts(), p2.texts(), omar.texts()); got != "[first] [between] [waiting]" {
		t.Error(got)
	}
}

// A store that lost its last commits, or an owner that died before the position moved, gets the
// records again; what is stored already is left out.
func TestRepeatedRecordsAreLeftOut(t *testing.T) {
	w := newWorld(t)
	p := w.connect("rana", true)
	m := w.message("bank", "rana", "once")
	m.Key, m.Digest = "key-1", [32]byte{1}
	w.accept(m)
	w.await(m, esh3ar.StatusDelivered)
	w.accept(m) // admitted before the first was stored
	marker := w.message("bank", "rana", "marker")
	w.accept(marker)
	w.await(marker, esh3ar.StatusDelivered)
	if got := fmt.Sprint(p.texts()); got != "[once marker]" {
		t.Error(got)
	}
	w.stop()
	w.accept(m) // found at the next start
	w.start()
	p = w.connect("rana", true)
	marker = w.message("bank", "rana", "marker")
	w.accept(marker)
	w.await(marker, esh3ar.StatusDelivered)
	if got := fmt.Sprint(p.texts()); got != "[marker]" {
		t.Error(got)
	}
}

func TestUnacknowledgedIsSentAgain(t *testing.T) {
	w := newWorld(t)
	w.stop()
	w.start(func(o *dispatch.Options) { o.Params.AckTimeout = 30 * time.Millisecond })
	p := w.connect("rana", false)
	m := w.message("bank", "rana", "hello")
	w.accept(m)
	for attempt := range uint32(3) {
		if d := w.next(p); d.Attempt != attempt+1 {
			t.Errorf("attempt %d, want %d", d.Attempt, attempt+1)
		}
	}
	row := w.await(m, esh3ar.StatusUndelivered)
	if got := statuses(row); got != "accepted queued sent queued sent queued sent undelivered" {
		t.Errorf("timeline: %s", got)
	}
	if last := row.State.Last(); last.Reason != esh3ar.ReasonAttempts || last.Attempt != 3 {
		t.Errorf("last: %+v", last)
	}
}

func TestLateAcknowledgementAndRead(t *testing.T) {
	w := newWorld(t)
	p := w.connect("rana", false)
	stranger := w.connect("omar", false)
	m := w.message("bank", "rana", "hello")
	w.accept(m)
	w.next(p)
	p.att.Detach(true)
	w.await(m, esh3ar.StatusQueued)
	stranger.att.Acknowledge([]esh3ar.ID{m.ID}) // not its message, perhaps not even its shard
	q := w.connect("rana", false)
	w.next(q)
	q.att.Acknowledge([]esh3ar.ID{m.ID})
	w.await(m, esh3ar.StatusDelivered)
	q.att.MarkRead([]esh3ar.ID{m.ID})
	q.att.MarkRead([]esh3ar.ID{m.ID})
	row := w.await(m, esh3ar.StatusRead)
	if got := statuses(row); got != "accepted queued sent queued sent delivered read" {
		t.Errorf("timeline: %s", got)
	}
}

func TestScheduledAndExpired(t *testing.T) {
	w := newWorld(t)
	p := w.connect("rana", true)
	later := w.message("bank", "rana", "later")
	later.SendAt = later.AcceptedAt.Add(100 * time.Millisecond)
	offline := w.message("bank", "omar", "offline")
	offline.ExpiresAt = offline.AcceptedAt.Add(150 * time.Millisecond)
	w.accept(later, offline)
	row := w.await(later, esh3ar.StatusDelivered)
	if got := statuses(row); got != "accepted scheduled queued sent delivered" {
		t.Errorf("timeline: %s", got)
	}
	if d := w.next(p); time.Now().Before(d.Message.SendAt) {
		t.Error("sent too early")
	}
	row = w.await(offline, esh3ar.StatusExpired)
	if row.State.Last().Reason != esh3ar.ReasonTTL {
		t.Errorf("reason %q", row.State.Last().Reason)
	}
}

func TestTwoDevices(t *testing.T) {
	w := newWorld(t)
	a, b := w.connect("rana", false), w.connect("rana", false)
	m := w.message("bank", "rana", "hello")
	w.accept(m)
	w.next(a)
	w.next(b)
	b.att.Acknowledge([]esh3ar.ID{m.ID})
	w.await(m, esh3ar.StatusDelivered)
	a.att.Acknowledge([]esh3ar.ID{m.ID}) // too late to matter
	a.att.Detach(false)
	n := w.message("bank", "rana", "again")
	w.accept(n)
	w.next(b)
	b.att.Acknowledge([]esh3ar.ID{n.ID})
	w.await(n, esh3ar.StatusDelivered)
	if got := fmt.Sprint(a.texts(), b.texts()); got != "[hello] [hello again]" {
		t.Error(got)
	}
}

func TestUndecodableRecordDoesNotStopTheShard(t *testing.T) {
	w := newWorld(t)
	p := w.connect("rana", true)
	m := w.message("bank", "rana", "hello")
	b := journal.AppendRecord(nil, []byte("\xff\xff no message"))
	b = journal.AppendRecord(b, record.AppendMessage(nil, m))
	b = append(b, 0x77) // and a torn end
	if _, err := w.log.Append(t.Context(), journal.Partition{Shard: m.ID.Shard()}, b); err != nil {
		t.Fatal(err)
	}
	w.next(p)
	w.await(m, esh3ar.StatusDelivered)
	w.until("both rejects are stored", func() bool {
		rejected, err := w.store.Rejected(t.Context(), 0, 10)
		return err == nil && len(rejected) == 2
	})
}

// Message answers for what was just accepted, and tells unknown from not yet known.
func TestMessageRightAfterAcceptance(t *testing.T) {
	w := newWorld(t)
	m := w.message("bank", "rana", "hello")
	w.accept(m)
	row, err := w.Message(t.Context(), "bank", m.ID)
	if err != nil || row.Message.Content != "hello" {
		t.Errorf("%v, %v", row.Message.Content, err)
	}
	for _, id := range []esh3ar.ID{w.ids.New(time.Now(), 0), w.ids.New(time.Now(), 999)} {
		if _, err := w.Message(t.Context(), "bank", id); esh3ar.KindOf(err) != esh3ar.KindNotFound {
			t.Errorf("%s: %v", id, err)
		}
	}
	if _, err := w.Message(t.Context(), "shop", m.ID); esh3ar.KindOf(err) != esh3ar.KindNotFound {
		t.Errorf("another client's: %v", err)
	}
	w.stop()
	n := w.message("bank", "rana", "nobody reads the journal now")
	w.accept(n)
	if _, err := w.Message(t.Context(), "bank", n.ID); esh3ar.KindOf(err) != esh3ar.KindUnavailable {
		t.Errorf("not stored yet: %v", err)
	}
}

func openLog(t testing.TB) *memory.Log {
	t.Helper()
	l, err := memory.Open(new(memory.Disk), memory.Options{Shards: shards})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestCancel(t *testing.T) {
	w := newWorld(t)
	m := w.message("bank", "rana", "withdrawn")
	w.accept(m)
	row, err := w.Cancel(t.Context(), "bank", m.ID)
	if err != nil || statuses(row) != "accepted queued canceled" {
		t.Fatalf("%s, %v", statuses(row), err)
	}
	if _, err := w.Cancel(t.Context(), "bank", m.ID); err != nil {
		t.Errorf("again: %v", err)
	}
	if _, err := w.Cancel(t.Context(), "shop", m.ID); esh3ar.KindOf(err) != esh3ar.KindNotFound {
		t.Errorf("another client's: %v", err)
	}
	p := w.connect("rana", false)
	n := w.message("bank", "rana", "on its way")
	w.accept(n)
	if d := w.next(p); d.Message.ID != n.ID {
		t.Errorf("got %s", d.Message.Content)
	}
	if _, err := w.Cancel(t.Context(), "bank", n.ID); esh3ar.KindOf(err) != esh3ar.KindConflict {
		t.Errorf("in flight: %v", err)
	}
	p.att.Acknowledge([]esh3ar.ID{n.ID})
	w.await(n, esh3ar.StatusDelivered)
	if _, err := w.Cancel(t.Context(), "bank", n.ID); esh3ar.KindOf(err) != esh3ar.KindConflict {
		t.Errorf("delivered: %v", err)
	}
}

func TestDeadLettersAreReplayedAndDiscarded(t *testing.T) {
	w := newWorld(t)
	w.stop()
	w.start(func(o *dispatch.Options) { o.Params.AckTimeout = 20 * time.Millisecond })
	p := w.connect("rana", false)
	var ms []*esh3ar.Message
	for i := range 3 {
		ms = append(ms, w.message("bank", "rana", fmt.Sprint("m", i)))
	}
	w.accept(ms...)
	for _, m := range ms {
		w.await(m, esh3ar.StatusUndelivered)
	}
	// Longer than what is kept, which does not end in half a character.
	why := "nobody wants it" + strings.Repeat("ä", 100)
	row, err := w.Discard(t.Context(), "bank", ms[2].ID, why)
	if err != nil || row.State.Status != esh3ar.StatusUndelivered || string(row.State.Last().Reason) != "discarded: "+why[:199] {
		t.Errorf("%+v, %v", row.State.Last(), err)
	}
	p.att.Detach(true)
	if row, err = w.Replay(t.Context(), "bank", ms[0].ID); err != nil || row.State.Status != esh3ar.StatusQueued || row.State.Generation != 2 {
		t.Errorf("offline: %+v, %v", row.State, err)
	}
	if _, err = w.Replay(t.Context(), "bank", ms[0].ID); esh3ar.KindOf(err) != esh3ar.KindConflict {
		t.Errorf("again: %v", err)
	}
	q := w.connect("rana", true)
	w.await(ms[0], esh3ar.StatusDelivered)
	if _, err = w.Replay(t.Context(), "bank", ms[1].ID); err != nil {
		t.Errorf("online: %v", err)
	}
	w.await(ms[1], esh3ar.StatusDelivered)
	if got := fmt.Sprint(q.texts()); got != "[m0 m1]" {
		t.Error(got)
	}
}

// A recipient that acknowledges nothing is sent one message at a time, after pauses.
func TestBreaker(t *testing.T) {
	w := newWorld(t)
	w.stop()
	w.start(func(o *dispatch.Options) {
		o.Params.AckTimeout = 10 * time.Millisecond
		o.Params.MaxAttempts, o.Params.Strikes, o.Params.Pause = 100, 3, time.Hour
	})
	p := w.connect("rana", false)
	first, second := w.message("bank", "rana", "m0"), w.message("bank", "rana", "m1")
	w.accept(first)
	for range 3 {
		w.next(p)
	}
	w.accept(second)
	row := w.await(second, esh3ar.StatusQueued)
	if row.State.Attempts != 0 {
		t.Errorf("charged %d attempts", row.State.Attempts)
	}
	q := w.connect("rana", true) // closes it
	w.await(first, esh3ar.StatusDelivered)
	w.await(second, esh3ar.StatusDelivered)
	if got := q.texts(); !slices.Equal(got, []string{"m0", "m1"}) {
		t.Error(got)
	}
}
