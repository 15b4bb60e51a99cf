package balance

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/esh3artech/esh3ar/internal/balance/picker"
)

type metrics struct {
	requests     *prometheus.CounterVec
	latency      *prometheus.HistogramVec
	retried      *prometheus.CounterVec
	unaffordable prometheus.Counter
	problems     *prometheus.CounterVec
	handed       prometheus.Counter
	reloads      *prometheus.CounterVec
}

func newMetrics(b *Balancer, r prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "esh3ar_balance_attempts_total", Help: "Requests sent to a node, by how they ended: served, overloaded, failed, void.",
		}, []string{"node", "result"}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "esh3ar_balance_node_seconds", Help: "From sending a request to a node until the header of its answer.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16),
		}, []string{"node"}),
		retried: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "esh3ar_balance_retries_total", Help: "Requests sent to another node, by the cause: failure, refusal.",
		}, []string{"cause"}),
		unaffordable: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "esh3ar_balance_retries_denied_total", Help: "Requests not sent again because too many were already.",
		}),
		problems: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "esh3ar_balance_problems_total", Help: "Requests answered by the balancer itself with a problem, by its code.",
		}, []string{"code"}),
		handed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "esh3ar_balance_handed_over_total", Help: "Connections handed over to net/http: HTTP/2, uploads without a length, streams, hubs.",
		}),
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "esh3ar_balance_certificate_loads_total", Help: "Times that the certificate's files were read after a change, by result.",
		}, []string{"result"}),
	}
	r.MustRegister(m.requests, m.latency, m.retried, m.unaffordable, m.problems, m.handed, m.reloads,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "esh3ar_balance_connections", Help: "Connections of clients, those of net/http aside.",
		}, func() float64 { return float64(b.front.count()) }),
		&nodeCollector{b,
			prometheus.NewDesc("esh3ar_balance_node_share", "A node's share of the requests of the last seconds.", []string{"node"}, nil),
			prometheus.NewDesc("esh3ar_balance_node_latency_seconds", "What a node's latency is taken for.", []string{"node"}, nil),
			prometheus.NewDesc("esh3ar_balance_node_in_flight", "Requests at a node, streams aside.", []string{"node"}, nil),
			prometheus.NewDesc("esh3ar_balance_node_streams", "Open streams and WebSockets at a node.", []string{"node"}, nil),
			prometheus.NewDesc("esh3ar_balance_node_usable", "1 if a node gets requests, else 0.", []string{"node"}, nil),
		})
	return m
}

// nodeMetrics are those of one node that change with every request.
type nodeMetrics struct {
	results [picker.Void + 1]prometheus.Counter
	latency prometheus.Observer
}

func (m *metrics) node(id string) *nodeMetrics {
	n := &nodeMetrics{latency: m.latency.WithLabelValues(id)}
	for r, name := range [...]string{picker.Served: "served", picker.Overloaded: "overloaded", picker.Failed: "failed", picker.Void: "void"} {
		n.results[r] = m.requests.WithLabelValues(id, name)
	}
	return n
}

// forget drops the metrics of a node that has left the set.
func (m *metrics) forget(id string) {
	m.requests.DeletePartialMatch(prometheus.Labels{"node": id})
	m.latency.DeleteLabelValues(id)
}

func (n *nodeMetrics) count(r picker.Result, latency time.Duration, stream bool) {
	n.results[r].Inc()
	if r == picker.Served && !stream {
		n.latency.Observe(latency.Seconds())
	}
}

// nodeCollector tells what the picker knows when it is asked.
type nodeCollector struct {
	balancer                                  *Balancer
	share, latency, inFlight, streams, usable *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (c *nodeCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range [...]*prometheus.Desc{c.share, c.latency, c.inFlight, c.streams, c.usable} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *nodeCollector) Collect(ch chan<- prometheus.Metric) {
	for _, v := range c.balancer.views() {
		usable := 0.0
		if v.Usable {
			usable = 1
		}
		for _, m := range [...]struct {
			desc  *prometheus.Desc
			value float64
		}{
			{c.share, v.Share}, {c.latency, v.Latency.Seconds()}, {c.inFlight, float64(v.InFlight)},
			{c.streams, float64(v.Streams)}, {c.usable, usable},
		} {
			ch <- prometheus.MustNewConstMetric(m.desc, prometheus.GaugeValue, m.value, v.ID)
		}
	}
}
