package dispatch

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/esh3artech/esh3ar/internal/delivery"
)

const (
	// scaleEvery is how often it is looked whether there are enough processors.
	scaleEvery = 20 * time.Millisecond
	// crowd is how many recipients may wait for each processor before there are too few of them.
	crowd = 8
	// late is how far the reading may be behind while more recipients wait than there are processors.
	late = 100 * time.Millisecond
	// crowdFor is how many looks in a row they must be too few before one more is started: a burst that is
	// worked off in a moment needs none.
	crowdFor = 3
	// calmFor is how many looks in a row one would have been enough fewer before one is retired: ten seconds,
	// so that a load that comes and goes does not start and retire them over and over.
	calmFor = 500
)

// scaler decides how many processors there are. It has a memory, so that it does not follow every wave.
type scaler struct {
	least, most int
	short, calm int // looks in a row with too few, and with one to spare
}

// step returns by how much to change the number of processors: one more, one less, or none. Lag is how far the reading
// of the journal is behind.
func (s *scaler) step(waiting int, lag time.Duration, processors int) int {
	switch {
	case waiting > crowd*processors, waiting > processors && lag > late:
		s.short, s.calm = s.short+1, 0
	case waiting < processors:
		s.short, s.calm = 0, s.calm+1
	default:
		s.short, s.calm = 0, 0
	}
	switch {
	case s.short >= crowdFor && processors < s.most:
		s.short = 0
		return 1
	case s.calm >= calmFor && processors > s.least:
		s.calm = 0
		return -1
	}
	return 0
}

// processors are the goroutines that run recipients: as many as the queue needs.
type processors struct {
	d       *Dispatcher
	scaler  scaler
	running sync.WaitGroup

	started, retired atomic.Int64 // over all time; the difference is there now
}

func newProcessors(d *Dispatcher) *processors {
	return &processors{d: d, scaler: scaler{least: d.opts.LeastProcessors, most: d.opts.MostProcessors}}
}

// run starts and retires processors until ctx ends. Those that there are then go on until wait.
func (p *processors) run(ctx context.Context) {
	for range p.scaler.least {
		p.start()
	}
	tick := time.NewTicker(scaleEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		waiting := p.d.runq.waitingNow()
		if p.d.behind() {
			waiting = p.number() // what they wait for is the connections, which more processors would not help
		}
		switch p.scaler.step(waiting, p.d.lag(), p.number()) {
		case 1:
			p.start()
		case -1:
			p.retire()
		}
	}
}

// wait waits until all processors have ended, which they do when the queue is closed and empty.
func (p *processors) wait() { p.running.Wait() }

func (p *processors) start() {
	p.started.Add(1)
	p.running.Go(p.d.process)
}

func (p *processors) retire() {
	p.retired.Add(1)
	p.d.runq.retire()
}

// number is how many there are, without those that were told to retire.
func (p *processors) number() int { return int(p.started.Load() - p.retired.Load()) }

// process runs recipients until the queue is closed, or one processor is to retire.
func (d *Dispatcher) process() {
	var out []delivery.Effect
	for {
		t, ok := d.runq.pop()
		if !ok {
			return
		}
		var cost int
		out, cost = t.r.run(t.flow, out)
		d.runq.done(t, cost)
		d.letWrite()
	}
}
