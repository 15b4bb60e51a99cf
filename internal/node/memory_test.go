package node

import (
	"bytes"
	"log/slog"
	"math"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar"
)

func TestMemoryPlan(t *testing.T) {
	c := DefaultConfig()
	c.MemoryLimit = 256 << 20
	p := planMemory(&c)
	if p.limit != 256<<20 || p.dispatch != 64<<20 || p.cache != 16<<20 || p.runtime != 256<<20-2*16<<20-(256<<20)/4 {
		t.Errorf("256 MiB are divided into %+v", p)
	}
	c.MemoryLimit = 8 << 30
	if p := planMemory(&c); p.dispatch != c.DispatchMemory || p.cache != 64<<20 {
		t.Errorf("8 GiB are divided into %+v", p)
	}
	c.MemoryLimit = 16 << 20
	if p := planMemory(&c); p.dispatch != esh3ar.MaxBatchBytes {
		t.Errorf("16 MiB are divided into %+v: an entry must fit", p)
	}

	// GOMEMLIMIT is the operator's word: it is not changed.
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(1 << 30))
	c.MemoryLimit = 0
	if p := planMemory(&c); p.limit != 1<<30 || p.runtime != 0 {
		t.Errorf("GOMEMLIMIT=1GiB is divided into %+v", p)
	}
}

// TestMemoryIsTight fills the heap up to the limit and empties it again.
func TestMemoryIsTight(t *testing.T) {
	for range 3 { // what other tests left in pools, or with cleanups, survives the first
		runtime.GC()
	}
	var log bytes.Buffer
	w := newMemoryWatch(slog.New(slog.NewTextHandler(&log, nil)))
	w.limit = math.MaxInt64 / 100
	now := time.Now()
	if w.sample(now); w.tight() || w.check(t.Context()) != nil {
		t.Fatal("tight without a limit")
	}
	base := w.used.Load()
	w.limit = 3*base + 64<<20 // less than half used
	if w.sample(now); w.tight() {
		t.Fatalf("tight with %d of %d", w.used.Load(), w.limit)
	}
	ballast := make([]byte, w.limit*70/100-base)
	runtime.GC()
	w.sample(now)
	if !w.tight() || w.check(t.Context()) == nil || !strings.Contains(log.String(), "memory is tight") {
		t.Fatalf("not tight with %d of %d: %s", w.used.Load(), w.limit, &log)
	}
	if w.full() {
		t.Errorf("full with %d of %d", w.used.Load(), w.limit)
	}
	w.limit = w.limit * 9 / 10
	if !w.full() {
		t.Errorf("not full with %d of %d", w.used.Load(), w.limit)
	}
	w.limit = w.limit * 10 / 9
	runtime.KeepAlive(ballast)
	ballast = make([]byte, w.limit*52/100-base) // between the two marks: nothing changes
	runtime.GC()
	if w.sample(now); !w.tight() {
		t.Errorf("relaxed with %d of %d", w.used.Load(), w.limit)
	}
	runtime.KeepAlive(ballast)
	if !w.sample(now.Add(2*staleAfter)) || w.sample(now) {
		t.Error("the age of the figures is not told")
	}
	runtime.GC()
	if w.sample(now); w.tight() || w.check(t.Context()) != nil || !strings.Contains(log.String(), "no longer") {
		t.Errorf("tight with %d of %d: %s", w.used.Load(), w.limit, &log)
	}
}
