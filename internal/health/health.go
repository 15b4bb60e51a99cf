// Package health says how the process is: whether it lives, whether it is ready to serve, and its
// metrics. Its handler is what orchestrators, balancers and Prometheus ask.
package health

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/esh3artech/esh3ar"
)

// Status is how a part, or the whole, is.
type Status string

// The statuses, from good to bad.
const (
	// OK: everything works.
	OK Status = "ok"
	// Degraded: it serves and keeps its promises, but not all of it works. Ready all the same.
	Degraded Status = "degraded"
	// Unavailable: it should get no requests.
	Unavailable Status = "unavailable"
)

// worse returns the worse of two statuses.
func worse(a, b Status) Status {
	if a == Unavailable || b == Unavailable {
		return Unavailable
	}
	if a == Degraded || b == Degraded {
		return Degraded
	}
	return OK
}

// Check reports how one part is: nil for OK, an error made by Degrade for Degraded, any other for
// Unavailable. It is called from any goroutine, and must return when ctx ends.
type Check func(ctx context.Context) error

// degraded marks an error of Degrade.
type degraded struct{ error }

func (d degraded) Unwrap() error { return d.error }

// Degrade returns err as the reason why a part is degraded but not unavailable; nil for nil.
func Degrade(err error) error {
	if err == nil {
		return nil
	}
	return degraded{err}
}

// starting marks an error of Starting.
type starting struct{ error }

func (s starting) Unwrap() error { return s.error }

// Starting is Degrade for what every start of the process brings for a moment. The log does not warn of it.
func Starting(err error) error { return Degrade(starting{err}) }

const (
	checkTime = 2 * time.Second // for all checks together
	maxAge    = time.Second     // of an answer; checks run no more often
)

// Health keeps the checks and the metrics registry. It is safe for concurrent use.
type Health struct {
	log      *slog.Logger
	registry *prometheus.Registry
	metric   *prometheus.Desc

	mu       sync.Mutex
	checks   []namedCheck
	load     func() Load
	draining bool
	told     Told

	// running is held while the checks run, so that they run once for all who ask.
	running sync.Mutex
	ran     time.Time // when the checks ran last, zero if they are to run again
	report  Report
}

type namedCheck struct {
	name  string
	check Check
}

// Report is the body of an answer about readiness.
type Report struct {
	Status Status            `json:"status"`
	Checks map[string]Result `json:"checks"`
	Load   *Load             `json:"load,omitempty"`
}

// Result is what one check said. Detail is fit to be shown to anybody; the whole error is in the log.
type Result struct {
	Status Status `json:"status"`
	Detail string `json:"detail,omitempty"`

	starting bool // what every start brings
}

// New returns a Health without checks, whose registry has the metrics of the Go runtime and the
// process. Changes of a check's status go to the log.
func New(log *slog.Logger) *Health {
	h := &Health{
		log:      log,
		registry: prometheus.NewRegistry(),
		metric: prometheus.NewDesc("esh3ar_check_status",
			"How each part is: 1 ok, 0.5 degraded, 0 unavailable.", []string{"check"}, nil),
	}
	h.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collectors.NewBuildInfoCollector(),
		h,
	)
	return h
}

// Registry is where the parts of the process register their metrics.
func (h *Health) Registry() *prometheus.Registry { return h.registry }

// Add adds a check to readiness. The name is a word such as "store"; a second check of a name
// replaces the first.
func (h *Health) Add(name string, check Check) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range h.checks {
		if h.checks[i].name == name {
			h.checks[i].check = check
			return
		}
	}
	h.checks = append(h.checks, namedCheck{name, check})
}

// TellLoad has reports tell the load as f returns it, with less free where the figures say that dispatch is behind. F is
// called from any goroutine.
func (h *Health) TellLoad(f func() Load) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.load = f
}

// Drain makes the process unavailable from now on: it is about to stop. Balancers then send their
// requests elsewhere while it finishes what it has.
func (h *Health) Drain() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.draining = true
}

