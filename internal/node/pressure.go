package node

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/esh3artech/esh3ar/internal/health"
)

// pressure tells whether accepting keeps the machine busy: it smooths the number of messages that are
// being made durable at one time.
type pressure struct {
	calls func() int64
	level atomic.Int64 // smoothed calls, in thousandths
}

const (
	pressureEvery = 20 * time.Millisecond
	// pressureShare smooths over about half a second, so that a pause of the garbage collector or a
	// slow sync is no pressure.
	pressureShare = 25
	// pressureBusy is the number of messages at one time from which on the machine counts as busy with
	// accepting. At 20,000 a second it means a latency of 12 ms.
	pressureBusy = 256
	// freeWhenTight is the most that counts as free while memory is tight.
	freeWhenTight = 0.25
)

func (p *pressure) busy() bool { return p.level.Load() > pressureBusy*1000 }

// load is what balancers spread requests by, as far as accepting goes. It counts against its limit, which follows the latency; a
// server that is short of memory has little free whatever that says. What dispatch has to do counts beside it (health.Load).
func (n *Node) load() health.Load {
	inFlight, limit := n.api.Load()
	free := 1 - float64(n.accepting.level.Load())/1000/float64(max(limit, 1))
	if n.memory.tight() {
		free = min(free, freeWhenTight)
	}
	return health.Load{Free: max(free, 0), InFlight: inFlight, Limit: limit}
}

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
			p.level.Store(level + (p.calls()*1000-level)/pressureShare)
		}
	}
}
