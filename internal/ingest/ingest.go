// Package ingest is the REST API of business clients: it decodes and validates requests, finds the
// client behind an API key, makes messages durable in the journal and only then answers 202, and
// answers questions about messages. docs/api.md is the API as its users see it.
//
// One file a resource: accept.go and batch.go take messages, messages.go shows them, deadletters.go
// replays and discards them, tokens.go mints device tokens.
package ingest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/fair"
	"github.com/esh3artech/esh3ar/internal/journal"
	"github.com/esh3artech/esh3ar/internal/store"
)

// Keys finds clients by their API keys.
type Keys interface {
	// ClientByKey returns the key with that hash and its client, revoked or not.
	// Errors: store.ErrNotFound, others transient.
	ClientByKey(ctx context.Context, hash [32]byte) (esh3ar.APIKey, esh3ar.Client, error)
	// TouchKeys notes when keys were used, by their hashes.
	TouchKeys(ctx context.Context, used map[[32]byte]time.Time) error
}

// Journal makes records durable. *journal.Appender is one; its methods say what holds.
type Journal interface {
	// Append returns when the record is durable, or with an error of package journal. It does not
	// keep the record.
	Append(ctx context.Context, p journal.Partition, record []byte) error
	// AppendAll does the same for many records and sets the Err of each item.
	AppendAll(ctx context.Context, items []journal.Item)
}

// Messages answers questions about accepted messages, also between a message's 202 and its commit to
// the store: whoever implements it asks the owner of the shard first. Its errors are store.ErrNotFound,
// an *esh3ar.Error (of KindUnavailable with a RetryAfter when it cannot know yet), or transient.
type Messages interface {
	Message(ctx context.Context, client string, id esh3ar.ID) (store.Row, error)
	Messages(ctx context.Context, q store.Query) (store.Page, error)
	// Idempotent returns what a key was first used for. It is asked for every message with a key
	// that was not used here lately.
	Idempotent(ctx context.Context, client, key string) (store.Remembered, error)
}

// Auditor keeps the audit log.
type Auditor interface {
	// Audit adds an entry.
	Audit(ctx context.Context, e store.AuditEntry) error
}

// Tokens mints device tokens.
type Tokens interface {
	// Mint returns a token for the recipient sub, which it normalises, and when the token expires.
	// A ttl of 0 means the default. Its errors are *esh3ar.Error.
	Mint(sub string, ttl time.Duration) (token string, expires time.Time, err error)
}

// Defaults of Options.
const (
	DefaultRecentKeys  = 1 << 16
	DefaultBatchMemory = 64 << 20
	DefaultKeyMaxAge   = time.Second

	DefaultAcceptLatency = 100 * time.Millisecond
)

// Options configures an API. Fields without a default are required.
type Options struct {
	Keys     Keys
	Journal  Journal
	Messages Messages
	Operator Operator
	Auditor  Auditor
	// Usage is nil where daily quotas hold for this process alone.
	Usage Usage
	// Tokens is nil where device tokens are minted elsewhere.
	Tokens Tokens
	// Routes are served beside the API's own.
	Routes []Route

	// Shards is the deployment's number of shards.
	Shards int
	// IdempotencyWindow is how long an idempotency key is remembered.
	IdempotencyWindow time.Duration
	// RecentKeys is how many used idempotency keys are remembered in memory, some 200 bytes each;
	// older ones are looked up. Default 65,536.
	RecentKeys int
	// BatchMemory bounds what the batch requests under way hold, all together: some twice the size
	// of their bodies. A batch that does not find room is refused with 503. Default 64 MiB.
	BatchMemory int64
	// Weights are the tiers' shares of what batches may have on the way to the journal. Default
	// fair.DefaultWeights.
	Weights fair.Weights
	// KeyMaxAge is after what time a revoked API key stops to work. Each key in use is looked up
	// twice in that time. Default 1 s.
	KeyMaxAge time.Duration
	// Nodes, if set, returns how many nodes take calls, this one among them: each grants its part of a client's
	// rate. It is asked for every call of a client with a rate.
	Nodes func() int
	// AdmissionWait is how long a message over its client's rate waits before it is refused.
	AdmissionWait time.Duration
	// AcceptLatency is how long it should take at most, on average, to make a message durable. The server
	// takes so many messages at one time as it can at about that latency, and refuses more, those of lower
	// tiers first. Default 100 ms.
	AcceptLatency time.Duration

	// Now is the clock that messages are stamped by. Default time.Now.
	Now func() time.Time
	// Metrics takes the API's metrics; nil for nobody.
	Metrics prometheus.Registerer
	// Log takes the failures that are ours, at most a line every ten seconds. Default slog.Default().
	Log *slog.Logger
}