// Ready runs the checks, unless they ran within the last second, and reports what they say.
func (h *Health) Ready(ctx context.Context) Report {
	h.running.Lock()
	defer h.running.Unlock()
	if h.ran.IsZero() || time.Since(h.ran) >= maxAge {
		h.run(ctx)
	}
	r := h.report
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.load != nil {
		load := h.load().behind(h.told.Figures)
		r.Load = &load
	}
	if h.draining {
		r.Status = Unavailable
		r.Checks = maps.Clone(r.Checks)
		r.Checks["drain"] = stopping()
	}
	return r
}

func stopping() Result { return Result{Status: Unavailable, Detail: "the process is stopping"} }

// run runs the checks side by side and notes what they say.
func (h *Health) run(ctx context.Context) {
	h.mu.Lock()
	checks := slices.Clone(h.checks)
	h.mu.Unlock()
	// The answer is for all who ask within the next second, not only for whom it was begun.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkTime)
	defer cancel()
	errs := make([]error, len(checks))
	var wg sync.WaitGroup
	for i, c := range checks {
		wg.Go(func() { errs[i] = c.check(ctx) })
	}
	wg.Wait()

	report := Report{Status: OK, Checks: make(map[string]Result, len(checks))}
	for i, c := range checks {
		result := resultOf(errs[i])
		report.Checks[c.name] = result
		report.Status = worse(report.Status, result.Status)
		before, known := h.report.Checks[c.name]
		switch {
		case result.Status == before.Status && result.starting == before.starting, !known && result.Status == OK:
		case result.Status == OK:
			h.log.LogAttrs(ctx, slog.LevelInfo, "check recovered", slog.String("check", c.name))
		case result.starting:
			h.log.LogAttrs(ctx, slog.LevelInfo, "check waits for the start to be over", slog.String("check", c.name),
				slog.String("status", string(result.Status)), slog.Any("error", errs[i]))
		default:
			h.log.LogAttrs(ctx, slog.LevelWarn, "check failed", slog.String("check", c.name),
				slog.String("status", string(result.Status)), slog.Any("error", errs[i]))
		}
	}
	h.report, h.ran = report, time.Now()
}

// resultOf says what the error of a check means.
func resultOf(err error) Result {
	if err == nil {
		return Result{Status: OK}
	}
	r := Result{Status: Unavailable, Detail: "failed; the reason is in the log"}
	var d degraded
	if errors.As(err, &d) {
		r.Status = Degraded
	}
	var s starting
	r.starting = errors.As(err, &s)
	var e *esh3ar.Error
	switch {
	case errors.As(err, &e):
		r.Detail = e.Message
	case errors.Is(err, context.DeadlineExceeded):
		r.Detail = "did not answer in time"
	}
	return r
}

// Describe implements prometheus.Collector.
func (h *Health) Describe(ch chan<- *prometheus.Desc) { ch <- h.metric }

// Collect implements prometheus.Collector: a scrape runs the checks too.
func (h *Health) Collect(ch chan<- prometheus.Metric) {
	for name, result := range h.Ready(context.Background()).Checks {
		value := 0.0
		switch result.Status {
		case OK:
			value = 1
		case Degraded:
			value = 0.5
		}
		ch <- prometheus.MustNewConstMetric(h.metric, prometheus.GaugeValue, value, name)
	}
}

// Handler serves GET /healthz, 200 while the process can answer at all; GET /readyz, 200 while it is
// ready, degraded or not, and 503 otherwise, with a Report; and GET /metrics.
func (h *Health) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		Answer(w, http.StatusOK, struct {
			Status Status `json:"status"`
		}{OK})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		report := h.Ready(r.Context())
		status := http.StatusOK
		if report.Status == Unavailable {
			status = http.StatusServiceUnavailable
		}
		Answer(w, status, report)
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(h.registry, promhttp.HandlerOpts{
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: 4,
	}))
	return mux
}

// Answer writes a JSON answer about how things are now, which nobody is to keep.
func Answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // fails only if the client has gone
}
