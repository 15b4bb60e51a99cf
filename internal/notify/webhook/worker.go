package webhook

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
)

const (
	// maxWindow is how many requests to one endpoint are under way at one time. It begins at one, grows by
	// one with each success and falls back to one with a failure, so that an endpoint which hangs holds one
	// place and not eight.
	maxWindow = 8
	// readEvents is how many events are read at one time, maxOpen how many of those that were read may be
	// neither posted nor parked.
	readEvents = 256
	maxOpen    = 1024
	// saveEvery is how long what was posted may be known to memory alone, at most: that is what comes again
	// after a crash, beside what was under way.
	saveEvery = 250 * time.Millisecond
	// maxLogged is how many requests are logged each time that progress is saved; of more, some that
	// succeeded are left out. loggedKeys is how many of a request's events are named.
	maxLogged  = 50
	loggedKeys = 20
	// idle is after what time without events the place that was reached is noted.
	idle = time.Minute
)

// The reasons for which an endpoint is disabled.
const (
	reasonGone     = "gone"      // it answered 410
	reasonFailing  = "failing"   // no request has succeeded for long
	reasonByClient = "by_client" // its client said so
)

// worker posts the events of one endpoint, as it is in one version. Its loop owns everything but the
// requests under way and the save under way, which report to it.
//
//	read ──► lines ──► post, at most window at one time ──► settle ──► save, every 250 ms
//	  ▲        ▲  retries, when they are due                  │ failed: parked
//	  │        └──────────────────────────────────────────────┘
//	  └ stops while the endpoint is not called, or too much is open or parked
type worker struct {
	s        *Service
	ref      store.WebhookRef
	hook     *store.Webhook
	log      *slog.Logger
	quit     chan struct{} // closed to end it; quitting says that it is, to the service alone
	quitting bool

	lines    *lines
	groups   []*group // not settled, in order
	progress store.WebhookProgress
	breaker  breaker
	window   int
	inFlight int
	turn     bool // whose turn it is, of retries and fresh events

	news    chan news
	results chan result

	// What is to be saved.
	dirty   time.Time // since when there is something, zero for nothing
	changed map[store.EventKey]*item
	removed []store.EventKey
	logged  []store.WebhookDelivery

	saving   *store.WebhookSave // under way, or failed and to be repeated
	underWay bool
	saveAt   time.Time // when to repeat it
	saved    chan error
	retries  int

	counted int    // parked events in the metric
	disable string // why the endpoint is to be disabled, "" while it is not
}

// news is what the reader found: events, or, with lost, that some are forgotten. In both cases cursor is
// where to go on.
type news struct {
	events []esh3ar.Event
	cursor string
	lost   bool
}

// result is what came of a request.
type result struct {
	batch  []*item
	id     string
	answer answer
}

// run posts events until it is told to quit, the endpoint is changed, or ctx ends. What is under way then
// may go on until grace ends.
func (w *worker) run(ctx, grace context.Context) {

	hook, parked, ok := w.load(ctx)
	if !ok {
		return
	}
	w.hook, w.progress = hook, hook.WebhookProgress
	w.s.metrics.endpoints.Inc()
	defer w.s.metrics.endpoints.Dec()
	defer w.forget()
	for _, p := range parked {
		w.lines.add(&item{event: p.Event, attempts: p.Attempts, firstAt: p.FirstAt, nextAt: p.NextAt, stored: true})
	}
	reading, stopReading := context.WithCancel(ctx)
	read := make(chan struct{})
	go func() {
		defer close(read)
		w.read(reading)
	}()
	changed := w.loop(ctx, grace)
	stopReading()
	<-read
	w.finish(ctx, grace, changed)
}

// load reads the endpoint. It reports false if there is nothing to do any more.
func (w *worker) load(ctx context.Context) (*store.Webhook, []store.ParkedEvent, bool) {
	for failures := 1; ; failures++ {
		hook, parked, err := w.s.opts.Store.WebhookByRef(ctx, w.ref)
		switch {
		case err == nil:
			return &hook, parked, true
		case errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrConflict):
			return nil, nil, false
		}
		w.s.storeFailed(err)
		if !w.pause(ctx, retryStore(failures)) {
			return nil, nil, false
		}
	}
}

// pause waits. It reports false if the worker is to end meanwhile.
func (w *worker) pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-w.quit:
	case <-ctx.Done():
	}
	return false
}

// retryStore is how long to wait before a store that failed so often in a row is asked again.
func retryStore(failures int) time.Duration {
	return min(50*time.Millisecond<<min(failures, 10), 2*time.Second)
}

// loop works until it is to end. It reports whether somebody else changed the endpoint.
func (w *worker) loop(ctx, grace context.Context) (changed bool) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for w.disable == "" {
		now := w.s.opts.Now()
		w.post(grace, now)
		w.save(now)
		w.count(w.lines.parked)
		var in chan news
		if w.mayRead(now) {
			in = w.news
		}
		timer.Reset(w.untilNext(now))
		select {
		case n := <-in:
			w.take(n, w.s.opts.Now())
		case r := <-w.results:
			w.settle(r, w.s.opts.Now())
		case err := <-w.saved:
			if w.noteSaved(err, w.s.opts.Now()) {
				return true
			}
		case <-timer.C:
		case <-w.quit:
			return false
		case <-ctx.Done():
			return false
		}
	}
	return false
}

