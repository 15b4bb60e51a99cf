package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/certificate"
	"github.com/esh3artech/esh3ar/internal/clock"
	"github.com/esh3artech/esh3ar/internal/cluster"
	"github.com/esh3artech/esh3ar/internal/delivery"
	"github.com/esh3artech/esh3ar/internal/devicetoken"
	"github.com/esh3artech/esh3ar/internal/dispatch"
	"github.com/esh3artech/esh3ar/internal/fair"
	"github.com/esh3artech/esh3ar/internal/health"
	"github.com/esh3artech/esh3ar/internal/hub"
	"github.com/esh3artech/esh3ar/internal/ingest"
	"github.com/esh3artech/esh3ar/internal/journal"
	"github.com/esh3artech/esh3ar/internal/journal/jetstream"
	"github.com/esh3artech/esh3ar/internal/notify"
	"github.com/esh3artech/esh3ar/internal/notify/webhook"
	"github.com/esh3artech/esh3ar/internal/store"
	"github.com/esh3artech/esh3ar/internal/store/breaker"
	"github.com/esh3artech/esh3ar/signalr"
)

// linger is how long a few messages wait for company in a sync. See docs/benchmarks.md for what it saves.
const linger = time.Millisecond

// settle is how long a change of a message may be known to memory alone before it is stored. With a
// commit's own time it stays under the promised 250 ms.
const settle = 200 * time.Millisecond

// Node is one server. It holds its parts so:
//
//	ingest.Front ── all but plain posts ──► http.Server ── mux
//	   ┌──────────┬───┴──────────┬─────────────────┐
//	/v1/…     /hubs/mobile   /healthz /readyz   /metrics
//	ingest.API   hub.Hub        health
//	   │  │         │ attach, acknowledge
//	   │  │         ▼    ▲ deliver
//	   │  └──────► dispatch.Dispatcher ───────┐
//	   │ append     │ read       │ commit     │ status of a message
//	   ▼            ▼            ▼            ▼
//	journal.Appender ► jetstream.Log   sqlite.Store ──► notify.Service ──► /v1/events (through ingest.API),
//	                     │                                    │           /hubs/business
//	                     │                                    └─► webhook.Service ──► clients' endpoints
//	                cluster.Server (embedded NATS)
type Node struct {
	cfg Config
	log *slog.Logger

	clock    *clock.Clock
	store    *breaker.Store // may come later than the rest; see opening
	opening  *opening
	keys     *knownKeys
	nats     *cluster.Server   // nil if the servers are elsewhere
	connect  cluster.Connector // to NATS, here or elsewhere
	peers    *peers            // nil if the node is alone
	journal  *jetstream.Log
	appender *journal.Appender
	dispatch *dispatch.Dispatcher
	notify   *notify.Service
	webhooks *webhook.Service
	api      *ingest.API
	signalr  *signalr.Server
	hub      *hub.Hub
	business *notify.Hub
	health   *health.Health
	http     *http.Server
	paths    map[string][]string // the methods of each path that is served

	accepting *pressure
	memory    *memoryWatch
	front     *ingest.Front
	listener  net.Listener
	cert      *certificate.Source[tls.Certificate] // nil without TLS
	debug     *debugServer

	info Info
}

// Info is what a person needs to use the server.
type Info struct {
	// Addr is the address that is listened on, with the real port.
	Addr string
	// TLS says that TLS is spoken there.
	TLS bool
	// DevKey is the API key of the development client.
	DevKey string
	// AdminKeyFile is the file with the admin key, "" if the configuration gave it.
	AdminKeyFile string
	// FirstStart says that the data directory was created by this start.
	FirstStart bool
}

// URL is the base URL of what is served.
func (i Info) URL() string {
	if i.TLS {
		return "https://" + i.Addr
	}
	return "http://" + i.Addr
}

