package cluster

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Defaults of LeaderOptions.
const (
	DefaultRenew     = time.Second
	DefaultHeldFor   = 4 * time.Second
	DefaultTakeAfter = 5 * time.Second
)

// ErrTermOver is why a term's context ends: another process may lead already.
var ErrTermOver = errors.New("another process may lead")

// LeaderOptions configures Leader. The zero value of an optional field means its default.
type LeaderOptions struct {
	NATS   Connector    // required
	Logger *slog.Logger // required

	// Task is what is led, one word. All candidates for it have the same. Required.
	Task string

	// Name is this process's, to show. Required.
	Name string

	// Renew is how often the lease is renewed and looked at. Default 1 s.
	Renew time.Duration

	// HeldFor is how long a leader leads after it began to store its last renewal. Default 4 s.
	HeldFor time.Duration

	// TakeAfter is how long after a renewal was seen another process may take the lease. It must be more than
	// HeldFor: who led is to know first. Default 5 s.
	TakeAfter time.Duration
}

// Leader has one of several processes lead at a time. It uses the bucket that the nodes report to.
//
// The lease is a key that changes by compare-and-set alone. Its holder replaces it again and again. Another process takes
// it when the holder has given it back, or when it has not seen the holder replace it for TakeAfter, by its own monotonic
// clock. That the taking succeeds says that the holder has not replaced it since it was seen; so the holder, who leads for
// HeldFor from before its last renewal was stored, has ended by then. It needs no clocks that agree, only such that
// run equally fast.
//
//	free ──a candidate claims it──► held ──its holder gives it back──► free
//	                                 │ ▲
//	                                 └─┴──not renewed: a candidate claims it
//
// A process that was stopped for long finds at its next look at the clock that its term is over. What it began before may
// still be under way; so a leader stores what it is about to do by Term.Store, which fails for all but the newest.
type Leader struct {
	opts LeaderOptions
	id   string // of this start

	holder  atomic.Pointer[string] // who holds the lease, as of the last look
	leading atomic.Bool
	board   atomic.Pointer[board] // once there is a connection
}

// leaderLease is the lease as it is stored.
type leaderLease struct {
	Name     string `json:"name"`
	Start    string `json:"start"` // differs for every start of a process
	Released bool   `json:"released,omitempty"`
}

// NewLeader checks the options. Nothing happens before Run.
func NewLeader(o LeaderOptions) (*Leader, error) {
	switch {
	case o.NATS == nil || o.Logger == nil:
		return nil, errors.New("cluster: NATS and logger are required")
	case o.Name == "" || !nodeName.MatchString(o.Task) || strings.Contains(o.Task, "."):
		return nil, fmt.Errorf("cluster: leader of %q by the name %q: want a word and a name", o.Task, o.Name)
	}
	o.Renew = cmp.Or(o.Renew, DefaultRenew)
	o.HeldFor = cmp.Or(o.HeldFor, DefaultHeldFor)
	o.TakeAfter = cmp.Or(o.TakeAfter, DefaultTakeAfter)
	if o.Renew < 0 || o.HeldFor < 2*o.Renew || o.TakeAfter <= o.HeldFor {
		return nil, fmt.Errorf("cluster: lease renewed every %v, held for %v, taken after %v: each must be longer than the one before", o.Renew, o.HeldFor, o.TakeAfter)
	}
	l := &Leader{opts: o, id: fmt.Sprintf("%x-%x", time.Now().UnixNano(), rand.Uint64())}
	l.holder.Store(new(string))
	return l, nil
}

// Leading says whether this process leads, as of now.
func (l *Leader) Leading() bool { return l.leading.Load() }

// Holder returns the name of the process that led when it was last looked, "" if none did or that is too long ago.
func (l *Leader) Holder() string { return *l.holder.Load() }

// Read returns what the leader stored last, whoever it is, or a little before; empty if there is nothing yet.
func (l *Leader) Read(ctx context.Context) ([]byte, error) {
	b := l.board.Load()
	if b == nil {
		return nil, errors.New("cluster: there is no connection to NATS yet")
	}
	e, err := b.get(ctx, l.recordKey())
	if err != nil {
		return nil, fmt.Errorf("cluster: read the leader's record: %w", err)
	}
	return e.value, nil
}

// Run calls lead whenever this process becomes the leader, until ctx ends; then it gives the lease back and returns nil.
// Lead must return soon after its context ends, whose cause is ErrTermOver if others may lead, and must not act after
// its Err is not nil. When it returns before, the lease is given back too, so that another process may try; an error is
// logged. Run waits for NATS for as long as it takes, and must be called once. Errors: what makes NATS unusable for good.
func (l *Leader) Run(ctx context.Context, lead func(ctx context.Context, t *Term) error) error {
	nc, js, err := connect(ctx, l.opts.NATS, l.opts.Logger)
	if nc == nil || err != nil {
		return err
	}
	defer nc.Close()
	b := &board{name: boardName(0), js: js, log: l.opts.Logger}
	l.board.Store(b)
	var revision uint64 // of the lease that was seen last
	var since time.Time // when it was first seen
	looked := time.Now()
	for told := false; ctx.Err() == nil; pause(ctx, l.opts.Renew) {
		entry, err := b.get(ctx, l.leaseKey())
		if err != nil {
			if !told && ctx.Err() == nil {
				told = true // an outage is one line
				l.opts.Logger.Warn("the lease cannot be read", "task", l.opts.Task, "error", err)
			}
			if time.Since(looked) > l.opts.TakeAfter {
				l.holder.Store(new(string)) // whoever led may have been replaced
			}
			continue
		}
		told, looked = false, time.Now()
		if entry.revision != revision || since.IsZero() {
			revision, since = entry.revision, time.Now()
		}
		held := l.read(entry)
		if held.Start != l.id && !held.Released && time.Since(since) <= l.opts.TakeAfter {
			l.holder.Store(&held.Name)
			continue
		}
		l.holder.Store(new(string))
		began := time.Now()
		claimed, err := l.replace(ctx, b, revision, false)
		if err != nil {
			continue // another was faster, or the next look tells
		}
		l.term(ctx, b, claimed, began, lead)
		since = time.Time{}
	}
	return nil
}

