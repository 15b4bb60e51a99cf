package loadgen

import (
	"fmt"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// latencyShards spreads the recording of one latency, so that goroutines seldom wait for each other.
const latencyShards = 8

// latency records durations from many goroutines, in microseconds with three significant digits.
type latency [latencyShards]struct {
	mu sync.Mutex
	h  *hdrhistogram.Histogram
}

// The range of what is recorded; what lies outside is recorded as the bound.
const (
	minLatency = int64(1)
	maxLatency = int64(10 * time.Minute / time.Microsecond)
)

func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(minLatency, maxLatency, 3) }

func newLatency() *latency {
	l := &latency{}
	for i := range l {
		l[i].h = newHistogram()
	}
	return l
}

// record adds a duration. Shard is any number that differs between goroutines.
func (l *latency) record(shard uint32, d time.Duration) {
	s := &l[shard%latencyShards]
	s.mu.Lock()
	// A value within the range cannot fail.
	_ = s.h.RecordValue(min(max(int64(d/time.Microsecond), minLatency), maxLatency))
	s.mu.Unlock()
}

// histogram returns everything recorded so far.
func (l *latency) histogram() *hdrhistogram.Histogram {
	all := newHistogram()
	for i := range l {
		l[i].mu.Lock()
		all.Merge(l[i].h)
		l[i].mu.Unlock()
	}
	return all
}

// packed is a histogram on its way from a worker to its parent.
type packed []byte

func pack(l *latency) (packed, error) {
	b, err := l.histogram().Encode(hdrhistogram.V2CompressedEncodingCookieBase)
	return b, err
}

// into merges the packed histogram into h.
func (p packed) into(h *hdrhistogram.Histogram) error {
	if len(p) == 0 {
		return nil
	}
	own, err := hdrhistogram.Decode(p)
	if err != nil {
		return fmt.Errorf("a worker's histogram: %w", err)
	}
	h.Merge(own)
	return nil
}

// Percentiles sums up a distribution of latencies. In JSON all are milliseconds.
type Percentiles struct {
	Count int64        `json:"count"`
	P50   Milliseconds `json:"p50"`
	P90   Milliseconds `json:"p90"`
	P99   Milliseconds `json:"p99"`
	P999  Milliseconds `json:"p999"`
	Max   Milliseconds `json:"max"`
}

// Milliseconds is a duration that JSON shows as a number of milliseconds.
type Milliseconds time.Duration

// MarshalJSON writes the number with microseconds as its fraction.
func (m Milliseconds) MarshalJSON() ([]byte, error) {
	return fmt.Appendf(nil, "%.3f", float64(m)/float64(time.Millisecond)), nil
}

// String shows three significant digits or so.
func (m Milliseconds) String() string {
	ms := float64(m) / float64(time.Millisecond)
	switch {
	case ms < 10:
		return fmt.Sprintf("%.2f ms", ms)
	case ms < 100:
		return fmt.Sprintf("%.1f ms", ms)
	case ms < 10_000:
		return fmt.Sprintf("%.0f ms", ms)
	}
	return fmt.Sprintf("%.1f s", ms/1000)
}

func percentiles(h *hdrhistogram.Histogram) Percentiles {
	at := func(q float64) Milliseconds {
		return Milliseconds(time.Duration(h.ValueAtQuantile(q)) * time.Microsecond)
	}
	return Percentiles{
		Count: h.TotalCount(), P50: at(50), P90: at(90), P99: at(99), P999: at(99.9),
		Max: Milliseconds(time.Duration(h.Max()) * time.Microsecond),
	}
}

// String shows the percentiles in one line.
func (p Percentiles) String() string {
	if p.Count == 0 {
		return "none"
	}
	return fmt.Sprintf("p50 %v  p90 %v  p99 %v  p99.9 %v  max %v", p.P50, p.P90, p.P99, p.P999, p.Max)
}
