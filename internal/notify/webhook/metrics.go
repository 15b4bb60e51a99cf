package webhook

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	endpoints, open, parked prometheus.Gauge
	requests                *prometheus.CounterVec // by outcome
	transitions             *prometheus.CounterVec // by state
	disabled                *prometheus.CounterVec // by reason
	delivered               prometheus.Counter
	givenUp, lost           prometheus.Counter
	seconds, lag            prometheus.Histogram
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	counters := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
	}
	m := &metrics{
		endpoints: gauge("esh3ar_webhook_endpoints", "Webhook endpoints that events are posted to."),
		open:      gauge("esh3ar_webhook_breakers_open", "Webhook endpoints whose circuit breaker is open or trying."),
		parked:    gauge("esh3ar_webhook_parked_events", "Events that wait for another attempt, or behind one that does."),
		requests:  counters("esh3ar_webhook_requests_total", "Requests to webhook endpoints, by what came of them.", "outcome"),
		transitions: counters("esh3ar_webhook_breaker_transitions_total",
			"Changes of webhook endpoints' circuit breakers, by the state that they changed to.", "state"),
		disabled:  counters("esh3ar_webhook_disabled_total", "Webhook endpoints that the server has disabled, by the reason.", "reason"),
		delivered: counter("esh3ar_webhook_events_delivered_total", "Events that a webhook endpoint has taken, repeats included."),
		givenUp:   counter("esh3ar_webhook_events_given_up_total", "Events that no attempt could deliver."),
		lost:      counter("esh3ar_webhook_events_lost_total", "Times that a webhook found events forgotten that it had not posted."),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "esh3ar_webhook_request_seconds", Help: "How long requests to webhook endpoints took.",
			Buckets: []float64{0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15},
		}),
		lag: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "esh3ar_webhook_lag_seconds",
			Help:    "Time from a message's change of status until a webhook endpoint has taken its event at the first attempt.",
			Buckets: []float64{0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2.5, 5, 10, 60, 600},
		}),
	}
	var errs []error
	for _, c := range []prometheus.Collector{
		m.endpoints, m.open, m.parked, m.requests, m.transitions, m.disabled, m.delivered, m.givenUp, m.lost, m.seconds, m.lag,
	} {
		errs = append(errs, r.Register(c))
	}
	return m, errors.Join(errs...)
}
