package dispatch_test

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/dispatch"
	"github.com/esh3artech/esh3ar/internal/journal"
	"github.com/esh3artech/esh3ar/internal/journal/memory"
	"github.com/esh3artech/esh3ar/internal/store/sqlite"
)

// registry gives leases as the test says. It is the leases of several dispatchers, by name.
type registry struct {
	mu      sync.Mutex
	holder  map[uint16]string // who is to have a shard
	held    map[uint16]bool   // and whether somebody has it
	end     map[uint16]context.CancelFunc
	changed chan struct{}
}

func newRegistry() *registry {
	return &registry{holder: map[uint16]string{}, held: map[uint16]bool{}, end: map[uint16]context.CancelFunc{}, changed: make(chan struct{})}
}

// give says who is to have the shard. Who has it is asked to give it up.
func (g *registry) give(shard uint16, to string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.holder[shard] == to {
		return
	}
	g.holder[shard] = to
	if end := g.end[shard]; end != nil {
		end()
	}
	g.signal()
}

// force lets another have the shard though the first does not know that it lost it.
func (g *registry) force(shard uint16, to string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.holder[shard], g.held[shard], g.end[shard] = to, false, nil
	g.signal()
}

func (g *registry) signal() {
	close(g.changed)
	g.changed = make(chan struct{})
}

// leases are one dispatcher's.
type leases struct {
	of   string
	from *registry
}

func (l leases) Acquire(ctx context.Context, shard uint16) (context.Context, func(), error) {
	g := l.from
	for {
		g.mu.Lock()
		if g.holder[shard] == l.of && !g.held[shard] {
			lease, end := context.WithCancel(ctx)
			g.held[shard], g.end[shard] = true, end
			g.mu.Unlock()
			var once sync.Once
			return lease, func() {
				once.Do(func() {
					end()
					g.mu.Lock()
					defer g.mu.Unlock()
					g.held[shard] = false
					g.signal()
				})
			}, nil
		}
		changed := g.changed
		g.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		case <-changed:
		}
	}
}

// nodes are dispatchers over one store and one journal.
type nodes struct {
	*world
	registry *registry
	by       map[string]*dispatch.Dispatcher

	mu    sync.Mutex
	owner map[uint16][]string // who told that it owns the shard, in order; a loss is "-name"
}

func newNodes(t *testing.T, names ...string) *nodes {
	return newNodesWith(t, func(*dispatch.Options) {}, names...)
}

func newNodesWith(t *testing.T, options func(*dispatch.Options), names ...string) *nodes {
	w := newWorld(t)
	w.stop()
	n := &nodes{world: w, registry: newRegistry(), by: map[string]*dispatch.Dispatcher{}, owner: map[uint16][]string{}}
	for _, name := range names {
		w.start(options, func(o *dispatch.Options) {
			o.Leases = leases{name, n.registry}
			o.Owned = func(shard uint16, owned bool) {
				n.mu.Lock()
				defer n.mu.Unlock()
				if owned {
					n.owner[shard] = append(n.owner[shard], name)
				} else {
					n.owner[shard] = append(n.owner[shard], "-"+name)
				}
			}
		})
		n.by[name] = w.Dispatcher
		stop := w.stop
		t.Cleanup(stop)
	}
	return n
}

func (n *nodes) told(shard uint16) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.owner[shard])
}

// follow keeps a phone attached to whoever owns the recipient's shard, until the test ends.
func (n *nodes) follow(to string) *phone {
	p := &phone{got: make(chan *dispatch.Delivery, 100_000), ack: true}
	shard := esh3ar.ShardOf(to, shards)
	done, ended := make(chan struct{}), make(chan struct{})
	n.t.Cleanup(func() {
		close(done)
		<-ended
	})
	go func() {
		defer close(ended)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		seen := 0
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			told := n.told(shard)
			if len(told) == seen {
				continue
			}
			seen = len(told)
			name := told[seen-1]
			if d := n.by[name]; d != nil {
				p.mu.Lock()
				p.att = d.Attach(to, p)
				p.mu.Unlock()
			}
		}
	}()
	return p
}