// New opens everything that a server with this configuration needs and binds its address. The
// configuration must be valid. Nothing is served before Run; a Node that is not run must be closed.
func New(ctx context.Context, cfg Config, log *slog.Logger) (n *Node, err error) {
	n = &Node{cfg: cfg, log: log, accepting: new(pressure), memory: newMemoryWatch(log), clock: clock.New(clock.Options{Wall: wallClock(), Logger: log})}
	plan := planMemory(&cfg)
	defer func() {
		if err != nil {
			err = errors.Join(err, n.closeWithin(abandonTime))
			n = nil
		}
	}()
	if err := os.MkdirAll(cfg.Data, 0o700); err != nil {
		return n, fmt.Errorf("data directory: %w", err)
	}
	if _, err := checkDeployment(cfg.Data, cfg.Shards); err != nil {
		return n, err
	}
	key := string(cfg.BootstrapKey)
	if key == "" {
		if key, n.info.FirstStart, err = secretFile(cfg.Data, devKeyFile, esh3ar.NewKey); err != nil {
			return n, err
		}
	}
	n.info.DevKey = key
	admins, file, err := adminKey(&cfg)
	if err != nil {
		return n, err
	}
	n.info.AdminKeyFile = file
	secret := string(cfg.JWTSecret)
	if secret == "" {
		if secret, _, err = secretFile(cfg.Data, jwtSecretFile, newJWTSecret); err != nil {
			return n, err
		}
	}

	n.health = health.New(log)
	registry := n.health.Registry()
	n.store = breaker.New(nil, breaker.Options{Logger: log, Metrics: registry})
	if err := n.awaitStore(ctx, plan.cache); err != nil {
		return n, err
	}
	if err := n.openJournalWith(ctx); err != nil {
		return n, err
	}
	if err := claimDeployment(cfg.Data, cfg.Shards); err != nil {
		return n, err
	}
	n.keys = newKnownKeys(n.store, filepath.Join(cfg.Data, keysFile), n.clock.Now, log)
	if n.notify, err = notify.New(notify.Options{
		Store: n.store, Shards: cfg.Shards, Problem: ingest.Problem,
		Now: n.clock.Now, Logger: log, Metrics: registry,
	}); err != nil {
		return n, err
	}
	if err := n.newWebhooks(registry); err != nil {
		return n, err
	}
	if n.signalr, err = signalr.NewServer(signalr.Options{Logger: log}); err != nil {
		return n, err
	}
	if cfg.clustered() {
		if err := n.join(n.connect); err != nil {
			return n, err
		}
	}
	if n.dispatch, err = dispatch.New(n.inCluster(dispatch.Options{
		Log: n.journal, Store: n.store, Shards: cfg.Shards,
		Params: delivery.Params{
			Window: cfg.Window, WindowBytes: 1 << 20, Hold: 2 * cfg.Window, Settle: settle,
			AckTimeout: cfg.AckTimeout, MaxAttempts: cfg.MaxAttempts,
			Backoff: delivery.Backoff{Base: cfg.BackoffBase, Cap: cfg.BackoffCap},
			Strikes: cfg.BreakerStrikes, Pause: cfg.BreakerPause,
		},
		Weights:       fair.Weights(cfg.TierWeights),
		Memory:        max(int64(plan.dispatch)/int64(cfg.Shards), 1<<20),
		Tight:         n.memory.tight,
		AppendTimeout: 2*cfg.PublishTimeout + cfg.AdmissionWait,
		JournalKeep:   cfg.JournalKeep,
		Busy:          n.accepting.busy,
		Committed:     n.notify.Committed,
		Backlog:       n.signalr.Backlog,
		Now:           n.clock.Now,
		Logger:        log, Metrics: registry,
	})); err != nil {
		return n, err
	}
	hubs := hub.Options{Server: n.signalr, Owner: owner{n.dispatch}, Refusal: refusal, AllowedOrigins: cfg.AllowedOrigins, Logger: log, Metrics: registry}
	if n.peers != nil {
		if err := n.newRouter(registry); err != nil {
			return n, err
		}
		hubs.Owner, hubs.Elsewhere, hubs.Admit = routed{n.peers.router}, n.peers.places.elsewhere, n.peers.places.admit
	}
	tokens, err := devicetoken.NewHS256([]byte(secret), nil)
	if err != nil {
		return n, err
	}
	hubs.Tokens = verifier{tokens}
	if n.hub, err = hub.New(hubs); err != nil {
		return n, err
	}
	api, err := ingest.New(ingest.Options{
		Keys: n.keys, Journal: bounded{n.appender, n.memory}, Messages: messages{n.store, n.dispatch}, Operator: operator{n}, Auditor: n.store, Tokens: tokens,
		Routes: slices.Concat([]ingest.Route{
			{Pattern: "/v1/events", Scope: esh3ar.ScopeRead, Methods: []string{http.MethodGet}, Serve: n.events},
		}, n.webhookRoutes(), n.adminRoutes(admins)),
		Nodes: n.takers, Usage: n.store, AdmissionWait: cfg.AdmissionWait, AcceptLatency: cfg.AcceptLatency,
		Shards: cfg.Shards, Weights: fair.Weights(cfg.TierWeights), IdempotencyWindow: cfg.IdempotencyWindow, Now: n.clock.Now, Log: log, Metrics: registry,
	})
	if err != nil {
		return n, err
	}
	if n.business, err = n.notify.NewHub(notify.HubOptions{
		Server: n.signalr, Caller: caller(api), Refusal: refusal, AllowedOrigins: cfg.AllowedOrigins,
	}); err != nil {
		return n, err
	}
	n.api, n.accepting.calls = api, api.InFlight
	n.addChecks()
	return n, n.listen(ctx, api)
}

