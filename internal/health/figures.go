package health

import (
	"context"
	"log/slog"
	"maps"
	"time"

	dto "github.com/prometheus/client_model/go"
)

// Figures are what a node has to do and how it gets on, over the last few seconds. They are those of its metrics,
// so that whoever reads the one is told the same as readers of the other.
type Figures struct {
	// Accepted, Refused and Delivered are messages a second: answered with 202, answered with a problem, and
	// acknowledged by a device.
	Accepted  float64 `json:"accepted_per_second"`
	Refused   float64 `json:"refused_per_second"`
	Delivered float64 `json:"delivered_per_second"`

	// The mean time of each stage in seconds, 0 if nothing passed it: until a message is durable, from then until
	// it is handed to a connection, and until it is acknowledged; and of a transaction of the store.
	Accept  float64 `json:"accept_seconds"`
	Route   float64 `json:"route_seconds"`
	Deliver float64 `json:"deliver_seconds"`
	Commit  float64 `json:"commit_seconds"`

	// Connections are open, of any kind.
	Connections int64 `json:"connections"`

	// Devices are connected, EventStreams open.
	Devices      int64 `json:"devices"`
	EventStreams int64 `json:"event_streams"`

	// DispatchQueue is recipients that wait for a turn, Processors who gives it to them, Recipients those in
	// memory, StoreQueue changes that wait for the store, Unstored journal entries that are read and not stored.
	DispatchQueue int64 `json:"dispatch_queue"`
	Processors    int64 `json:"processors"`
	Recipients    int64 `json:"recipients_in_memory"`
	StoreQueue    int64 `json:"store_queue"`
	Unstored      int64 `json:"journal_unstored_entries"`

	// Lag is how long ago what is being read of the journal was accepted, in seconds: 0 if all is read.
	Lag float64 `json:"lag_seconds"`

	// StoreBreaker is the store's circuit breaker: closed, trying or open. WebhookBreakers is how many endpoints'
	// are not closed.
	StoreBreaker    string `json:"store_breaker"`
	WebhookBreakers int64  `json:"webhook_breakers_open"`

	// CPU is processors in use, and Memory what the process has of the machine's, in bytes.
	CPU    float64 `json:"cpu"`
	Memory int64   `json:"memory_bytes"`
}

// figuresEvery is how often the metrics are read. Between two readings lies what rates and mean times are of.
const figuresEvery = 2 * time.Second

// reading is the metrics at one time, each with the sum over its series.
type reading struct {
	at     time.Time
	values map[string]float64
	counts map[string]float64 // of histograms, whose sums are among the values
}

// read adds the series of each metric up. A metric that cannot be collected is missing.
func (h *Health) read() reading {
	families, err := h.registry.Gather()
	if err != nil {
		h.log.LogAttrs(context.Background(), slog.LevelDebug, "metrics are missing", slog.Any("error", err))
	}
	r := reading{at: time.Now(), values: make(map[string]float64, len(families)), counts: make(map[string]float64)}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			value, count := valueOf(m)
			r.values[f.GetName()] += value
			r.counts[f.GetName()] += count
		}
	}
	return r
}

func valueOf(m *dto.Metric) (value, count float64) {
	switch {
	case m.Gauge != nil:
		return m.Gauge.GetValue(), 0
	case m.Counter != nil:
		return m.Counter.GetValue(), 0
	case m.Histogram != nil:
		return m.Histogram.GetSampleSum(), float64(m.Histogram.GetSampleCount())
	}
	return 0, 0
}

// figures are what lies between two readings, and what the later one shows.
func (r reading) figures(before reading) Figures {
	passed := max(r.at.Sub(before.at).Seconds(), 0.001)
	rate := func(name string) float64 { return max(r.values[name]-before.values[name], 0) / passed }
	times := func(name string) float64 { return max(r.counts[name]-before.counts[name], 0) }
	mean := func(name string) float64 {
		if n := times(name); n > 0 {
			return max(r.values[name]-before.values[name], 0) / n
		}
		return 0
	}
	now := func(name string) int64 { return int64(r.values[name]) }
	breaker := "closed"
	switch state := r.values["esh3ar_breaker_open"]; {
	case state >= 1:
		breaker = "open"
	case state > 0:
		breaker = "trying"
	}
	return Figures{
		Accepted: rate("esh3ar_messages_accepted_total"), Refused: rate("esh3ar_requests_refused_total"),
		Delivered: times("esh3ar_accept_to_delivered_seconds") / passed,
		Accept:    mean("esh3ar_accept_seconds"), Route: mean("esh3ar_accept_to_route_seconds"),
		Deliver: mean("esh3ar_accept_to_delivered_seconds"), Commit: mean("esh3ar_store_commit_seconds"),
		Connections: now("esh3ar_connections"), Devices: now("esh3ar_devices_connected"), EventStreams: now("esh3ar_event_streams"),
		DispatchQueue: now("esh3ar_dispatch_queue_depth"), Processors: now("esh3ar_dispatch_processors"),
		Recipients: now("esh3ar_recipients_in_memory"), StoreQueue: now("esh3ar_store_queue_depth"),
		Unstored: now("esh3ar_journal_unstored_entries"), Lag: r.values["esh3ar_journal_lag_seconds"], StoreBreaker: breaker,
		WebhookBreakers: now("esh3ar_webhook_breakers_open"),
		CPU:             rate("process_cpu_seconds_total"), Memory: now("process_resident_memory_bytes"),
	}
}

// Run reads the metrics and runs the checks every two seconds, for Told, until ctx ends.
func (h *Health) Run(ctx context.Context) error {
	tick := time.NewTicker(figuresEvery)
	defer tick.Stop()
	before := h.read()
	h.tell(h.Ready(ctx), before.figures(before))
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		now := h.read()
		h.tell(h.Ready(ctx), now.figures(before))
		before = now
	}
}

// tell keeps what Told returns.
func (h *Health) tell(r Report, f Figures) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.told = Told{Status: r.Status, Checks: r.Checks, Figures: f, Capacity: h.told.Capacity}
}

// Told is what a node tells of itself to the others and to the operator.
type Told struct {
	Load
	// Status and Checks are those of the node's readiness.
	Status  Status            `json:"status"`
	Checks  map[string]Result `json:"checks"`
	Figures Figures           `json:"figures"`
	// Capacity is what the figures are to be compared with.
	Capacity Capacity `json:"capacity"`
}

// Capacity is how much of something a node can do. It is the same from a node's start to its end.
type Capacity struct {
	// Processors is how many the process may use at a time, with a fraction where a control group allows one.
	Processors float64 `json:"processors"`
	// Connections is how many may be open.
	Connections int64 `json:"connections"`
	// AcceptLatency is how long it should take at most to make a message durable, on average, in seconds.
	AcceptLatency float64 `json:"accept_latency_seconds"`
}

// TellCapacity has Told tell the capacity.
func (h *Health) TellCapacity(c Capacity) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.told.Capacity = c
}

// Told returns how this node is: its load as of now, its checks and figures as Run found them last. It does not
// block. Before Run has looked the node is unavailable.
func (h *Health) Told() Told {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.told
	if t.Status == "" {
		t.Status, t.Checks = Unavailable, make(map[string]Result)
	}
	if h.load != nil {
		t.Load = h.load().behind(t.Figures)
	}
	if h.draining {
		t.Status, t.Checks = Unavailable, maps.Clone(t.Checks)
		t.Checks["drain"] = stopping()
	}
	return t
}