// read returns the lease as it is stored. What cannot be read is held by nobody that could be told apart.
func (l *Leader) read(e boardEntry) leaderLease {
	if e.revision == 0 || e.value == nil {
		return leaderLease{Released: true}
	}
	var held leaderLease
	if err := json.Unmarshal(e.value, &held); err != nil {
		l.opts.Logger.Warn("unreadable lease", "task", l.opts.Task, "error", err)
	}
	return held
}

// replace puts this process into the lease.
func (l *Leader) replace(ctx context.Context, b *board, revision uint64, released bool) (uint64, error) {
	value, err := json.Marshal(leaderLease{Name: l.opts.Name, Start: l.id, Released: released})
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return b.replace(ctx, l.leaseKey(), value, revision)
}

func (l *Leader) leaseKey() string  { return "leader." + l.opts.Task }
func (l *Leader) recordKey() string { return "record." + l.opts.Task }

// term leads until the lease is over or lead returns, and gives it back. It began before it was stored.
func (l *Leader) term(ctx context.Context, b *board, revision uint64, began time.Time, lead func(context.Context, *Term) error) {
	c := newTermContext(ctx, began.Add(l.opts.HeldFor))
	var renewing sync.WaitGroup
	renewing.Go(func() { revision = l.renew(c, b, revision) })
	l.holder.Store(&l.opts.Name)
	l.leading.Store(true)
	l.opts.Logger.Info("this process leads", "task", l.opts.Task)
	t := &Term{board: b, key: l.recordKey()}
	err := t.begin(c)
	if err == nil {
		err = lead(c, t)
	}
	ended := c.Err() != nil
	l.leading.Store(false)
	c.cancel(context.Canceled)
	renewing.Wait()
	if errors.Is(context.Cause(c.Context), ErrTermOver) {
		l.opts.Logger.Warn("this process does not lead any more", "task", l.opts.Task)
		return
	}
	if err != nil && !ended {
		l.opts.Logger.Warn("this process gives up leading", "task", l.opts.Task, "error", err)
	}
	giving, done := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
	defer done()
	if _, err := l.replace(giving, b, revision, true); err != nil && !errors.Is(err, errChanged) {
		l.opts.Logger.Warn("the lease is not given back; another takes it when it is over", "task", l.opts.Task, "error", err)
	}
}

// renew replaces the lease again and again until the term ends, and returns the last revision.
func (l *Leader) renew(c *termContext, b *board, revision uint64) uint64 {
	over := time.NewTimer(time.Until(*c.until.Load()))
	defer over.Stop()
	next := time.NewTicker(l.opts.Renew)
	defer next.Stop()
	for {
		select {
		case <-c.Done():
			return revision
		case <-over.C:
			c.cancel(ErrTermOver)
			return revision
		case <-next.C:
		}
		began := time.Now()
		stored, err := l.replace(c, b, revision, false)
		switch {
		case err == nil:
			revision = stored
			until := began.Add(l.opts.HeldFor)
			c.until.Store(&until)
			over.Reset(time.Until(until))
		case errors.Is(err, errChanged):
			// By another process, or by this one's attempt before, whose answer was lost.
			e, err := b.get(c, l.leaseKey())
			if err == nil && e.revision > revision && l.read(e).Start == l.id {
				revision = e.revision
			} else if err == nil && e.revision > revision {
				c.cancel(ErrTermOver)
				return revision
			}
		}
	}
}

// termContext ends with a term.
type termContext struct {
	clocked
	until atomic.Pointer[time.Time]
}

func newTermContext(parent context.Context, until time.Time) *termContext {
	c := new(termContext)
	c.until.Store(&until)
	c.clocked = newClocked(parent, func() bool { return !time.Now().Before(*c.until.Load()) }, ErrTermOver)
	return c
}

// Term is the time in which a process leads. It keeps one value for the task, which goes from leader to leader. Its
// methods are for one goroutine.
type Term struct {
	board    *board
	key      string
	value    []byte
	revision uint64
}

// begin reads what the last leader left, and replaces it so that nothing that leader stores later is taken.
func (t *Term) begin(ctx context.Context) error {
	for ctx.Err() == nil {
		e, err := t.board.get(ctx, t.key)
		if err == nil {
			t.revision = e.revision
			err = t.Store(ctx, e.value)
		}
		if err == nil {
			return nil
		}
		t.board.log.Debug("the leader's record is not there yet", "key", t.key, "error", err)
		pause(ctx, retryPause)
	}
	return ctx.Err()
}

// Value is what was stored last, by this leader or the one before; empty at the very first.
func (t *Term) Value() []byte { return bytes.Clone(t.value) }

// Store keeps a value, of 512 KiB at most. It fails if another leader has begun since this one. If it fails, the value may
// be stored or not, and what is stored later may fail, too: lead returns then.
func (t *Term) Store(ctx context.Context, value []byte) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	revision, err := t.board.replace(ctx, t.key, value, t.revision)
	if err != nil {
		return fmt.Errorf("cluster: keep the leader's record: %w", err)
	}
	t.value, t.revision = bytes.Clone(value), revision
	return nil
}