// firsts returns what the phone got, without what it got again.
func (p *phone) firsts() []string {
	var out []string
	seen := map[string]bool{}
	for _, text := range p.texts() {
		if !seen[text] {
			seen[text] = true
			out = append(out, text)
		}
	}
	return out
}

// A shard that changes hands in order, over and over while messages come, loses none and keeps their order.
func TestHandOver(t *testing.T) {
	n := newNodes(t, "a", "b", "c")
	shard := esh3ar.ShardOf("user", shards)
	n.registry.give(shard, "a")
	p := n.follow("user")
	var want []string
	names := []string{"a", "b", "c"}
	for i := range 600 {
		if i%50 == 49 {
			before := len(n.told(shard))
			n.registry.give(shard, names[i/50%3])
			if i/50%3 != 0 || i > 50 {
				n.until("the shard moved", func() bool { return len(n.told(shard)) >= before+1 || i < 50 })
			}
		}
		m := n.message("client", "user", fmt.Sprint(i))
		want = append(want, m.Content)
		n.accept(m)
	}
	last := want[len(want)-1]
	n.until("the last message is delivered", func() bool { return slices.Contains(p.texts(), last) })
	if got := p.firsts(); !slices.Equal(got, want) {
		t.Errorf("got %d messages in the order %v, want %d in order", len(got), got, len(want))
	}
	told := n.told(shard)
	for i := 1; i < len(told); i++ {
		if (told[i][0] == '-') == (told[i-1][0] == '-') {
			t.Fatalf("two owners at a time: %v", told)
		}
	}
	if len(told) < 12 {
		t.Errorf("the shard moved too little: %v", told)
	}
}

// succeeded waits until "old" has given the shard up to "new", and until a phone of the user that comes to "new" has both messages, of
// which the second was accepted while both owned the shard.
func (n *nodes) succeeded(shard uint16, first, second *esh3ar.Message) *phone {
	n.t.Helper()
	n.until("the old one ends", func() bool { return slices.Contains(n.told(shard), "-old") })
	n.await(second, esh3ar.StatusQueued)
	p := &phone{got: make(chan *dispatch.Delivery, 100), ack: true}
	p.mu.Lock()
	p.att = n.by["new"].Attach("user", p)
	p.mu.Unlock()
	n.await(first, esh3ar.StatusDelivered)
	n.await(second, esh3ar.StatusDelivered)
	return p
}

// An owner that does not know that it lost its lease is refused by the store, and ends; the new one goes on.
func TestStaleOwner(t *testing.T) {
	n := newNodes(t, "old", "new")
	shard := esh3ar.ShardOf("user", shards)
	n.registry.give(shard, "old")
	n.until("it is owned", func() bool { return slices.Equal(n.told(shard), []string{"old"}) })
	first := n.message("client", "user", "first")
	n.accept(first)
	n.await(first, esh3ar.StatusQueued)

	n.registry.force(shard, "new")
	n.until("both own it", func() bool { return slices.Equal(n.told(shard), []string{"old", "new"}) })
	second := n.message("client", "user", "second")
	n.accept(second) // both read it
	p := n.succeeded(shard, first, second)
	if got := p.firsts(); !slices.Equal(got, []string{"first", "second"}) {
		t.Errorf("got %v", got)
	}
	if n.by["old"].Attach("user", p) != nil {
		t.Error("the old owner lets attach")
	}
}

// Whoever does not own a shard answers from the store, and says that others know more.
func TestQuestionsElsewhere(t *testing.T) {
	n := newNodes(t, "owner", "other")
	for shard := range uint16(shards) {
		n.registry.give(shard, "owner")
	}
	m := n.message("client", "user", "text")
	n.accept(m)
	row, err := n.by["other"].Message(t.Context(), "client", m.ID)
	if err != nil || row.Message.Content != "text" {
		t.Errorf("a message of another's shard: %v, %v", row.Message.Content, err)
	}
	if _, err := n.by["other"].Cancel(t.Context(), "client", m.ID); !dispatch.IsElsewhere(err) {
		t.Errorf("canceled elsewhere: %v", err)
	}
	if row, err := n.by["owner"].Cancel(t.Context(), "client", m.ID); err != nil || row.State.Status != esh3ar.StatusCanceled {
		t.Errorf("canceled by the owner: %v, %v", row.State.Status, err)
	}
	ghost := n.message("client", "user", "never accepted")
	if _, err := n.by["other"].Message(t.Context(), "client", ghost.ID); esh3ar.KindOf(err) != esh3ar.KindNotFound {
		t.Errorf("a message that is not there: %v", err)
	}
}

