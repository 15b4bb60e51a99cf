package node

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/journal"
)

// memoryPlan divides the memory that the process may use. What is not bounded here is bounded by numbers:
// connections, keys that are remembered, recipients that are connected.
type memoryPlan struct {
	limit    Bytes // of everything; 0 for none
	runtime  Bytes // what the Go runtime is to stay under; 0 leaves it to itself
	dispatch Bytes // messages read and not yet stored
	cache    int   // page caches of the embedded store, outside of the Go runtime; 0 for the store's default
}

// The shares of the limit.
const (
	dispatchShare = 4
	cacheShare    = 16
	// spareShare is what the Go runtime does not get: it may be above its limit for a moment, where the
	// collector gets too little of the processors, and the journal's blocks of 8 MiB make that a big one.
	spareShare = 4
	// cgroupPercent is how much of the cgroup's memory is taken for the limit: the rest is for what the Go
	// runtime does not count.
	cgroupPercent = 90
)

// planMemory derives the plan. The limit is the option's, else GOMEMLIMIT, else most of what the cgroup
// allows.
func planMemory(c *Config) memoryPlan {
	p := memoryPlan{limit: c.MemoryLimit, dispatch: c.DispatchMemory}
	ours := true
	if p.limit == 0 {
		if set := debug.SetMemoryLimit(-1); set != math.MaxInt64 {
			p.limit, ours = Bytes(set), false
		} else {
			p.limit = cgroupMemory() / 100 * cgroupPercent
		}
	}
	if p.limit == 0 {
		return p
	}
	p.dispatch = max(min(p.dispatch, p.limit/dispatchShare), esh3ar.MaxBatchBytes)
	const most = 64 << 20 // the store's own default
	p.cache = int(min(p.limit/cacheShare, most))
	if ours {
		// The writer's cache, and the readers' that have as much together.
		p.runtime = p.limit - Bytes(2*p.cache) - p.limit/spareShare
	}
	return p
}

// LimitMemory has the Go runtime stay under what the configuration, or else the cgroup, lets it use. It
// concerns the whole process and is called before New.
func LimitMemory(c Config) {
	if p := planMemory(&c); p.runtime > 0 {
		debug.SetMemoryLimit(int64(p.runtime))
	}
}

// memoryWatch says when the process is short of memory: when what is alive, with what the runtime needs
// around it, has come near the runtime's limit.
type memoryWatch struct {
	limit uint64 // 0 for none: memory is never tight
	log   *slog.Logger

	samples   []metrics.Sample
	tightNow  atomic.Bool
	used      atomic.Uint64 // alive and needed, as of the last collection
	held      atomic.Uint64 // what the runtime has of the system's memory now
	collected time.Time     // when the number of collections was last seen to grow
	cycles    uint64
}

const (
	watchEvery = 20 * time.Millisecond
	// Above tightPercent of the limit memory is tight, until less than relaxedPercent is used: so that
	// it does not change its mind with every collection. From fullPercent on nothing is accepted. The rest is
	// the collector's: where it has too little to work in, it gives up on the limit rather than on the program.
	tightPercent   = 60
	relaxedPercent = 45
	fullPercent    = 75
	// Nor is anything accepted while the runtime is above its limit by so much: the collector does not
	// keep up.
	overPercent = 104
	// staleAfter is how old the knowledge of what is alive may be while memory is tight. A process that
	// has become idle would not collect by itself, and stay tight.
	staleAfter = time.Second
	// doubtAfter is the same while as much is allocated as would be tight if it were all alive: between two
	// collections that the runtime makes by itself, what is alive may double.
	doubtAfter = 200 * time.Millisecond
)

// The runtime's figures that are sampled, in this order.
var memoryMetrics = [...]string{
	"/gc/heap/live:bytes",
	"/gc/cycles/total:gc-cycles",
	"/memory/classes/total:bytes",
	"/memory/classes/heap/released:bytes",
	"/memory/classes/heap/objects:bytes",
	"/memory/classes/heap/free:bytes",
	"/memory/classes/heap/unused:bytes",
}

