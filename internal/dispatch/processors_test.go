package dispatch_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/dispatch"
)

// heavy is a device that keeps a processor for some time with each message, and acknowledges it.
type heavy struct {
	took time.Duration
	att  *dispatch.Attachment
}

func (h *heavy) Deliver(d *dispatch.Delivery) {
	<-time.After(h.took)
	h.att.Acknowledge([]esh3ar.ID{d.Message.ID})
}

// While more recipients wait for a turn than the processors have time for, there are more of them, up to the most; when the load
// ends they are retired, one after the other, down to the least; and the next load has more of them again.
func TestProcessorsFollowTheLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.stop()
		metrics := prometheus.NewRegistry()
		w.start(func(o *dispatch.Options) { o.LeastProcessors, o.MostProcessors, o.Metrics = 1, 3, metrics })
		value := func(name string) int { return int(metric(t, metrics, "esh3ar_dispatch_processors"+name)) }
		w.until("there is one", func() bool { return value("") == 1 })

		const recipients = 50
		for i := range recipients {
			h := &heavy{took: 20 * time.Millisecond}
			h.att = w.Attach(fmt.Sprint("user", i), h) // nothing waits for it yet
		}
		var last *esh3ar.Message
		n := 0
		// load sends for so long what two processors have no time for and three have, in bursts.
		load := func(d time.Duration) {
			t.Helper()
			for end := time.Now().Add(d); time.Now().Before(end); <-time.After(100 * time.Millisecond) {
				for range 12 {
					last = w.message("c", fmt.Sprint("user", n%recipients), fmt.Sprint(n))
					w.accept(last)
					n++
				}
			}
			t.Logf("%d processors after a load of %v; %d were started in all and %d retired", value(""), d, value("_started_total"), value("_retired_total"))
		}
		load(3 * time.Second)
		if n := value(""); n != 3 {
			t.Errorf("%d processors under a load for three", n)
		}
		load(12 * time.Second)
		if n := value("_retired_total"); n != 0 {
			t.Errorf("%d processors were retired while the load went on", n)
		}
		w.await(last, esh3ar.StatusDelivered)

		var at [3]time.Time
		for n := 2; n > 0; n-- {
			for began := time.Now(); value("") != n; <-time.After(50 * time.Millisecond) {
				if time.Since(began) > 15*time.Second {
					t.Fatalf("%d processors %v after the load", value(""), time.Since(began))
				}
			}
			at[n] = time.Now()
		}
		if d := at[1].Sub(at[2]); d < 9*time.Second || d > 11*time.Second {
			t.Errorf("the second was retired %v after the first, and not 10 s", d)
		}
		if n := value("_retired_total"); n != 2 {
			t.Errorf("%d processors were retired", n)
		}

		load(3 * time.Second)
		if n, started := value(""), value("_started_total"); n != 3 || started != 5 {
			t.Errorf("%d processors under the next load, %d were started in all", n, started)
		}
		w.await(last, esh3ar.StatusDelivered)
	})
}
