package notify

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	followers prometheus.Gauge
	told      *prometheus.CounterVec // by way
	behind    prometheus.Counter
	lag       prometheus.Histogram
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		followers: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "esh3ar_event_streams", Help: "Open event streams and subscriptions of the business hub.",
		}),
		told: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "esh3ar_events_told_total", Help: "Status events told to business clients, repeats included, by the way they went.",
		}, []string{"way"}),
		behind: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "esh3ar_event_streams_behind_total", Help: "Times that a stream fell behind and went on from the store.",
		}),
		lag: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "esh3ar_event_lag_seconds",
			Help:    "Time from a message's change of status until its event is taken up by a stream that is up to date.",
			Buckets: []float64{0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2.5, 5, 10},
		}),
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.followers, m.told, m.behind, m.lag} {
		errs = append(errs, r.Register(c))
	}
	return m, errors.Join(errs...)
}
