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
	gate := make(gate)
	defer close(gate)
	w.Attach("gate", gate)
	w.accept(w.message("c", "gate", "holds the only processor"))
	gate <- struct{}{} // it is in Deliver
	w.accept(w.burst("c", recipients, recipients)...)
	w.until("all is sent", func() bool { return sent.Load() == recipients })
	if n := number(); n < 2 {
		t.Errorf("%v processors", n)
	}
	gate <- struct{}{}
}
