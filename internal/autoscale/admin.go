package autoscale

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/esh3artech/esh3ar/internal/health"
)

// Report is the answer of GET /decisions.
type Report struct {
	Name     string `json:"name"`     // of the process that was asked
	Leading  bool   `json:"leading"`  // whether it leads
	Leader   string `json:"leader"`   // who does, "" if nobody is known to
	Provider string `json:"provider"` // of the process that was asked

	// Now is what the process that was asked decided last while it led, to hold too; absent if it has not led.
	Now *latest `json:"now,omitempty"`
	// Decisions are all leaders', but for those to hold, the newest first.
	Decisions []Entry `json:"decisions"`
	// Problem is why the decisions are missing.
	Problem string `json:"problem,omitempty"`
}

// adminHandler serves GET /metrics, /healthz, /readyz and /decisions.
func (a *Autoscaler) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.metrics.registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 4}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { health.Answer(w, http.StatusOK, status{"ok"}) })
	mux.HandleFunc("GET /readyz", a.serveReady)
	mux.HandleFunc("GET /decisions", func(w http.ResponseWriter, r *http.Request) { health.Answer(w, http.StatusOK, a.report(r.Context())) })
	return mux
}

type status struct {
	Status string `json:"status"`
}

// serveReady says whether this process knows the nodes and who leads: then it leads, or would take over.
func (a *Autoscaler) serveReady(w http.ResponseWriter, _ *http.Request) {
	if _, known := a.observer.Live(); !known || a.leader.Holder() == "" {
		health.Answer(w, http.StatusServiceUnavailable, status{"unavailable"})
		return
	}
	health.Answer(w, http.StatusOK, status{"ok"})
}

// reportTime bounds how long the decisions are waited for.
const reportTime = 2 * time.Second

func (a *Autoscaler) report(ctx context.Context) Report {
	r := Report{Name: a.opts.Name, Leading: a.leader.Leading(), Leader: a.leader.Holder(), Provider: a.opts.Provider.Name(), Decisions: []Entry{}}
	a.mu.Lock()
	if !a.latest.At.IsZero() {
		now := a.latest
		r.Now = &now
	}
	a.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, reportTime)
	defer cancel()
	raw, err := a.leader.Read(ctx)
	var kept record
	if err == nil && len(raw) > 0 {
		err = json.Unmarshal(raw, &kept)
	}
	if err != nil {
		r.Problem = err.Error()
	}
	if kept.Decisions != nil {
		r.Decisions = kept.Decisions
	}
	return r
}
