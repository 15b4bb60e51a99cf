package health_test

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/esh3artech/esh3ar/internal/health"
)

// What is free of a node follows what its dispatch has to do: the lag and the queue that the autoscaler adds nodes for. It is the
// same in /readyz, which balancers ask, and in what the nodes tell each other.
func TestLoadFollowsDispatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := health.New(slog.New(slog.DiscardHandler))
		lag := prometheus.NewGauge(prometheus.GaugeOpts{Name: "esh3ar_journal_lag_seconds"})
		queue := prometheus.NewGauge(prometheus.GaugeOpts{Name: "esh3ar_dispatch_queue_depth"})
		breaker := prometheus.NewGauge(prometheus.GaugeOpts{Name: "esh3ar_breaker_open"})
		h.Registry().MustRegister(lag, queue, breaker)
		var accepting atomic.Int64 // free of it, in hundredths
		h.TellLoad(func() health.Load { return health.Load{Free: float64(accepting.Load()) / 100, InFlight: 3, Limit: 100} })
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- h.Run(ctx) }()
		for _, c := range []struct {
			name                            string
			accepting, lag, queue, breaking float64
			want                            float64
		}{
			{name: "nothing to do", accepting: 1, want: 1},
			{name: "a second behind", accepting: 1, lag: 1, want: 0.95},
			{name: "as far behind as may be", accepting: 1, lag: health.LagCapacity.Seconds(), want: 0.5},
			{name: "further", accepting: 1, lag: 3600, want: 0.5},
			{name: "accepting has less", accepting: 0.2, lag: 3600, want: 0.2},
			{name: "half the queue", accepting: 1, lag: 1, queue: health.QueueCapacity / 2, want: 0.75},
			{name: "the store is away", accepting: 1, lag: 3600, queue: health.QueueCapacity, breaking: 1, want: 1},
			{name: "nothing to do again", accepting: 1, want: 1},
		} {
			accepting.Store(int64(100 * c.accepting))
			lag.Set(c.lag)
			queue.Set(c.queue)
			breaker.Set(c.breaking)
			time.Sleep(2 * time.Second) // of the bubble
			synctest.Wait()
			_, report := readyz(t, h)
			if told := h.Told().Load; math.Abs(told.Free-c.want) > 1e-9 || report.Load == nil || *report.Load != told || told.InFlight != 3 || told.Limit != 100 {
				t.Errorf("%s: %+v is told, %+v in /readyz, want %g free", c.name, told, report.Load, c.want)
			}
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	})
}
