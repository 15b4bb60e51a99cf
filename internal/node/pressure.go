package node

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"
)

// pressure measures how many API calls are being served at one time. By Little's law that is their
// rate times their latency, so it rises when the machine cannot keep up, whatever the rate is.
type pressure struct {
	calls atomic.Int64
	level atomic.Int64 // smoothed calls, in thousandths
}

const (
	pressureEvery = 20 * time.Millisecond
	// pressureShare smooths over about half a second, so that a pause of the garbage collector or a
	// slow sync is no pressure.
	pressureShare = 25
	// pressureBusy is the number of calls at one time from which on the machine counts as busy with
	// accepting. At 20,000 calls a second it means a latency of 12 ms.
	pressureBusy = 256
)

// count wraps the API.
func (p *pressure) count(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.calls.Add(1)
		defer p.calls.Add(-1)
		next.ServeHTTP(w, r)
	})
}

func (p *pressure) busy() bool { return p.level.Load() > pressureBusy*1000 }

// run keeps the level up to date until ctx ends.
func (p *pressure) run(ctx context.Context) error {
	tick := time.NewTicker(pressureEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			level := p.level.Load()
			p.level.Store(level + (p.calls.Load()*1000-level)/pressureShare)
		}
	}
}
