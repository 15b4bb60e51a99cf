// Package breaker puts a circuit breaker and time limits around a message store, so that a database
// that is down or hangs costs its callers nothing but an immediate error, and is asked once a second
// whether it is back. The store may also come later than those who use it.
package breaker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
)

// ErrOpen is the error of calls that were not made because the store did not answer lately.
var ErrOpen = errors.New("store: not asked, because it did not answer lately")

// ErrAbsent is the error of calls before the store was opened.
var ErrAbsent = errors.New("store: not opened yet")

// Options configures a Store. The zero value of a field means its default.
type Options struct {
	// Failures is how many calls in a row must fail before the breaker opens. Default 5.
	Failures uint
	// Delay is how long it stays open before one call may try. Default 1 s, give or take a tenth.
	Delay time.Duration
	// ReadTimeout bounds a read, WriteTimeout everything else. A write that is cut off has an unknown
	// outcome, as after a lost connection. Defaults 5 s and 15 s.
	ReadTimeout, WriteTimeout time.Duration

	Logger  *slog.Logger          // default slog.Default()
	Metrics prometheus.Registerer // nil for nobody
}

// Store is a store behind a breaker. Ping is not held back by it.
type Store struct {
	store.Store // nil until opened is set
	opened      atomic.Bool
	answers     atomic.Uint64 // calls that the store answered
	commits     commits
	lack        atomic.Pointer[error] // why it is not opened, as far as is known

	breaker     circuitbreaker.CircuitBreaker[any]
	read, write time.Duration
}

var _ store.Store = (*Store)(nil)

// New returns s behind a breaker. If s is nil every call fails with ErrAbsent until Open.
func New(s store.Store, o Options) *Store {
	if o.Failures == 0 {
		o.Failures = 5
	}
	if o.Delay == 0 {
		o.Delay = time.Second
	}
	if o.ReadTimeout == 0 {
		o.ReadTimeout = 5 * time.Second
	}
	if o.WriteTimeout == 0 {
		o.WriteTimeout = 15 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	transitions := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name:        "esh3ar_breaker_transitions_total",
		Help:        "Changes of a circuit breaker's state, by the state that it changed to.",
		ConstLabels: prometheus.Labels{"breaker": "store"},
	}, []string{"state"})
	b := &Store{read: o.ReadTimeout, write: o.WriteTimeout}
	if s != nil {
		b.Open(s)
	}
	b.breaker = circuitbreaker.NewBuilder[any]().
		WithFailureThreshold(o.Failures).
		WithSuccessThreshold(1).
		WithDelay(o.Delay).
		WithJitterFactor(0.1).
		OnStateChanged(func(e circuitbreaker.StateChangedEvent) {
			transitions.WithLabelValues(e.NewState.String()).Inc()
			o.Logger.Warn("the store's circuit breaker changed", "from", e.OldState.String(), "to", e.NewState.String())
		}).
		Build()
	if o.Metrics != nil {
		o.Metrics.MustRegister(transitions, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "esh3ar_breaker_open",
			Help:        "Whether a circuit breaker is open (1), half-open (0.5) or closed (0).",
			ConstLabels: prometheus.Labels{"breaker": "store"},
		}, func() float64 {
			switch b.breaker.State() {
			case circuitbreaker.OpenState:
				return 1
			case circuitbreaker.HalfOpenState:
				return 0.5
			}
			return 0
		}))
	}
	return b
}

// Open gives a breaker that was made without one its store. It must be called once at most.
func (b *Store) Open(s store.Store) {
	b.Store = s
	b.opened.Store(true)
}

// Opened reports whether there is a store.
func (b *Store) Opened() bool { return b.opened.Load() }

// Lacks notes why there is no store yet, for Ping to tell.
func (b *Store) Lacks(cause error) { b.lack.Store(&cause) }

// absent is ErrAbsent with its reason.
func (b *Store) absent() error {
	if cause := b.lack.Load(); cause != nil {
		return fmt.Errorf("%w: %w", ErrAbsent, *cause)
	}
	return ErrAbsent
}

// Ping implements store.Store.
func (b *Store) Ping(ctx context.Context) error {
	if !b.Opened() {
		return b.absent()
	}
	return b.Store.Ping(ctx)
}

// Reach is Ping for whoever wants to know whether the store is there at all: a long commit that is taken will do, too, and where
// no connection is free for the question in time, that to any call. Short ones alone may be answered over a line that loses what
// is longer.
func (b *Store) Reach(ctx context.Context) error {
	answers, long := b.answers.Load(), b.commits.takenLong()
	err := b.Ping(ctx)
	if err != nil && (b.commits.takenLong() != long || errors.Is(err, store.ErrBusy) && b.answers.Load() != answers) {
		return nil
	}
	return err
}

// Close implements store.Store. Without a store it does nothing.
func (b *Store) Close() error {
	if !b.Opened() {
		return nil
	}
	return b.Store.Close()
}

// healthy reports whether err says that the store answered.
func healthy(err error) bool {
	var e *esh3ar.Error
	return err == nil || errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrNotOwner) || errors.Is(err, store.ErrSetBack) ||
		errors.Is(err, store.ErrPermanent) || errors.Is(err, store.ErrForgotten) || errors.Is(err, store.ErrConflict) || errors.As(err, &e)
}