func newMemoryWatch(log *slog.Logger) *memoryWatch {
	w := &memoryWatch{log: log, samples: make([]metrics.Sample, len(memoryMetrics))}
	for i, name := range memoryMetrics {
		w.samples[i].Name = name
	}
	if limit := debug.SetMemoryLimit(-1); limit != math.MaxInt64 {
		w.limit = uint64(limit)
	}
	return w
}

// tight reports whether the process is short of memory.
func (w *memoryWatch) tight() bool { return w.tightNow.Load() }

// full reports whether there is no memory left to accept anything with. The journal keeps what was
// written in the last seconds in memory, so that accepting alone, faster than the disk is read, could
// take all of it.
func (w *memoryWatch) full() bool {
	return w.limit > 0 && (w.used.Load()*100 >= w.limit*fullPercent || w.held.Load()*100 >= w.limit*overPercent)
}

// bounded is the journal as ingest sees it: it takes nothing while memory is full. Its callers are told
// that the system is overloaded, and come again.
type bounded struct {
	*journal.Appender
	memory *memoryWatch
}

var errMemoryFull = fmt.Errorf("%w: no memory is left", journal.ErrOverloaded)

// Append implements ingest.Journal.
func (b bounded) Append(ctx context.Context, p journal.Partition, record []byte) error {
	if b.memory.full() {
		return errMemoryFull
	}
	return b.Appender.Append(ctx, p, record)
}

// AppendAll implements ingest.Journal.
func (b bounded) AppendAll(ctx context.Context, items []journal.Item) {
	if !b.memory.full() {
		b.Appender.AppendAll(ctx, items)
		return
	}
	for i := range items {
		items[i].Err = errMemoryFull
	}
}

// check is how readiness sees it: everything goes on, more slowly.
func (w *memoryWatch) check(context.Context) error {
	if !w.tight() {
		return nil
	}
	return esh3ar.Errorf(esh3ar.KindUnavailable, "memory_tight",
		"memory is tight: %d of %d MiB are in use; messages wait on disk", w.used.Load()>>20, w.limit>>20)
}

// run samples until ctx ends.
func (w *memoryWatch) run(ctx context.Context) error {
	if w.limit == 0 {
		<-ctx.Done()
		return ctx.Err()
	}
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case now := <-tick.C:
			if w.sample(now) {
				runtime.GC()
			}
		}
	}
}

// sample takes the figures, and reports whether those about the heap are out of date and matter.
func (w *memoryWatch) sample(now time.Time) (stale bool) {
	metrics.Read(w.samples)
	v := func(i int) uint64 { return w.samples[i].Value.Uint64() }
	live, cycles := v(0), v(1)
	// What is neither garbage nor free: live objects, stacks, the runtime's own structures.
	used := v(2) - v(3) - v(4) - v(5) - v(6) + live
	w.used.Store(used)
	w.held.Store(v(2) - v(3))
	if cycles != w.cycles {
		w.cycles, w.collected = cycles, now
	}
	was := w.tight()
	is := used*100 >= w.limit*tightPercent || was && used*100 >= w.limit*relaxedPercent
	if is != was {
		w.tightNow.Store(is)
		level, what := slog.LevelInfo, "memory is no longer tight"
		if is {
			level, what = slog.LevelWarn, "memory is tight: nothing is read ahead, what can wait waits on disk"
		}
		w.log.Log(context.Background(), level, what, "used", fmt.Sprint(Bytes(used>>20<<20)), "limit", fmt.Sprint(Bytes(w.limit>>20<<20)))
	}
	age := now.Sub(w.collected)
	doubt := (used-live+v(4))*100 >= w.limit*tightPercent
	return is && age > staleAfter || doubt && age > doubtAfter
}