// API serves the routes below /v1/ that belong to business clients. It has no goroutines of its own but
// Run's, and needs no closing.
type API struct {
	keys     *keyring
	journal  Journal
	messages Messages
	operator Operator
	auditor  Auditor
	tokens   Tokens
	routes   *http.ServeMux
	methods  map[string][]string // of each pattern of routes

	shards      int
	window      time.Duration
	now         func() time.Time
	metrics     *metrics
	log         *slog.Logger
	errorLogged rate.Sometimes
	warnLogged  rate.Sometimes
	ids         esh3ar.IDs
	unreported  rate.Sometimes
	accounts    *accounts
	load        *load
	usage       Usage
	recent      *recentKeys
	calls       sync.Pool    // of *call
	batches     sync.Pool    // of *batch
	bench       bench        // for batches
	company     company      // of batches
	turns       *turns       // of batches
	slabs       sync.Pool    // of *slab
	batchMemory int64        // bound of batchBytes
	batchBytes  atomic.Int64 // what the slabs in use amount to
	jsonType    []string     // the Content-Type header, shared by all answers
}

// New returns an API, or an error that names the option at fault.
func New(o Options) (*API, error) {
	switch {
	case o.Keys == nil:
		return nil, errors.New("ingest: no Keys")
	case o.Journal == nil:
		return nil, errors.New("ingest: no Journal")
	case o.Messages == nil:
		return nil, errors.New("ingest: no Messages")
	case o.Operator == nil:
		return nil, errors.New("ingest: no Operator")
	case o.Auditor == nil:
		return nil, errors.New("ingest: no Auditor")
	case o.Shards < 1 || o.Shards > 1<<16:
		return nil, fmt.Errorf("ingest: %d shards: want 1 to %d", o.Shards, 1<<16)
	case o.IdempotencyWindow < 0:
		return nil, fmt.Errorf("ingest: negative IdempotencyWindow %s", o.IdempotencyWindow)
	case o.RecentKeys < 0 || o.BatchMemory < 0 || o.KeyMaxAge < 0:
		return nil, errors.New("ingest: negative RecentKeys, BatchMemory or KeyMaxAge")
	case o.AdmissionWait < 0 || o.AcceptLatency < 0:
		return nil, errors.New("ingest: negative AdmissionWait or AcceptLatency")
	}
	if o.RecentKeys == 0 {
		o.RecentKeys = DefaultRecentKeys
	}
	if o.BatchMemory == 0 {
		o.BatchMemory = DefaultBatchMemory
	}
	if o.Weights == (fair.Weights{}) {
		o.Weights = fair.DefaultWeights()
	}
	if o.KeyMaxAge == 0 {
		o.KeyMaxAge = DefaultKeyMaxAge
	}
	if o.AcceptLatency == 0 {
		o.AcceptLatency = DefaultAcceptLatency
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	keys := newKeyring(o.Keys, o.KeyMaxAge, o.Now)
	load := newLoad(o.AcceptLatency)
	m, err := newMetrics(o.Metrics, keys.guesses, load)
	if err != nil {
		return nil, fmt.Errorf("ingest: %w", err)
	}
	a := &API{
		keys:        keys,
		journal:     o.Journal,
		messages:    o.Messages,
		operator:    o.Operator,
		auditor:     o.Auditor,
		tokens:      o.Tokens,
		shards:      o.Shards,
		window:      o.IdempotencyWindow,
		now:         o.Now,
		metrics:     m,
		log:         o.Log,
		errorLogged: rate.Sometimes{First: 1, Interval: 10 * time.Second},
		warnLogged:  rate.Sometimes{First: 1, Interval: 10 * time.Second},
		unreported:  rate.Sometimes{First: 1, Interval: time.Minute},
		accounts:    &accounts{wait: o.AdmissionWait, nodes: o.Nodes, start: time.Now(), fresh: make(chan struct{}, 1)},
		load:        load,
		usage:       o.Usage,
		recent:      newRecentKeys(o.RecentKeys),
		batchMemory: o.BatchMemory,
		bench:       newBench(runtime.GOMAXPROCS(0)),
		company:     company{start: time.Now()},
		jsonType:    []string{"application/json"},
	}
	a.routes, a.methods = http.NewServeMux(), make(map[string][]string)
	a.routes.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { a.refuse(w, r, noRoute()) })
	for pattern, by := range a.own() {
		a.register(pattern, by)
	}
	for _, route := range o.Routes {
		a.register(route.Pattern, a.handlers(route))
	}
	a.turns = newTurns(o.Weights, a.company.room)
	a.calls.New = func() any { return new(call) }
	a.batches.New = func() any { return newBatch() }
	a.slabs.New = func() any { return new(slab) }
	return a, nil
}

