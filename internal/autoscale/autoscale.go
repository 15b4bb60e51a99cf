// Package autoscale adds nodes to a deployment when it is loaded, and drains them when it is not.
//
//	nodes ──reports──► NATS ──► Observer ──► policy.Decide ──► Provider ──► nodes come and go
//	                    │ ▲                      │
//	         leader's lease, record of decisions ┘
//
// Several autoscalers may run; one leads. What was decided is stored in NATS before it is carried out: that is where the next
// leader knows it from, and what keeps a leader that has been replaced from doing anything more.
package autoscale

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/esh3artech/esh3ar/internal/autoscale/policy"
	"github.com/esh3artech/esh3ar/internal/cluster"
)

// Defaults of Options.
const (
	DefaultInterval  = 2 * time.Second
	DefaultActWithin = time.Minute
)

// Options configures an Autoscaler. The zero value of an optional field means its default.
type Options struct {
	NATS     cluster.Connector // of the deployment; required
	Name     string            // of this process, to show; required
	Rules    policy.Rules      // required
	Provider Provider          // required
	Logger   *slog.Logger      // required

	// Admin is the address for GET /metrics, /healthz, /readyz and /decisions; "" for none.
	Admin string

	// Interval is how often is decided. Default 2 s, which is how often nodes take their figures.
	Interval time.Duration

	// ActWithin bounds how long carrying out a decision may take. Default 1 min.
	ActWithin time.Duration
}

// Autoscaler is one of the processes that scale a deployment.
type Autoscaler struct {
	opts     Options
	observer *cluster.Observer
	leader   *cluster.Leader
	metrics  *metrics
	admin    net.Listener // nil for none

	mu     sync.Mutex
	latest latest
}

// latest is what was decided last.
type latest struct {
	At       time.Time                 `json:"at"`
	Decision policy.Decision           `json:"decision"`
	Load     map[policy.Signal]float64 `json:"load"`
}

// New checks the options and binds the admin address. Nothing else happens before Run, or Close if there is none.
func New(ctx context.Context, o Options) (*Autoscaler, error) {
	if o.Provider == nil {
		return nil, errors.New("autoscale: a provider is required")
	}
	if err := o.Rules.Check(); err != nil {
		return nil, fmt.Errorf("autoscale: %w", err)
	}
	o.Interval = cmp.Or(o.Interval, DefaultInterval)
	o.ActWithin = cmp.Or(o.ActWithin, DefaultActWithin)
	a := &Autoscaler{opts: o}
	var err error
	if a.observer, err = cluster.NewObserver(cluster.ObserverOptions{NATS: o.NATS, Logger: o.Logger}); err != nil {
		return nil, err
	}
	if a.leader, err = cluster.NewLeader(cluster.LeaderOptions{NATS: o.NATS, Logger: o.Logger, Task: "autoscale", Name: o.Name}); err != nil {
		return nil, err
	}
	a.metrics = newMetrics(a)
	if o.Admin != "" {
		if a.admin, err = new(net.ListenConfig).Listen(ctx, "tcp", o.Admin); err != nil {
			return nil, fmt.Errorf("autoscale: %w", err)
		}
	}
	return a, nil
}

// AdminAddr returns the admin address, nil if there is none.
func (a *Autoscaler) AdminAddr() net.Addr {
	if a.admin == nil {
		return nil
	}
	return a.admin.Addr()
}

// Close releases the admin address of an Autoscaler that is not run.
func (a *Autoscaler) Close() error {
	if a.admin == nil {
		return nil
	}
	return a.admin.Close()
}

// adminHeader is how long a request of the admin listener may take to send its header.
const adminHeader = 10 * time.Second

