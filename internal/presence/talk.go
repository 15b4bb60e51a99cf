package presence

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// confirmed sends a batch until the node has confirmed it. Otherwise the session has ended: it is unknown to the node, or that did
// not answer for as long as patience lasts.
func (r *Router) confirmed(ctx context.Context, node, subject string, batch []byte) (taken, unknown bool) {
	ctx, cancel := context.WithTimeout(ctx, r.opts.Patience)
	defer cancel()
	// It is set anew before it is waited for. One that were due at once, and read by many goroutines of a synctest bubble at one
	// time, crashes the race detector (Go 1.26.8).
	pause := time.NewTimer(r.opts.Patience)
	defer pause.Stop()
	const first, most = 5 * time.Millisecond, 200 * time.Millisecond
	for wait := first; ; wait = min(2*wait, most) {
		try, end := context.WithTimeout(ctx, max(r.opts.Patience/4, time.Millisecond))
		answer, err := r.opts.Bus.Request(try, node, subject, batch)
		end()
		if err == nil {
			taken = len(answer) == 1 && answer[0] == answerTaken
			return taken, !taken
		}
		r.metrics.repeated.Inc()
		pause.Reset(wait)
		select {
		case <-ctx.Done():
			return false, false
		case <-pause.C:
		}
	}
}

// begin has Run run f.
func (r *Router) begin(f func(context.Context) error) {
	r.startMu.Lock()
	r.starting = append(r.starting, f)
	r.startMu.Unlock()
	select {
	case r.start <- struct{}{}:
	default:
	}
}

// started takes what is to be run.
func (r *Router) started() []func(context.Context) error {
	r.startMu.Lock()
	defer r.startMu.Unlock()
	fs := r.starting
	r.starting = nil
	return fs
}

type metrics struct {
	ended    prometheus.Counter
	repeated prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, r *Router) *metrics {
	m := &metrics{
		ended:    prometheus.NewCounter(prometheus.CounterOpts{Name: "esh3ar_presence_sessions_ended_total", Help: "Sessions with other nodes that ended before their time; devices are tied anew."}),
		repeated: prometheus.NewCounter(prometheus.CounterOpts{Name: "esh3ar_presence_batches_repeated_total", Help: "Batches to other nodes sent again, because they were not confirmed."}),
	}
	if reg == nil {
		return m
	}
	reg.MustRegister(m.ended, m.repeated, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "esh3ar_presence_sessions", Help: "Sessions with the hubs of other nodes.",
	}, func() float64 {
		r.mu.Lock()
		defer r.mu.Unlock()
		return float64(len(r.sessions))
	}))
	return m
}
