package dispatch_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/esh3artech/esh3ar/internal/dispatch"
)

// While recipients wait for a turn there are more processors, up to the most, and later fewer again.
func TestProcessorsFollowTheLoad(t *testing.T) {
	w := newWorld(t)
	w.stop()
	metrics := prometheus.NewRegistry()
	w.start(func(o *dispatch.Options) { o.LeastProcessors, o.MostProcessors, o.Metrics = 1, 3, metrics })
	number := func() float64 { return metric(t, metrics, "esh3ar_dispatch_processors") }
	w.until("there is one", func() bool { return number() == 1 })
	const recipients = 100
	var sent atomic.Int64
	for i := range recipients {
		w.Attach(fmt.Sprint("absent", i), counted{&sent})
	}
	gates := make([]gate, 3)
	for i := range gates {
		gates[i] = make(gate)
		defer close(gates[i])
		w.Attach(fmt.Sprint("gate", i), gates[i])
		w.accept(w.message("c", fmt.Sprint("gate", i), "holds a processor"))
		gates[i] <- struct{}{}
	}
	w.accept(w.burst("c", recipients, recipients)...)
	w.until("there are three", func() bool { return number() == 3 })
	for _, g := range gates {
		g <- struct{}{}
	}
	w.until("all is sent", func() bool { return sent.Load() == recipients })
}
