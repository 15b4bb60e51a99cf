// Package webhook posts the status events of business clients' messages to the addresses that they gave,
// as Standard Webhooks has it: signed, at least once, in the order of each message. docs/webhooks.md is
// what clients see of it.
//
// Each enabled endpoint has a worker, which follows its client's events from the place that is stored with
// the endpoint. What an endpoint refuses is parked: stored beside the place, with its time for another
// attempt, while everything else goes on. So nothing is lost when the server stops, and what was under way
// or not saved yet (a quarter of a second) comes again.
package webhook

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"

	"github.com/esh3artech/esh3ar/internal/notify"
	"github.com/esh3artech/esh3ar/internal/store"
)

// Store is what webhooks need of the store.
type Store interface {
	store.Webhooks
	Audit(ctx context.Context, e store.AuditEntry) error
}

// Options configures a Service. Store, Events and Retention are required.
type Options struct {
	Store  Store
	Events *notify.Service
	// Retention is how long events are kept.
	Retention time.Duration

	// Addresses are those that may be called. By default the public ones.
	Addresses Addresses
	// MaxEndpoints is how many webhooks a client may have. Default 20.
	MaxEndpoints int
	// Requests is how many requests are under way at one time, over all endpoints; the others wait.
	// Default 256.
	Requests int
	// Timeout bounds a request, to the last byte that is read of the answer. Default 15 s.
	Timeout time.Duration
	// Backoff is when a failed event is tried again. Default 5 s, doubling up to 12 h, for 3 days.
	Backoff Backoff
	// BreakerPause is how long an endpoint that failed five times in a row is left alone, until one request
	// may try; it doubles with each further failure, six times at most. Default 10 s.
	BreakerPause time.Duration
	// DisableAfter is how long an endpoint may fail, without a success in between, until it is disabled.
	// Default 3 days.
	DisableAfter time.Duration
	// MaxParked is how many events of an endpoint may wait for another attempt. With more, nothing else is
	// posted to it until some of these succeed or are given up. Default 1,000.
	MaxParked int
	// KeepDeliveries is how many requests the log of an endpoint holds. Default 1,000.
	KeepDeliveries int
	// Holder names this node among those that share the store: one at a time posts to an endpoint. A name that
	// stays over restarts spares a node that crashed to wait for its own right to end. Default "node".
	Holder string
	// WatchEvery is how often the store is asked for endpoints that were changed elsewhere. The right to post to
	// an endpoint is good for six times as long. Default 5 s.
	WatchEvery time.Duration
	// Grace is how long a stop lets what is under way go on. Default 3 s.
	Grace time.Duration

	// Resolver finds the addresses of names, RootCAs are whom to trust. By default the system's.
	Resolver *net.Resolver
	RootCAs  *x509.CertPool
	// dial, if set, makes the connections instead of the network. It is for tests.
	dial func(ctx context.Context, network, address string) (net.Conn, error)

	Now     func() time.Time // default time.Now
	Logger  *slog.Logger     // default slog.Default()
	Metrics prometheus.Registerer
}

// Service posts events to webhooks and serves their management. Its methods are safe for concurrent use.
type Service struct {
	opts    Options
	metrics *metrics
	sender  *sender
	slots   *semaphore.Weighted // of requests under way
	tests   *semaphore.Weighted // of tests under way
	logged  rate.Sometimes
	kick    chan struct{} // cap 1: look at the endpoints
}

