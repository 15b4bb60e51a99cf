// Package dispatch routes accepted messages to their recipients: it reads the journal, lets package
// delivery decide, hands messages to the connections of this node and writes what became of them to
// the store.
//
//	journal ──► intake ──► recipients (mailboxes) ──► connections
//	 (a reader   │          │  run by a pool of     ◄── attach, detach, acknowledge
//	  for each   │          ▼  workers
//	  tier)      │        committer ──► store: rows, events and the journal position,
//	             │          ▲           one transaction
//	             ▼          │
//	           batches: how much of each journal entry is not stored yet
//
// Every shard has its own intake, recipients, timers and committer; the pool of workers and the
// readers of waiting messages are shared. A recipient's events run one at a time.
package dispatch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/delivery"
	"github.com/esh3artech/esh3ar/internal/fair"
	"github.com/esh3artech/esh3ar/internal/journal"
	"github.com/esh3artech/esh3ar/internal/store"
)

// Log is what dispatch needs of the journal.
type Log interface {
	Read(ctx context.Context, p journal.Partition, after uint64) (journal.Reader, error)
	Last(ctx context.Context, p journal.Partition) (uint64, error)
	Purge(ctx context.Context, p journal.Partition, below uint64) error
}

// Store is what dispatch needs of the store.
type Store interface {
	store.Shards
	Message(ctx context.Context, client string, id esh3ar.ID) (store.Row, error)
}

// Connection is one live connection of a recipient.
type Connection interface {
	// Deliver queues a delivery. It never blocks and keeps the order of the calls. A connection that
	// cannot take it closes itself, and its Detach follows. The delivery may be shared with other
	// connections, whose Deliver was or will be called from the same goroutine.
	Deliver(d *Delivery)
}

// Delivery is one attempt to bring one message to a recipient.
type Delivery struct {
	Message *esh3ar.Message
	Attempt uint32
	// Encoded is the connections' own: the first may leave there what the others can use too.
	Encoded any
}

// Options configures a Dispatcher. Log, Store, Shards and Params are required.
type Options struct {
	Log    Log
	Store  Store
	Shards int
	Params delivery.Params

	// Memory bounds what journal entries that were read and are not stored yet take in memory, in
	// bytes, for each shard. When it is reached, the shard reads no further. Default 64 MiB.
	Memory int64
	// Tight, if set, says that the process is short of memory. While it is, a shard reads no further
	// ahead than a sixteenth of Memory, and its recipients have little in flight and hold nothing that
	// the store can hold: work waits in the journal and the store, and goes on in small steps. When it
	// ends, they get their room back by and by.
	Tight func() bool
	// CommitEvery is the pace of a shard's commits while there is something to commit. Default 20 ms.
	CommitEvery time.Duration
	// ScanEvery is how often the store is asked for messages that became due. Default 250 ms.
	ScanEvery time.Duration
	// CheckEvery is how often the store is asked whether it still has what it has stored. Default 5 s.
	CheckEvery time.Duration
	// AppendTimeout is the longest time from a message's AcceptedAt until its journal entry is
	// durable or was given up. It bounds how long repeated keys must be remembered. Default 10 s.
	AppendTimeout time.Duration
	// JournalKeep is how long entries stay in the journal after they were stored. Default 10 min.
	JournalKeep time.Duration
	// Busy, if set, says that accepting needs the machine more than dispatch does. While it does, a
	// shard's tier reads at the pace of YieldPace, as long as it is less than YieldLag behind.
	Busy func() bool
	// YieldPace is in messages a second. Default 2,500.
	YieldPace int
	// YieldLag is how old what is read may become before dispatch takes its full share all the same.
	// Default 15 s.
	YieldLag time.Duration
	// Committed, if set, is told of each transaction of a shard that is stored, so that whoever follows its
	// events can read them. It must not block.
	Committed func(shard uint16)
	// Barrier, if set, returns a sequence of the shard above that of everything that was acknowledged before
	// the call. It is needed where Log.Last may be asked of a server that does not know yet that others go on
	// without it. While it fails with journal.ErrFull the store is asked about everything that is read.
	Barrier func(ctx context.Context, shard uint16) (uint64, error)
	// End, if set, is Log.Last for whoever must not be told less than there is, and may cost writes. It is needed where
	// Barrier is.
	End func(ctx context.Context, p journal.Partition) (uint64, error)
	// Connected, if set, says whether Log.Last can be believed. While it is not, nothing is said not to exist.
	Connected func() bool
	// Leases says which shards to own. By default all are.
	Leases Leases
	// StoreAway, if set, says whether the store does not answer this node though it does others. Shards that end then
	// do not wait for it: whoever owns them next reads on from what is stored.
	StoreAway func() bool
	// Owned, if set, is told when a shard begins to be owned here and can be attached to, and when it ceases
	// to be. Calls about one shard do not overlap. It must not block for long.
	Owned func(shard uint16, owned bool)
	// Weights are the tiers' shares of the workers when all of them have more to do. Default
	// fair.DefaultWeights.
	Weights fair.Weights
	// Backlog, if set, returns how many connections wait for a processor to write what they were given. While
	// they are more than LeastProcessors, recipients have no turns.
	Backlog func() int
	// LeastProcessors and MostProcessors bound the number of goroutines that run recipients, which follows the
	// number of recipients that wait for a turn. Defaults: one and two for each processor of the machine.
	LeastProcessors, MostProcessors int

	Now     func() time.Time // default time.Now
	Logger  *slog.Logger     // default slog.Default()
	Metrics prometheus.Registerer
}