// Run watches the deployment, and scales it whenever this process leads, until ctx ends; then it gives the lead up and
// returns nil. The nodes stay as they are. It must be called once.
func (a *Autoscaler) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.observer.Run(ctx) })
	g.Go(func() error { return a.leader.Run(ctx, a.lead) })
	if a.admin != nil {
		server := &http.Server{Handler: a.adminHandler(), ReadHeaderTimeout: adminHeader}
		g.Go(func() error {
			if err := server.Serve(a.admin); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
		g.Go(func() error {
			<-ctx.Done()
			return server.Close()
		})
	}
	return g.Wait()
}

// record is what goes from leader to leader.
type record struct {
	State policy.State `json:"state"`
	// Decisions are those that were not to hold, the newest first.
	Decisions []Entry `json:"decisions"`
}

// mostDecisions bounds what is kept of them.
const mostDecisions = 100

// Entry is a decision and what became of it.
type Entry struct {
	At time.Time `json:"at"`
	By string    `json:"by"` // the autoscaler that led
	policy.Decision
	Outcome Outcome `json:"outcome"`
	Error   string  `json:"error,omitempty"` // why it failed
	Seconds float64 `json:"took_seconds"`
}

// Outcome is what became of a decision.
type Outcome string

// The outcomes.
const (
	Begun  Outcome = "begun"  // whoever led may have been replaced in mid-action
	Done   Outcome = "done"   // the nodes were told
	Failed Outcome = "failed" // nothing was done, and it is decided anew later
)

// lead decides until the term ends.
func (a *Autoscaler) lead(ctx context.Context, t *cluster.Term) error {
	var r record
	if raw := t.Value(); len(raw) > 0 {
		if err := json.Unmarshal(raw, &r); err != nil {
			a.opts.Logger.Warn("what the leader before has decided is not readable", "error", err)
			r = record{}
		}
	}
	tick := time.NewTicker(a.opts.Interval)
	defer tick.Stop()
	defer a.metrics.forget()
	blind := "" // why the provider does not answer, as it was logged last
	for ctx.Err() == nil {
		inventory, err := a.inventory(ctx)
		if err != nil {
			// Nothing can be removed. What adding meets shows when it is tried.
			inventory.Removable = []string{}
			if text := err.Error(); text != blind && ctx.Err() == nil {
				blind = text
				a.opts.Logger.Warn("the provider does not say what it has", "provider", a.opts.Provider.Name(), "error", err)
			}
		} else {
			blind = ""
		}
		nodes, known := a.observe()
		now := time.Now()
		d, after := a.opts.Rules.Decide(r.State, policy.Observation{Known: known, Nodes: nodes, Removable: inventory.Removable, Chooses: inventory.Chooses}, now)
		a.note(now, d, after)
		if d.Kind == policy.Hold {
			r.State = after
		} else if r, err = a.act(ctx, t, r, d, after, now); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	return nil
}

func (a *Autoscaler) inventory(ctx context.Context) (Inventory, error) {
	ctx, cancel := context.WithTimeout(ctx, a.opts.ActWithin)
	defer cancel()
	return a.opts.Provider.Inventory(ctx)
}

// note has others see what was decided.
func (a *Autoscaler) note(at time.Time, d policy.Decision, s policy.State) {
	a.mu.Lock()
	a.latest = latest{at.UTC(), d, s.Load}
	a.mu.Unlock()
	a.metrics.note(d, s)
	a.opts.Logger.Debug("decided", "kind", d.Kind, "reason", d.Reason)
}

// act carries a decision out. It is stored before, and what became of it after: who leads no more, or cannot store, does
// not act. The error says that this process should not lead on.
func (a *Autoscaler) act(ctx context.Context, t *cluster.Term, r record, d policy.Decision, after policy.State, now time.Time) (record, error) {
	before := r.State
	e := Entry{At: now.UTC(), By: a.opts.Name, Decision: d, Outcome: Begun}
	r = record{State: after, Decisions: append([]Entry{e}, r.Decisions[:min(len(r.Decisions), mostDecisions-1)]...)}
	if err := r.store(ctx, t); err != nil {
		return r, err
	}
	order := Order{Wanted: d.Wanted, Node: d.Node, Reason: d.Reason}
	if d.Kind == policy.Add {
		order.Add = d.Count
	}
	acting, cancel := context.WithTimeoutCause(ctx, a.opts.ActWithin, fmt.Errorf("it took longer than %s", a.opts.ActWithin))
	defer cancel()
	began := time.Now()
	err := context.Cause(acting)
	if acting.Err() == nil {
		err = a.opts.Provider.Scale(acting, order)
	}
	took := time.Since(began)
	e.Outcome, e.Seconds, r.State = Done, took.Seconds(), after.Carried()
	log := []any{"kind", d.Kind, "count", d.Count, "node", d.Node, "wanted", d.Wanted, "reason", d.Reason}
	if err != nil {
		e.Outcome, e.Error, r.State = Failed, brief(err), a.opts.Rules.Failed(before, after, time.Now())
		a.opts.Logger.Error("a decision could not be carried out", append(log, "error", err)...)
	} else {
		a.opts.Logger.Info("the deployment is scaled", log...)
	}
	a.metrics.acted(d, e.Outcome, took)
	r.Decisions[0] = e
	return r, r.store(ctx, t)
}

// mostError bounds what is kept of why a decision failed, in bytes: all that is kept is one message in NATS.
const mostError = 2 << 10

// brief is an error's text, or its beginning.
func brief(err error) string {
	text := err.Error()
	if len(text) <= mostError {
		return text
	}
	return strings.ToValidUTF8(text[:mostError], "") + "…"
}

func (r record) store(ctx context.Context, t *cluster.Term) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("autoscale: %w", err)
	}
	return t.Store(ctx, raw)
}