// journalRetry is the pause between two tries to open the journal of a cluster.
const journalRetry = 500 * time.Millisecond

func (n *Node) openJournal(ctx context.Context) (err error) {
	cfg := n.cfg
	if n.connect == nil {
		if n.connect, err = n.openNATS(ctx); err != nil {
			return err
		}
	}
	if n.nats != nil {
		if err := n.nats.Ready(ctx); err != nil {
			return fmt.Errorf("journal: %w", err)
		}
	}
	for told := ""; ; {
		var unknown error // why the store does not say its positions
		n.journal, err = jetstream.Open(ctx, jetstream.Options{
			Server: n.connect, Shards: cfg.Shards, Logger: n.log, Replicas: cfg.replicas(),
			MaxBytes: int64(cfg.JournalSize), DiskReserve: uint64(cfg.DiskReserve),
			Positions: func(ctx context.Context) (at map[journal.Partition]uint64, err error) {
				at, err = n.positions(ctx)
				unknown = err
				return at, err
			},
			Identify: n.identify, Leaving: n.leaving,
		})
		if unknown != nil && !errors.Is(unknown, breaker.ErrAbsent) {
			// The journal may be older than the store, and only of a store that comes later is that found out later.
			if err == nil {
				err, n.journal = n.journal.Close(), nil
			}
			return fmt.Errorf("journal: the store does not say its positions: %w", errors.Join(unknown, err))
		}
		if err == nil {
			break
		}
		// Without a store a new journal cannot be made, and the caller holds up the store's opening.
		if !cfg.clustered() || ctx.Err() != nil || !errors.Is(err, journal.ErrUnavailable) ||
			errors.Is(err, cluster.ErrRefused) || errors.Is(err, breaker.ErrAbsent) {
			return n.cfg.explain(fmt.Errorf("journal: %w", err))
		}
		// Nothing of this process has the server try again before the journal is open.
		if n.nats != nil {
			if failed := n.nats.WriteError(); failed != nil {
				return fmt.Errorf("journal: %w", failed)
			}
		}
		// The servers may not be up yet; and the nodes make the streams together, and may be electing who leads them.
		if why := err.Error(); why != told {
			told = why
			n.log.Warn("the journal is not there yet; it is tried again until it is", "err", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("journal: %w", errors.Join(context.Cause(ctx), err))
		case <-time.After(journalRetry):
		}
	}
	appends := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "esh3ar_journal_append_seconds",
		Help:    "One entry of the journal, which messages share, from being sent until it is durable, or has failed.",
		Buckets: []float64{.0002, .0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5},
	})
	n.health.Registry().MustRegister(appends)
	o := journal.AppenderOptions{
		Shards: cfg.Shards, Tiers: esh3ar.Tiers, Timeout: cfg.PublishTimeout, StopTimeout: cfg.stopLimits().appends, Linger: linger,
		Observe: func(s journal.BatchStats) { appends.Observe(s.Took.Seconds()) },
	}
	if cfg.clustered() {
		o.InFlight = clusterInFlight
	}
	n.appender, err = journal.NewAppender(n.journal, o)
	return err
}

