// Package notify tells business clients what became of their messages: it reads the status events that
// the shards' committers store with every change, and brings each client its own, in order and without a
// gap. docs/events.md is what clients see of it.
//
//	committer ──► store ──────────────────────────┐ pages: pull, plain cursor pages and whoever
//	    │ woken     │ once for each shard         │ is behind
//	    └─────────► tail ──► seats, bounded ──► follower ──► event stream, business hub
//
// A follower that is up to date has a seat at the tail of every shard. One whose seat is full loses it,
// reads the store by itself until it has caught up, and holds up nobody.
package notify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
)

// Store is what notify needs of the store. See store.Reader.
type Store interface {
	Events(ctx context.Context, shard uint16, after int64, limit int) ([]store.EventWrite, error)
	EventRanges(ctx context.Context) (map[uint16]store.EventRange, error)
	EventTime(ctx context.Context, shard uint16, number int64) (time.Time, error)
}

// Options configures a Service. Store, Shards and Problem are required.
type Options struct {
	Store Store
	// Shards is the deployment's number of shards.
	Shards int
	// Problem returns how an error is told over HTTP.
	Problem func(error) (status int, document []byte)

	// MaxStreams is how many streams and hub connections one client may have open at one time. Default 100.
	MaxStreams int
	// Heartbeat is after what time of silence a stream says that it is still there. Default 15 s.
	Heartbeat time.Duration
	// WriteTimeout is how long one write to a stream may take. Default 15 s.
	WriteTimeout time.Duration
	// CheckEvery is how often an open stream makes sure that its API key still works. Default 500 ms.
	CheckEvery time.Duration
	// Readers is how many readings of the store go on at one time for pages and for streams that are behind;
	// the others wait. Tails do not. So a crowd that comes back after a restart leaves the store to others,
	// too. Default 4.
	Readers int
	// WatchEvery is how often the store is asked whether there are events that nobody announced, such as
	// those of another node, while anybody follows. Default 1 s.
	WatchEvery time.Duration

	Now     func() time.Time // default time.Now
	Logger  *slog.Logger     // default slog.Default()
	Metrics prometheus.Registerer
}

// Service brings events to clients. Its methods are safe for concurrent use.
type Service struct {
	opts    Options
	tails   []*tail
	metrics *metrics
	logged  rate.Sometimes
	drain   chan struct{} // closed by Drain
	readers *semaphore.Weighted

	mu       sync.Mutex
	draining bool           // drain is closed
	streams  map[string]int // open ones, by client
	open     sync.WaitGroup // of all streams; none begins when draining
}

// New returns a Service, or an error that names the option at fault.
func New(o Options) (*Service, error) {
	if o.Store == nil || o.Shards < 1 || o.Problem == nil {
		return nil, errors.New("notify: Store, Shards and Problem are required")
	}
	if o.MaxStreams < 0 || o.Heartbeat < 0 || o.WriteTimeout < 0 || o.CheckEvery < 0 || o.Readers < 0 || o.WatchEvery < 0 {
		return nil, errors.New("notify: an option is negative")
	}
	setDefault(&o.MaxStreams, 100)
	setDefault(&o.Heartbeat, 15*time.Second)
	setDefault(&o.WriteTimeout, 15*time.Second)
	setDefault(&o.CheckEvery, 500*time.Millisecond)
	setDefault(&o.Readers, 4)
	setDefault(&o.WatchEvery, time.Second)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Metrics == nil {
		o.Metrics = prometheus.NewRegistry()
	}
	m, err := newMetrics(o.Metrics)
	if err != nil {
		return nil, fmt.Errorf("notify: %w", err)
	}
	s := &Service{
		opts: o, metrics: m, drain: make(chan struct{}), streams: make(map[string]int),
		readers: semaphore.NewWeighted(int64(o.Readers)),
		logged:  rate.Sometimes{First: 1, Interval: 10 * time.Second},
	}
	for shard := range o.Shards {
		s.tails = append(s.tails, newTail(uint16(shard), o.Store))
	}
	return s, nil
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Committed says that a shard's committer has stored something. It never blocks.
func (s *Service) Committed(shard uint16) {
	if int(shard) < len(s.tails) {
		s.tails[shard].signal()
	}
}

// Run follows the shards until ctx ends. It drains then, if that was not done before, and returns when all
// streams have ended.
func (s *Service) Run(ctx context.Context) error {
	var running sync.WaitGroup
	for _, t := range s.tails {
		running.Go(func() { t.run(ctx, s.storeFailed) })
	}
	running.Go(func() { s.watch(ctx) })
	running.Wait()
	s.Drain()
	s.open.Wait()
	return ctx.Err()
}

// watch wakes the tails of shards whose events nobody announced, until ctx ends.
func (s *Service) watch(ctx context.Context) {
	tick := time.NewTicker(s.opts.WatchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		heads := make(map[*tail]int64)
		for _, t := range s.tails {
			if head, taken := t.state(); taken > 0 {
				heads[t] = head
			}
		}
		if len(heads) == 0 {
			continue
		}
		ranges, err := s.opts.Store.EventRanges(ctx)
		if err != nil {
			if ctx.Err() == nil {
				s.storeFailed(err)
			}
			continue
		}
		for t, head := range heads {
			switch last := ranges[t.shard].Last; {
			case last > head:
				t.signal()
			case last < head:
				// The store was restored from a copy that lacks events which were told already. What
				// comes next has numbers that seem known: each follower finds out, and tells its client.
				t.dismiss()
			}
		}
	}
}

// Drain ends all streams and lets no more begin. Their clients come back elsewhere, or later.
func (s *Service) Drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.draining {
		s.draining = true
		close(s.drain)
	}
}

// enter counts a stream in, among those of the client unless it is our own. It must be left.
func (s *Service) enter(client string, own bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return esh3ar.Errorf(esh3ar.KindUnavailable, "stopping", "the server is stopping; connect again").After(time.Second).Because(ErrStopping)
	}
	if own {
		s.open.Add(1)
		return nil
	}
	if s.streams[client] >= s.opts.MaxStreams {
		return esh3ar.Errorf(esh3ar.KindRateLimited, "too_many_streams",
			"%d event streams are open, which is the limit; close one first", s.opts.MaxStreams).After(10 * time.Second)
	}
	s.streams[client]++
	s.open.Add(1)
	s.metrics.followers.Inc()
	return nil
}

func (s *Service) leave(client string, own bool) {
	defer s.open.Done()
	if own {
		return
	}
	s.metrics.followers.Dec()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.streams[client]--; s.streams[client] == 0 {
		delete(s.streams, client)
	}
}

// read returns a shard's writes, for whoever has no seat.
func (s *Service) read(ctx context.Context, shard int, after int64) ([]store.EventWrite, error) {
	if err := s.readers.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer s.readers.Release(1)
	return s.opts.Store.Events(ctx, uint16(shard), after, readEvents)
}

// ranges returns what is kept of every shard's events.
func (s *Service) ranges(ctx context.Context) (map[uint16]store.EventRange, error) {
	if err := s.readers.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer s.readers.Release(1)
	return s.opts.Store.EventRanges(ctx)
}

// storeFailed logs a failure of the store, unless one was logged a moment ago.
func (s *Service) storeFailed(err error) {
	s.logged.Do(func() {
		s.opts.Logger.Warn("events cannot be read; streams wait", "err", err)
	})
}