// paused reports whether the endpoint is not to be called now, whatever there is.
func (w *worker) paused(now time.Time) bool {
	return now.Before(w.progress.ResumeAt) || w.breaker.open(now)
}

// limit is how many requests may be under way.
func (w *worker) limit() int {
	if !w.breaker.closed() {
		return 1
	}
	return w.window
}

// mayRead reports whether more events are wanted.
func (w *worker) mayRead(now time.Time) bool {
	return !w.paused(now) && w.lines.parked < w.s.opts.MaxParked && w.lines.unparked < maxOpen
}

// untilNext is how long until time alone gives something to do.
func (w *worker) untilNext(now time.Time) time.Duration {
	next := now.Add(time.Hour)
	earlier := func(t time.Time) {
		if !t.IsZero() && t.Before(next) {
			next = t
		}
	}
	switch {
	case now.Before(w.progress.ResumeAt):
		earlier(w.progress.ResumeAt)
	case w.breaker.open(now):
		earlier(w.breaker.until)
	case w.inFlight < w.limit():
		earlier(w.lines.due())
	}
	switch {
	case w.underWay:
	case w.saving != nil:
		earlier(w.saveAt)
	case !w.dirty.IsZero():
		earlier(w.dirty.Add(saveEvery))
	}
	return max(next.Sub(now), 0)
}

// take puts what was read in its place.
func (w *worker) take(n news, now time.Time) {
	if n.lost {
		w.progress.LostAt = now
	}
	g := &group{cursor: n.cursor}
	for i := range n.events {
		it := &item{event: n.events[i], group: g}
		if w.lines.holds(it.event.Message) {
			it.group, it.nextAt = nil, now
		}
		switch {
		case !w.lines.add(it):
		case it.parked():
			w.parkedOne(it, now)
		default:
			g.open++
		}
	}
	w.groups = append(w.groups, g)
	w.advance(now)
}

// advance moves the cursor behind what is settled.
func (w *worker) advance(now time.Time) {
	n := 0
	for n < len(w.groups) && w.groups[n].open == 0 {
		w.progress.Cursor = w.groups[n].cursor
		n++
	}
	if n > 0 {
		w.groups = append(w.groups[:0], w.groups[n:]...)
		w.touch(now)
	}
}

// touch notes that there is something to save.
func (w *worker) touch(now time.Time) {
	if w.dirty.IsZero() {
		w.dirty = now
	}
}

// parkedOne notes that an event is parked, or that its attempts changed.
func (w *worker) parkedOne(it *item, now time.Time) {
	w.changed[keyOf(&it.event)] = it
	w.touch(now)
}

// unparkedOne notes that a parked event is done with.
func (w *worker) unparkedOne(it *item) {
	k := keyOf(&it.event)
	delete(w.changed, k)
	if it.stored {
		w.removed = append(w.removed, k)
	}
}

// count reports the number of parked events to the metric.
func (w *worker) count(parked int) {
	w.s.metrics.parked.Add(float64(parked - w.counted))
	w.counted = parked
}

// forget takes the worker out of the metrics.
func (w *worker) forget() {
	w.count(0)
	if !w.breaker.closed() {
		w.s.metrics.open.Dec()
	}
}

// post begins as many requests as may be under way. They end with grace at the latest.
func (w *worker) post(grace context.Context, now time.Time) {
	for !w.paused(now) && w.inFlight < w.limit() {
		batch := w.choose(now)
		if len(batch) == 0 {
			return
		}
		w.inFlight++
		r := w.request(batch)
		go func() {
			var a answer
			if w.s.slots.Acquire(grace, 1) == nil {
				a = w.s.sender.post(grace, w.hook, r)
				w.s.slots.Release(1)
			}
			if a.outcome != outcomeDelivered && grace.Err() != nil {
				a.outcome = outcomeStopped
			}
			w.results <- result{batch: batch, id: r.id, answer: a} // there is room for as many as are under way
		}()
	}
}

// choose takes what goes next: retries and fresh events in turn, so that neither keeps the other waiting.
func (w *worker) choose(now time.Time) []*item {
	w.turn = !w.turn
	if w.turn {
		if batch := w.lines.retry(now); batch != nil {
			return batch
		}
	}
	if batch := w.lines.next(w.hook.BatchMax); batch != nil {
		return batch
	}
	return w.lines.retry(now)
}

// request makes the request for events.
func (w *worker) request(batch []*item) *request {
	events := make([]*esh3ar.Event, len(batch))
	keys := make([]store.EventKey, len(batch))
	for i, it := range batch {
		events[i], keys[i] = &it.event, keyOf(&it.event)
	}
	r := &request{id: requestID(keys)}
	r.body, r.contentType = bodyOf(w.hook, events)
	if len(batch) == 1 {
		r.traceParent = batch[0].event.TraceParent
	}
	return r
}