// Run notes the last use of keys, follows how fast messages are accepted, and reports what clients use of
// their quotas, until ctx ends.
func (a *API) Run(ctx context.Context) error {
	var running sync.WaitGroup
	running.Go(func() { a.keys.noteUses(ctx) })
	running.Go(func() { a.load.follow(ctx) })
	running.Go(func() { a.reportUsage(ctx) })
	running.Wait()
	return ctx.Err()
}

// ForgetKey makes the next request with that key look it up, so that a revocation on this node works
// at once.
func (a *API) ForgetKey(hash [32]byte) { a.keys.forget(hash) }

// ServeHTTP serves the API's routes and answers 404 to all other requests.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer func() {
		if v := recover(); v != nil {
			if v == http.ErrAbortHandler {
				panic(v)
			}
			a.refuse(w, r, asError(fmt.Errorf("panic: %v\n%s", v, debug.Stack())))
		}
	}()
	a.routes.ServeHTTP(w, r)
}

func noRoute() error {
	return esh3ar.Errorf(esh3ar.KindNotFound, "no_such_route", "there is no such route; see the API documentation")
}

// refuse answers with the problem that err stands for, and logs what is a failure of ours.
func (a *API) refuse(w http.ResponseWriter, r *http.Request, err error) {
	p := problemOf(err)
	a.metrics.refused.WithLabelValues(p.code).Inc()
	a.logFailure(r.Context(), r.Method+" "+r.URL.Path, &p, err)
	h := w.Header()
	h["Content-Type"] = []string{"application/problem+json"}
	switch p.status {
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", `Bearer realm="esh3ar"`)
	case http.StatusMethodNotAllowed:
		h.Set("Allow", p.allow)
	}
	if p.retryAfter > 0 {
		h.Set("Retry-After", retrySeconds(p.retryAfter))
	}
	if over, ok := errors.AsType[*overLimit](err); ok {
		over.standing.tell(h)
	}
	w.WriteHeader(p.status)
	// An error here means that the client has gone; there is nobody to tell.
	_, _ = w.Write(append(appendProblem(nil, &p), '\n'))
}

// logFailure logs a failure that is not the caller's and no ordinary answer (see levelOf), unless one was logged a moment ago:
// a store that is down fails thousands of requests, which the metrics count.
func (a *API) logFailure(ctx context.Context, request string, p *problem, err error) {
	level := levelOf(p, err)
	log := func() {
		a.log.LogAttrs(ctx, level, "request failed (others may have, too)",
			slog.String("request", request), slog.String("code", p.code), slog.Any("error", err))
	}
	switch level {
	case slog.LevelError:
		a.errorLogged.Do(log)
	case slog.LevelWarn:
		a.warnLogged.Do(log)
	}
}