// call asks the store unless the breaker is open.
func call[T any](ctx context.Context, b *Store, limit time.Duration, f func(context.Context) (T, error)) (T, error) {
	if !b.Opened() {
		var zero T
		return zero, ErrAbsent
	}
	if !b.breaker.TryAcquirePermit() {
		var zero T
		return zero, ErrOpen
	}
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	v, err := f(limited)
	switch {
	case healthy(err):
		b.answers.Add(1)
		b.breaker.RecordSuccess()
	case errors.Is(ctx.Err(), context.Canceled):
		// The caller does not want the answer any more, which says nothing about the store. The permit
		// must be given back all the same; of the two, only failure leaves a half-open breaker safe.
		if b.breaker.IsHalfOpen() {
			b.breaker.RecordFailure()
		}
	default:
		b.breaker.RecordFailure()
		if limited.Err() != nil && ctx.Err() == nil {
			err = fmt.Errorf("store: no answer within %s: %w", limit, err)
		}
	}
	return v, err
}

func do(ctx context.Context, b *Store, limit time.Duration, f func(context.Context) error) error {
	_, err := call(ctx, b, limit, func(ctx context.Context) (struct{}, error) { return struct{}{}, f(ctx) })
	return err
}

// Claim implements store.Shards.
func (b *Store) Claim(ctx context.Context, shard uint16) (store.Claim, error) {
	return call(ctx, b, b.write, func(ctx context.Context) (store.Claim, error) { return b.Store.Claim(ctx, shard) })
}

// FixShards implements store.Deployment.
func (b *Store) FixShards(ctx context.Context, shards int) (int, error) {
	return call(ctx, b, b.write, func(ctx context.Context) (int, error) { return b.Store.FixShards(ctx, shards) })
}

// Identify implements store.Deployment.
func (b *Store) Identify(ctx context.Context, id string, known bool) (string, error) {
	return call(ctx, b, b.write, func(ctx context.Context) (string, error) { return b.Store.Identify(ctx, id, known) })
}

// Adopt implements store.Deployment.
func (b *Store) Adopt(ctx context.Context, id string) error {
	return do(ctx, b, b.write, func(ctx context.Context) error { return b.Store.Adopt(ctx, id) })
}

// Positions implements store.Shards.
func (b *Store) Positions(ctx context.Context) (map[uint16][esh3ar.Tiers]uint64, error) {
	return call(ctx, b, b.read, func(ctx context.Context) (map[uint16][esh3ar.Tiers]uint64, error) { return b.Store.Positions(ctx) })
}

// Commit implements store.Shards.
func (b *Store) Commit(ctx context.Context, batch *store.Batch) error {
	began := time.Now()
	b.commits.begin(began)
	err := do(ctx, b, b.write, func(ctx context.Context) error { return b.Store.Commit(ctx, batch) })
	b.commits.end(began, time.Now(), healthy(err), err == nil && isLong(batch))
	return err
}

// Waiting implements store.Shards.
func (b *Store) Waiting(ctx context.Context, q store.Waiting) ([]store.Row, error) {
	return call(ctx, b, b.read, func(ctx context.Context) ([]store.Row, error) { return b.Store.Waiting(ctx, q) })
}

// Due implements store.Shards.
func (b *Store) Due(ctx context.Context, shard uint16, now time.Time, limit int) ([]store.Row, error) {
	return call(ctx, b, b.read, func(ctx context.Context) ([]store.Row, error) { return b.Store.Due(ctx, shard, now, limit) })
}

// Rows implements store.Shards.
func (b *Store) Rows(ctx context.Context, shard uint16, ids []esh3ar.ID) ([]store.Row, error) {
	return call(ctx, b, b.read, func(ctx context.Context) ([]store.Row, error) { return b.Store.Rows(ctx, shard, ids) })
}

// Message implements store.Reader.
func (b *Store) Message(ctx context.Context, client string, id esh3ar.ID) (store.Row, error) {
	return call(ctx, b, b.read, func(ctx context.Context) (store.Row, error) { return b.Store.Message(ctx, client, id) })
}

// Messages implements store.Reader.
func (b *Store) Messages(ctx context.Context, q store.Query) (store.Page, error) {
	return call(ctx, b, b.read, func(ctx context.Context) (store.Page, error) { return b.Store.Messages(ctx, q) })
}

// Idempotent implements store.Reader.
func (b *Store) Idempotent(ctx context.Context, client, key string) (store.Remembered, error) {
	return call(ctx, b, b.read, func(ctx context.Context) (store.Remembered, error) { return b.Store.Idempotent(ctx, client, key) })
}

// Events implements store.Reader.
func (b *Store) Events(ctx context.Context, shard uint16, after int64, limit int) ([]store.EventWrite, error) {
	return call(ctx, b, b.read, func(ctx context.Context) ([]store.EventWrite, error) {
		return b.Store.Events(ctx, shard, after, limit)
	})
}

// EventRanges implements store.Reader.
func (b *Store) EventRanges(ctx context.Context) (map[uint16]store.EventRange, error) {
	return call(ctx, b, b.read, func(ctx context.Context) (map[uint16]store.EventRange, error) { return b.Store.EventRanges(ctx) })
}

// Prune implements store.Pruner. It may take long, and says nothing about how the store answers others.
func (b *Store) Prune(ctx context.Context, older store.Cutoffs) (store.Pruned, error) {
	switch {
	case !b.Opened():
		return store.Pruned{}, ErrAbsent
	case b.breaker.IsOpen():
		return store.Pruned{}, ErrOpen
	}
	return b.Store.Prune(ctx, older)
}

// Rejected implements store.RejectReader.
func (b *Store) Rejected(ctx context.Context, after int64, limit int) ([]store.Rejected, error) {
	return call(ctx, b, b.read, func(ctx context.Context) ([]store.Rejected, error) { return b.Store.Rejected(ctx, after, limit) })
}
