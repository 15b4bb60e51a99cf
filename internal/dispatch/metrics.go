package dispatch

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
)

// metrics are dispatch's figures. All series are resolved once, none on the way of a message.
type metrics struct {
	routed        [esh3ar.Tiers]prometheus.Observer
	delivered     [esh3ar.Tiers]prometheus.Observer
	acknowledged  prometheus.Histogram
	commit        prometheus.Histogram
	transitions   [int(esh3ar.StatusUndelivered) + 1]prometheus.Counter
	repeated      prometheus.Counter
	lateDropped   prometheus.Counter
	commitRetries prometheus.Counter
	refused       prometheus.Counter
	aside, left   prometheus.Counter

	breakersOpened, breakersClosed prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, d *Dispatcher) *metrics {
	// From half a millisecond to about sixteen seconds.
	buckets := prometheus.ExponentialBuckets(0.0005, 2, 16)
	histogram := func(name, help string) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets})
		reg.MustRegister(h)
		return h
	}
	byTier := func(name, help string) (of [esh3ar.Tiers]prometheus.Observer) {
		h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, []string{"tier"})
		reg.MustRegister(h)
		for tier := range of {
			of[tier] = h.WithLabelValues(esh3ar.Tier(tier).String())
		}
		return of
	}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		reg.MustRegister(c)
		return c
	}
	gauge := func(name, help string, f func() float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f))
	}
	m := &metrics{
		routed:        byTier("esh3ar_accept_to_route_seconds", "Time from a message's acceptance until it was first handed to connections."),
		acknowledged:  histogram("esh3ar_send_to_acknowledge_seconds", "Time from a send until the device acknowledged it."),
		delivered:     byTier("esh3ar_accept_to_delivered_seconds", "Time from a message's acceptance until the device acknowledged it."),
		commit:        histogram("esh3ar_store_commit_seconds", "Time of one transaction of the store, repeats included."),
		repeated:      counter("esh3ar_repeated_keys_total", "Journal records left out because their idempotency key was known."),
		lateDropped:   counter("esh3ar_late_acknowledgements_dropped_total", "Late acknowledgements dropped because too many waited."),
		refused:       counter("esh3ar_store_refused_messages_total", "Messages that the store refused for good as they were."),
		left:          counter("esh3ar_messages_left_for_later_total", "Messages for absent recipients left in the journal for a while, because accepting needed the machine."),
		aside:         counter("esh3ar_messages_set_aside_total", "Messages that wait in the store for their turn, because their client had more than its share in memory."),
		commitRetries: counter("esh3ar_store_commit_retries_total", "Transactions repeated after an error of the store."),
	}
	breakers := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "esh3ar_recipient_breaker_transitions_total", Help: "Changes of recipients' circuit breakers, by the state that they changed to.",
	}, []string{"state"})
	reg.MustRegister(breakers)
	m.breakersOpened, m.breakersClosed = breakers.WithLabelValues("open"), breakers.WithLabelValues("closed")
	transitions := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "esh3ar_message_transitions_total", Help: "Stored transitions of messages by the status they lead to.",
	}, []string{"status"})
	reg.MustRegister(transitions)
	for s := esh3ar.StatusAccepted; s <= esh3ar.StatusUndelivered; s++ {
		m.transitions[s] = transitions.WithLabelValues(s.String())
	}
	gauge("esh3ar_dispatch_queue_depth", "Recipients that wait for a worker or are being worked on.", func() float64 {
		return float64(d.runq.load())
	})
	gauge("esh3ar_dispatch_processors", "Goroutines that run recipients.", func() float64 { return float64(d.procs.number()) })
	reg.MustRegister(
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "esh3ar_dispatch_processors_started_total", Help: "Processors started, because recipients waited for a turn."}, func() float64 { return float64(d.procs.started.Load()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "esh3ar_dispatch_processors_retired_total", Help: "Processors retired, because there was too little to do for so many."}, func() float64 { return float64(d.procs.retired.Load()) }))
	gauge("esh3ar_journal_lag_seconds", "How long ago the journal entry was accepted that is being read, 0 if all are read; the greatest of the shards owned.", func() float64 {
		return d.lag().Seconds()
	})
	gauge("esh3ar_shards_owned", "Shards that this node owns.", func() float64 { return float64(len(d.all())) })
	gauge("esh3ar_store_queue_depth", "Changes that wait for the store.", func() float64 {
		n := 0
		for _, s := range d.all() {
			n += s.committer.depth()
		}
		return float64(n)
	})
	gauge("esh3ar_journal_unstored_entries", "Journal entries read whose messages are not all stored.", func() float64 {
		n := 0
		for _, s := range d.all() {
			n += s.committer.unstored()
		}
		return float64(n)
	})
	gauge("esh3ar_recipients_in_memory", "Recipients with a connection or with messages in memory.", func() float64 {
		n := 0
		for _, s := range d.all() {
			s.mu.Lock()
			n += len(s.recipients)
			s.mu.Unlock()
		}
		return float64(n)
	})
	return m
}

// count observes a stored change.
func (m *metrics) count(c *store.Change) {
	line := c.State.Timeline
	for i := c.NewFrom; i < len(line); i++ {
		m.transitions[line[i].Status].Inc()
		if line[i].Status != esh3ar.StatusDelivered {
			continue
		}
		m.delivered[c.Message.Tier].Observe(line[i].At.Sub(line[0].At).Seconds())
		if i > 0 && line[i-1].Status == esh3ar.StatusSent {
			m.acknowledged.Observe(line[i].At.Sub(line[i-1].At).Seconds())
		}
	}
}