// New returns a Service, or an error that names the option at fault.
func New(o Options) (*Service, error) {
	if o.Store == nil || o.Events == nil || o.Retention <= 0 {
		return nil, errors.New("webhook: Store, Events and Retention are required")
	}
	for _, v := range []int64{
		int64(o.MaxEndpoints), int64(o.Requests), int64(o.Timeout), int64(o.Backoff.Base), int64(o.Backoff.Cap), int64(o.Backoff.Span),
		int64(o.BreakerPause), int64(o.DisableAfter), int64(o.MaxParked), int64(o.KeepDeliveries), int64(o.WatchEvery), int64(o.Grace),
	} {
		if v < 0 {
			return nil, errors.New("webhook: an option is negative")
		}
	}
	setDefault(&o.MaxEndpoints, 20)
	setDefault(&o.Requests, 256)
	setDefault(&o.Timeout, 15*time.Second)
	setDefault(&o.Backoff.Base, 5*time.Second)
	setDefault(&o.Backoff.Cap, 12*time.Hour)
	setDefault(&o.Backoff.Span, 72*time.Hour)
	setDefault(&o.BreakerPause, 10*time.Second)
	setDefault(&o.DisableAfter, 72*time.Hour)
	setDefault(&o.MaxParked, 1000)
	setDefault(&o.KeepDeliveries, 1000)
	setDefault(&o.Holder, "node")
	setDefault(&o.WatchEvery, 5*time.Second)
	setDefault(&o.Grace, 3*time.Second)
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
		return nil, fmt.Errorf("webhook: %w", err)
	}
	return &Service{
		opts: o, metrics: m, sender: newSender(&o), slots: semaphore.NewWeighted(int64(o.Requests)),
		tests: semaphore.NewWeighted(maxTests), logged: rate.Sometimes{First: 1, Interval: 10 * time.Second},
		kick: make(chan struct{}, 1),
	}, nil
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Run posts events until ctx ends. What is under way then may take the grace longer.
//
// Each enabled endpoint has two goroutines, and one more for each of its at most eight requests.
func (s *Service) Run(ctx context.Context) error {
	grace, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(s.opts.Grace, cancel) })()
	var running sync.WaitGroup
	running.Go(func() { s.prune(ctx) })
	s.watch(ctx, grace, &running)
	running.Wait()
	// What is under way has ended: another node may go on at once.
	if err := s.opts.Store.ReleaseWebhooks(grace, s.opts.Holder); err != nil {
		s.storeFailed(err)
	}
	s.sender.close()
	return ctx.Err()
}

// holdFor is how many times WatchEvery the right to post is good.
const holdFor = 6

// watch keeps a worker for each enabled endpoint that this node holds, in its present version, until ctx
// ends. When the store cannot be asked for long, the workers end before somebody else may begin.
func (s *Service) watch(ctx, grace context.Context, running *sync.WaitGroup) {
	workers := make(map[string]*worker)
	ended := make(chan *worker)
	tick := time.NewTicker(s.opts.WatchEvery)
	defer tick.Stop()
	start := func(w *worker) {
		running.Go(func() {
			w.run(ctx, grace)
			select {
			case ended <- w:
			case <-ctx.Done():
			}
		})
	}
	var held time.Time // since when the rights are good
	for {
		asked := time.Now()
		refs, err := s.opts.Store.HoldWebhooks(ctx, s.opts.Holder, holdFor*s.opts.WatchEvery)
		switch {
		case err == nil:
			held = asked
			s.adjust(workers, refs, start)
		case ctx.Err() == nil:
			s.storeFailed(err)
			// A right may be half as old as it can be when it is not renewed.
			if time.Since(held) >= (holdFor/2-1)*s.opts.WatchEvery {
				s.adjust(workers, nil, start)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-s.kick:
		case w := <-ended:
			// Its endpoint may be enabled in another version, whose worker had to wait for this one.
			delete(workers, w.ref.ID)
		}
	}
}

// adjust ends the workers that are not wanted any more and starts those that are missing. An endpoint never
// has two workers, so that they cannot overtake each other.
func (s *Service) adjust(workers map[string]*worker, refs []store.WebhookRef, start func(*worker)) {
	wanted := make(map[string]int64, len(refs))
	for _, ref := range refs {
		wanted[ref.ID] = ref.Version
	}
	for id, w := range workers {
		if wanted[id] != w.ref.Version && !w.quitting {
			w.quitting = true
			close(w.quit)
		}
	}
	for _, ref := range refs {
		if workers[ref.ID] == nil {
			w := s.newWorker(ref)
			workers[ref.ID] = w
			start(w)
		}
	}
}

func (s *Service) newWorker(ref store.WebhookRef) *worker {
	return &worker{
		s: s, ref: ref, log: s.opts.Logger.With("webhook", ref.ID), quit: make(chan struct{}),
		lines: newLines(), window: 1, news: make(chan news), results: make(chan result, maxWindow),
		changed: make(map[store.EventKey]*item), saved: make(chan error, 1),
	}
}

// lookSoon has the endpoints looked at: some was changed.
func (s *Service) lookSoon() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// prune forgets log entries that the retention does not cover any more, until ctx ends.
func (s *Service) prune(ctx context.Context) {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for more := true; more && ctx.Err() == nil; {
			var err error
			if more, err = s.opts.Store.PruneDeliveries(ctx, s.opts.Now().Add(-s.opts.Retention)); err != nil && ctx.Err() == nil {
				s.storeFailed(err)
			}
		}
	}
}

// storeFailed logs a failure of the store, unless one was logged a moment ago.
func (s *Service) storeFailed(err error) {
	s.logged.Do(func() { s.opts.Logger.Warn("webhooks wait for the store", "err", err) })
}
