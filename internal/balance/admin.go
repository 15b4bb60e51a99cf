package balance

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/esh3artech/esh3ar/internal/health"
)

// nodeReport is a node in the answer of /nodes. Times are in seconds.
type nodeReport struct {
	Node       string     `json:"node"`
	State      string     `json:"state"`
	Cause      string     `json:"cause,omitempty"`
	Usable     bool       `json:"usable"`
	EjectedFor float64    `json:"ejected_for_seconds,omitempty"`
	EjectedTo  *time.Time `json:"ejected_until,omitempty"`
	Share      float64    `json:"share"`
	Weight     float64    `json:"weight"`
	Free       float64    `json:"free"`
	Latency    float64    `json:"latency_seconds"`
	InFlight   int        `json:"in_flight"`
	Streams    int        `json:"streams"`
	Requests   uint64     `json:"requests"`
	Failures   int        `json:"failures_in_a_row"`
}

// adminHandler serves GET /metrics, /healthz, /readyz and /nodes.
func (b *Balancer) adminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(b.registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 4}))
	mux.HandleFunc("GET /healthz", b.serveHealth)
	mux.HandleFunc("GET /readyz", b.serveHealth)
	mux.HandleFunc("GET /nodes", func(w http.ResponseWriter, _ *http.Request) {
		health.Answer(w, http.StatusOK, struct {
			Nodes []nodeReport `json:"nodes"`
		}{b.reports()})
	})
	return mux
}

func (b *Balancer) reports() []nodeReport {
	now := time.Now()
	reports := []nodeReport{}
	for _, v := range b.views() {
		r := nodeReport{
			Node: v.ID, State: v.State.String(), Cause: v.Cause, Usable: v.Usable, Share: v.Share, Weight: v.Weight, Free: v.Free,
			Latency: v.Latency.Seconds(), InFlight: v.InFlight, Streams: v.Streams, Requests: v.Picks, Failures: v.Failures,
		}
		if v.Ejected.After(now) {
			until := v.Ejected.UTC().Truncate(time.Millisecond)
			r.EjectedTo, r.EjectedFor = &until, v.Ejected.Sub(now).Seconds()
			if r.Cause == "" {
				r.Cause = ejectedCause
			}
		}
		reports = append(reports, r)
	}
	return reports
}

// serveHealth serves /healthz, 200 while the process answers at all, and /readyz, 200 while it has a node
// to send requests to and is not about to stop.
func (b *Balancer) serveHealth(w http.ResponseWriter, r *http.Request) {
	status, word := http.StatusOK, "ok"
	if r.URL.Path != "/healthz" {
		usable := false
		for _, v := range b.views() {
			usable = usable || v.Usable
		}
		if !usable || b.front.isDraining() {
			status, word = http.StatusServiceUnavailable, "unavailable"
		}
	}
	health.Answer(w, status, struct {
		Status string `json:"status"`
	}{word})
}
