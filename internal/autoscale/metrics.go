package autoscale

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/esh3artech/esh3ar/internal/autoscale/policy"
)

type metrics struct {
	registry    *prometheus.Registry
	decisions   *prometheus.CounterVec
	took        *prometheus.HistogramVec
	utilisation *prometheus.GaugeVec
	nodes       *prometheus.GaugeVec
}

func newMetrics(a *Autoscaler) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "esh3ar_autoscale_decisions_total", Help: "Decisions of this process while it led, by kind (hold, add, remove), the load that was highest, and outcome (done, failed; held).",
		}, []string{"kind", "signal", "outcome"}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "esh3ar_autoscale_act_seconds", Help: "How long it took to carry decisions out, failures included.",
			Buckets: prometheus.ExponentialBuckets(0.01, 3, 9),
		}, []string{"kind"}),
		utilisation: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "esh3ar_autoscale_utilisation", Help: "Each load as a share of capacity, smoothed; of the leader alone.",
		}, []string{"signal"}),
		nodes: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "esh3ar_autoscale_nodes", Help: "Nodes: live, elastic ones among them, starting, and elastic ones wanted; of the leader alone.",
		}, []string{"which"}),
	}
	m.registry.MustRegister(m.decisions, m.took, m.utilisation, m.nodes,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "esh3ar_autoscale_leading", Help: "1 if this process leads, else 0.",
		}, func() float64 {
			if a.leader.Leading() {
				return 1
			}
			return 0
		}),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewBuildInfoCollector())
	return m
}

// note takes note of a decision.
func (m *metrics) note(d policy.Decision, s policy.State) {
	if d.Kind == policy.Hold {
		m.decisions.WithLabelValues(string(d.Kind), string(d.Signal), "held").Inc()
	}
	for signal, u := range s.Load {
		m.utilisation.WithLabelValues(string(signal)).Set(u)
	}
	for which, n := range map[string]int{"live": d.Live, "elastic": d.Elastic, "starting": d.Starting, "wanted": d.Wanted} {
		m.nodes.WithLabelValues(which).Set(float64(n))
	}
}

// acted takes note of what became of a decision.
func (m *metrics) acted(d policy.Decision, o Outcome, took time.Duration) {
	m.decisions.WithLabelValues(string(d.Kind), string(d.Signal), string(o)).Inc()
	m.took.WithLabelValues(string(d.Kind)).Observe(took.Seconds())
}

// forget drops what the leader alone tells.
func (m *metrics) forget() {
	m.utilisation.Reset()
	m.nodes.Reset()
}