// Who takes a shard over looks up whatever an earlier owner may have seen, also if the journal's server says that
// there is less of it; and while it may say so, nothing is said not to exist.
func TestStaleJournal(t *testing.T) {
	w := newWorld(t)
	p := w.connect("user", true)
	m := w.message("client", "user", "once")
	w.accept(m)
	w.await(m, esh3ar.StatusDelivered)
	w.stop()
	// The position is lost, and with it what tells that the message was seen, but for the rows.
	w.forgetPositions()
	var connected atomic.Bool
	w.start(func(o *dispatch.Options) {
		o.Log = staleLog{w.log}
		o.Barrier = func(ctx context.Context, shard uint16) (uint64, error) { return 1 << 40, nil }
		o.Connected = connected.Load
	})
	again := w.connect("user", true)
	second := w.message("client", "user", "second")
	w.accept(second)
	w.next(again)
	if got := again.texts(); !slices.Equal(got, []string{"second"}) {
		t.Errorf("got %v after %v", got, p.texts())
	}
	ghost := w.message("client", "user", "never accepted")
	if _, err := w.Message(t.Context(), "client", ghost.ID); esh3ar.KindOf(err) != esh3ar.KindUnavailable {
		t.Errorf("while the journal's end is not known: %v", err)
	}
}

// A journal that is full takes no barrier either. What is in it is read all the same, or there would never be room again; and
// nothing that an earlier owner stored is sent again, before the barrier is there and after.
func TestFullJournalIsRead(t *testing.T) {
	w := newWorld(t)
	p := w.connect("user", true)
	m := w.message("client", "user", "once")
	w.accept(m)
	w.await(m, esh3ar.StatusDelivered)
	w.stop()
	w.forgetPositions()
	var room atomic.Bool
	var refused, taken atomic.Int32
	w.start(func(o *dispatch.Options) {
		o.Barrier = func(context.Context, uint16) (uint64, error) {
			if !room.Load() {
				refused.Add(1)
				return 0, journal.ErrFull
			}
			taken.Add(1)
			return 1 << 40, nil
		}
	})
	w.until("every partition was refused a barrier", func() bool { return refused.Load() >= shards*int32(esh3ar.Tiers) })
	again := w.connect("user", true)
	w.accept(w.message("client", "user", "second"))
	w.next(again)
	if got := again.texts(); !slices.Equal(got, []string{"second"}) {
		t.Errorf("got %v after %v", got, p.texts())
	}
	room.Store(true)
	w.until("the barrier", func() bool {
		w.accept(w.message("client", "user", "later"))
		w.next(again)
		return taken.Load() == 1 // of the tier that is read; the others ask when something comes
	})
	w.accept(w.message("client", "user", "last"))
	w.next(again)
	if got := again.texts(); got[0] != "second" || slices.Contains(got, "once") || got[len(got)-1] != "last" {
		t.Errorf("got %v", got)
	}
}

// staleLog is a journal whose server does not know of what came lately.
type staleLog struct{ *memory.Log }

func (staleLog) Last(context.Context, journal.Partition) (uint64, error) { return 0, nil }

// forgetPositions sets the stored positions back to the beginning.
func (w *world) forgetPositions() {
	w.t.Helper()
	if err := w.store.Close(); err != nil {
		w.t.Fatal(err)
	}
	db, err := sql.Open("sqlite", w.path)
	if err != nil {
		w.t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(w.t.Context(), "UPDATE shard SET position_gold = 0"); err != nil {
		w.t.Fatal(err)
	}
	if w.store, err = sqlite.Open(w.t.Context(), w.path, sqlite.Options{}); err != nil {
		w.t.Fatal(err)
	}
}
