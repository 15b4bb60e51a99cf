package ingest

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/esh3artech/esh3ar"
)

// metrics are the API's, with the labels of the hot path resolved.
type metrics struct {
	accepted [esh3ar.Tiers]prometheus.Counter
	repeated prometheus.Counter
	// lookupFailed counts messages that were accepted although their key could not be looked up.
	lookupFailed prometheus.Counter
	refused      *prometheus.CounterVec // by code
	accepting    prometheus.Histogram   // of POST /v1/messages alone
	batch        prometheus.Histogram   // messages

	waits         [esh3ar.Tiers]prometheus.Counter // calls that waited for their client's rate
	refusal       [len(causes)][esh3ar.Tiers]prometheus.Counter
	usageFailures prometheus.Counter
}

// Why admission refuses a request.
const (
	causeRate = iota
	causeQuota
	causeOverload
)

var causes = [...]string{causeRate: "rate", causeQuota: "quota", causeOverload: "overload"}

// newMetrics registers the metrics, and those of g and l, with r, which may be nil.
func newMetrics(r prometheus.Registerer, g *guesses, l *load) (*metrics, error) {
	accepted := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "esh3ar_messages_accepted_total",
		Help: "Messages made durable and answered with 202, by service level.",
	}, []string{"tier"})
	waits := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "esh3ar_admission_waits_total",
		Help: "Requests that waited for their client's rate before they were accepted, by service level.",
	}, []string{"tier"})
	refusals := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "esh3ar_admission_refusals_total",
		Help: "Requests that were over their client's rate or daily quota, or that the server was overloaded for, by cause and service level.",
	}, []string{"cause", "tier"})
	m := &metrics{
		usageFailures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "esh3ar_usage_report_failures_total",
			Help: "Reports of what clients used of their daily quotas that the store did not take; they are made again.",
		}),
		repeated: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "esh3ar_messages_repeated_total",
			Help: "Messages that repeated an idempotency key and got the first answer again.",
		}),
		lookupFailed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "esh3ar_idempotency_lookup_failures_total",
			Help: "Messages accepted although their idempotency key could not be looked up.",
		}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "esh3ar_requests_refused_total",
			Help: "Requests, and messages of batches, that were answered with a problem, by its code.",
		}, []string{"code"}),
		accepting: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "esh3ar_accept_seconds",
			Help:    "Time from the end of the body of a POST /v1/messages until its message is durable, without a wait for the client's rate.",
			Buckets: []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5},
		}),
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "esh3ar_batch_messages",
			Help:    "Messages of a batch request.",
			Buckets: []float64{1, 2, 5, 10, 20, 50, 100, 200, 500, 1000},
		}),
	}
	for t := range m.accepted {
		tier := esh3ar.Tier(t).String()
		m.accepted[t] = accepted.WithLabelValues(tier)
		m.waits[t] = waits.WithLabelValues(tier)
		for i, cause := range causes {
			m.refusal[i][t] = refusals.WithLabelValues(cause, tier)
		}
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{accepted, m.repeated, m.lookupFailed, m.refused, m.accepting, m.batch,
		waits, refusals, m.usageFailures,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "esh3ar_accept_limit_messages",
			Help: "Messages that may be under way to the journal at one time; lower service levels are refused at three quarters and at half of it.",
		}, func() float64 { return float64(l.limits[esh3ar.TierGold].Load()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "esh3ar_accept_in_flight_messages",
			Help: "Messages under way to the journal.",
		}, func() float64 { return float64(l.inFlight()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "esh3ar_unknown_keys_total",
			Help: "API keys that were looked up and are not there.",
		}, func() float64 { return float64(g.missed.Load()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name:        "esh3ar_key_guesses_slowed_total",
			Help:        "Requests with an unknown API key from an address that had sent several, by what was done.",
			ConstLabels: prometheus.Labels{"how": "delayed"},
		}, func() float64 { return float64(g.delayed.Load()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name:        "esh3ar_key_guesses_slowed_total",
			Help:        "Requests with an unknown API key from an address that had sent several, by what was done.",
			ConstLabels: prometheus.Labels{"how": "refused"},
		}, func() float64 { return float64(g.refused.Load()) }),
	} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