func (o *Options) setDefaults(procs int) error {
	if o.Log == nil || o.Store == nil || o.Shards < 1 {
		return errors.New("dispatch: Log, Store and Shards are required")
	}
	if o.Params.Window < 1 || o.Params.MaxAttempts < 1 || o.Params.AckTimeout <= 0 || o.Params.Settle <= 0 {
		return errors.New("dispatch: Params need a window, attempts, an acknowledgement timeout and a settle time")
	}
	setDefault(&o.Memory, 64<<20)
	setDefault(&o.CommitEvery, 20*time.Millisecond)
	setDefault(&o.ScanEvery, 250*time.Millisecond)
	setDefault(&o.CheckEvery, 5*time.Second)
	setDefault(&o.AppendTimeout, 10*time.Second)
	setDefault(&o.JournalKeep, 10*time.Minute)
	setDefault(&o.YieldPace, 2500)
	setDefault(&o.YieldLag, 15*time.Second)
	setDefault(&o.Weights, fair.DefaultWeights())
	for _, w := range o.Weights {
		if w < 1 {
			return errors.New("dispatch: every tier's weight must be positive")
		}
	}
	setDefault(&o.LeastProcessors, procs)
	setDefault(&o.MostProcessors, max(2*procs, o.LeastProcessors))
	if o.LeastProcessors < 1 || o.MostProcessors < o.LeastProcessors {
		return errors.New("dispatch: at least one processor, and at most no fewer")
	}
	if o.Leases == nil {
		o.Leases = alone{}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Metrics == nil {
		o.Metrics = prometheus.NewRegistry()
	}
	return nil
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Dispatcher owns shards and routes for their recipients. Its methods are safe for concurrent use.
type Dispatcher struct {
	opts    Options
	metrics *metrics
	shards  []atomic.Pointer[shard] // nil where the shard is not owned here
	ends    []*ends                 // by shard
	runq    *runQueue
	procs   *processors
	inbox   *inbox

	// haste ends when shards that end are not to store any more.
	haste context.Context
	cut   context.CancelFunc

	lastConn atomic.Uint64
	tight    atomic.Int32 // as the recipients were last told
}

// New returns a Dispatcher that owns shards once Run is called: all of them, or those that the leases say.
// Without leases connections may attach before.
func New(o Options) (*Dispatcher, error) {
	if err := o.setDefaults(runtime.GOMAXPROCS(0)); err != nil {
		return nil, err
	}
	d := &Dispatcher{opts: o, runq: newRunQueue(o.Weights)}
	d.procs = newProcessors(d)
	d.metrics = newMetrics(o.Metrics, d)
	d.inbox = newInbox(d)
	d.haste, d.cut = context.WithCancel(context.Background())
	d.shards = make([]atomic.Pointer[shard], o.Shards)
	for range o.Shards {
		d.ends = append(d.ends, newEnds())
	}
	if o.Leases == Leases(alone{}) {
		for i := range d.shards {
			d.shards[i].Store(newShard(d, uint16(i)))
		}
	}
	return d, nil
}

// Run owns shards and works on them until ctx ends, then stores what it knows and returns. The shutdown takes
// at most the time that stop allows the final commits of a shard.
func (d *Dispatcher) Run(ctx context.Context, stop time.Duration) error {
	var shared sync.WaitGroup
	sharedCtx, stopShared := context.WithCancel(context.WithoutCancel(ctx))
	shared.Go(func() { d.procs.run(sharedCtx) })
	shared.Go(func() { d.inbox.run(sharedCtx) })
	shared.Go(func() { d.watchMemory(sharedCtx) })

	owners, ownersCtx := errgroup.WithContext(ctx)
	for i := range d.shards {
		owners.Go(func() error { return d.own(ownersCtx, uint16(i), stop) })
	}
	err := owners.Wait()
	// What the shards share ends after them, and the processors last, which had to run for all of this.
	stopShared()
	shared.Wait()
	d.runq.close()
	d.procs.wait()
	if err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("dispatch: %w", err)
	}
	return nil
}

// Cut has Run, whose ctx has ended, store nothing more, whatever time stop would allow, and return soon. What is not stored
// is read again from the journal. Calling it again does nothing.
func (d *Dispatcher) Cut() { d.cut() }

// Attachment is one connection's tie to its recipient. Its methods are safe for concurrent use. Nil is tied to
// nothing.
type Attachment struct {
	r    *shard
	name string
	conn delivery.Conn
}

// Attach ties a live connection to its normalised recipient. Waiting messages begin to flow before
// Attach returns or soon after. It returns nil if the recipient's shard is not owned here; when the shard
// ceases to be, the tie ends by itself.
func (d *Dispatcher) Attach(recipient string, c Connection) *Attachment {
	s := d.owned(esh3ar.ShardOf(recipient, len(d.shards)))
	if s == nil {
		return nil
	}
	a := &Attachment{r: s, name: recipient, conn: delivery.Conn(d.lastConn.Add(1))}
	if !s.post(recipient, event{kind: evAttach, conn: a.conn, connection: c}) {
		return nil
	}
	return a
}

// Detach unties the connection. Free says that the server's side ended it, so that what was in flight
// is not charged an attempt.
func (a *Attachment) Detach(free bool) { a.post(event{kind: evDetach, free: free}) }

func (a *Attachment) post(e event) {
	if a != nil {
		e.conn = a.conn
		a.r.post(a.name, e)
	}
}

// Acknowledge takes the device's word that it has these messages. Identifiers that are not the
// recipient's are ignored. The slice is the callee's from now on.
func (a *Attachment) Acknowledge(ids []esh3ar.ID) { a.post(event{kind: evAcknowledge, ids: ids}) }

// MarkRead takes the device's word that its user has read these messages, which implies that it has
// them.
func (a *Attachment) MarkRead(ids []esh3ar.ID) {
	a.post(event{kind: evAcknowledge, ids: ids, read: true})
}