// positions tells the journal how far the store is, so that its sequences never fall behind. Errors: those of askOpen.
func (n *Node) positions(ctx context.Context) (at map[journal.Partition]uint64, err error) {
	err = n.askOpen(ctx, func(ctx context.Context) error {
		shards, err := n.store.Positions(ctx)
		at = positions(shards)
		return err
	})
	return at, err
}

// positions returns the store's positions as the journal knows them.
func positions(shards map[uint16][esh3ar.Tiers]uint64) map[journal.Partition]uint64 {
	all := make(map[journal.Partition]uint64, len(shards)*esh3ar.Tiers)
	for shard, tiers := range shards {
		for tier, seq := range tiers {
			all[journal.Partition{Shard: shard, Tier: uint8(tier)}] = seq
		}
	}
	return all
}

// addChecks says what /readyz looks at.
func (n *Node) addChecks() {
	n.health.TellLoad(n.load)
	n.health.Add("store", n.checkStore)
	n.health.Add("clock", func(ctx context.Context) error { return health.Degrade(n.clock.Check(ctx)) })
	n.health.Add("memory", func(ctx context.Context) error { return health.Degrade(n.memory.check(ctx)) })
	if n.peers != nil {
		n.health.Add("cluster", n.checkCluster)
		n.health.Add("devices", n.peers.places.check)
	}
	if n.nats == nil {
		return
	}
	n.health.Add("journal", func(context.Context) error { return n.nats.WriteError() })
	n.health.Add("disk", func(context.Context) error {
		free, err := n.nats.FreeBytes()
		if err == nil && free < uint64(n.cfg.DiskReserve) {
			err = esh3ar.Errorf(esh3ar.KindInsufficientStorage, "journal_full", "%d MiB are free, less than the reserve of %s", free>>20, n.cfg.DiskReserve)
		}
		return err
	})
}

// Info returns what a person needs to use the server.
func (n *Node) Info() Info { return n.info }

// owner is the dispatcher as the hub sees it.
type owner struct{ *dispatch.Dispatcher }

func (o owner) Attach(recipient string, d *hub.Device) hub.Attachment {
	return attachment{o.Dispatcher.Attach(recipient, device{d})}
}

type attachment struct{ *dispatch.Attachment }

// device is a hub's device as the dispatcher sees it.
type device struct{ *hub.Device }

func (d device) Deliver(x *dispatch.Delivery) {
	frame, ok := x.Encoded.(*hub.Frame)
	if !ok {
		frame = hub.NewFrame(x.Message, x.Attempt)
		x.Encoded = frame
	}
	d.Send(frame)
}

// messages answers ingest's questions: about one message the dispatcher, which knows it from its 202
// on, about the rest the store.
type messages struct {
	store.Reader
	dispatch *dispatch.Dispatcher
}

func (m messages) Message(ctx context.Context, client string, id esh3ar.ID) (store.Row, error) {
	return m.dispatch.Message(ctx, client, id)
}

// events serves the events of the caller's messages.
func (n *Node) events(w http.ResponseWriter, r *http.Request, who ingest.Caller) error {
	return n.notify.ServeEvents(w, r, who.Client.ID, who.Check)
}

// caller finds the holder of an API key that may read.
func caller(api *ingest.API) func(*http.Request, string) (notify.Caller, error) {
	return func(r *http.Request, key string) (notify.Caller, error) {
		who, err := api.Caller(r.Context(), r.RemoteAddr, key, esh3ar.ScopeRead)
		if err != nil {
			return notify.Caller{}, err
		}
		return notify.Caller{Client: who.Client.ID, Check: who.Check}, nil
	}
}

// refusal tells a device or a business client why its token is refused, in the API's way.
func refusal(err error) *signalr.HTTPError {
	status, document := ingest.Problem(err)
	refused := &signalr.HTTPError{Status: status, Message: string(document), ContentType: "application/problem+json"}
	if e, ok := errors.AsType[*esh3ar.Error](err); ok {
		refused.RetryAfter = e.RetryAfter
	}
	return refused
}

// verifier is the device tokens as the hub sees them.
type verifier struct{ tokens *devicetoken.HS256 }

func (v verifier) Verify(token string) (recipient string, expires time.Time, err error) {
	c, err := v.tokens.Verify(token)
	return c.Subject, c.ExpiresAt, err
}
