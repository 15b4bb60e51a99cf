package loadgen

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// samples are the values of a Prometheus text page by their full name, labels included.
type samples map[string]float64

// maxMetrics bounds a page of metrics.
const maxMetrics = 16 << 20

// scrape reads the metrics of servers, and adds them up. One that does not tell its own makes it fail.
func scrape(ctx context.Context, servers []Target) (samples, error) {
	all := make(samples)
	for _, t := range servers {
		one, err := scrapeOne(ctx, t)
		if err != nil {
			return nil, err
		}
		for name, v := range one {
			all[name] += v
		}
	}
	return all, nil
}

// cpuOf returns the processor time of the servers for each message that they accepted between two samples, in
// microseconds, 0 if it is not known.
func cpuOf(before, after samples) float64 {
	accepted, _ := after.sum("esh3ar_messages_accepted_total")
	earlier, _ := before.sum("esh3ar_messages_accepted_total")
	if accepted <= earlier {
		return 0
	}
	return max(after[cpuSeconds]-before[cpuSeconds], 0) * 1e6 / (accepted - earlier)
}

// cpuSeconds is the processor time of a process, in seconds.
const cpuSeconds = "process_cpu_seconds_total"

// memoryOf returns the resident memory of the servers in bytes, 0 if it is not known.
func memoryOf(s samples, err error) int64 {
	if err != nil {
		return 0
	}
	return int64(s["process_resident_memory_bytes"])
}

func scrapeOne(ctx context.Context, t Target) (samples, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(t.URL, "/")+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("metrics: %s", resp.Status)
	}
	return parseSamples(io.LimitReader(resp.Body, maxMetrics))
}

func parseSamples(r io.Reader) (samples, error) {
	s := samples{}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if line == "" || line[0] == '#' {
			continue
		}
		// The value follows the labels; these may hold spaces.
		cut := strings.LastIndexByte(line, '}') + 1
		if cut == 0 {
			cut = strings.IndexByte(line, ' ')
		}
		if cut <= 0 {
			continue
		}
		value, _, _ := strings.Cut(strings.TrimSpace(line[cut:]), " ") // a time stamp may follow
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return nil, fmt.Errorf("metrics: %q: %w", line, err)
		}
		s[line[:cut]] = v
	}
	return s, lines.Err()
}

// sum adds up all samples of that metric, whatever their labels.
func (s samples) sum(metric string) (total float64, found bool) {
	for name, v := range s {
		if name == metric || strings.HasPrefix(name, metric+"{") {
			total += v
			found = true
		}
	}
	return total, found
}

// StageReport is one of the server's own histograms over the time of a run. Its percentiles are the
// upper bounds of the buckets that they fall into, or the greatest bound for what lies beyond.
type StageReport struct {
	Name  string       `json:"name"`
	Count int64        `json:"count"`
	P50   Milliseconds `json:"p50"`
	P99   Milliseconds `json:"p99"`
}

// since returns the histograms in seconds that grew after the earlier samples, by name.
func (s samples) since(earlier samples) []StageReport {
	type bucket struct{ le, n float64 }
	stages := map[string][]bucket{}
	for name, v := range s {
		metric, labels, ok := strings.Cut(name, "{")
		base, isBucket := strings.CutSuffix(metric, "_seconds_bucket")
		if !ok || !isBucket {
			continue
		}
		bound, rest := math.NaN(), []string(nil)
		for _, l := range strings.Split(strings.TrimSuffix(labels, "}"), ",") {
			if le, ok := strings.CutPrefix(l, `le="`); ok {
				bound, _ = strconv.ParseFloat(strings.TrimSuffix(le, `"`), 64)
			} else if l != "" {
				rest = append(rest, l)
			}
		}
		if len(rest) > 0 {
			base += "{" + strings.Join(rest, ",") + "}"
		}
		grown := v - earlier[name]
		if grown < 0 { // the server was restarted, and its counters with it
			grown = v
		}
		stages[base] = append(stages[base], bucket{bound, grown})
	}
	var out []StageReport
	for name, buckets := range stages {
		slices.SortFunc(buckets, func(a, b bucket) int {
			if a.le < b.le {
				return -1
			}
			return 1
		})
		total := buckets[len(buckets)-1].n
		if total <= 0 {
			continue
		}
		at := func(q float64) (bound Milliseconds) {
			for _, b := range buckets {
				if !math.IsInf(b.le, 1) {
					bound = Milliseconds(b.le * float64(time.Second))
				}
				if b.n >= q*total {
					break
				}
			}
			return bound
		}
		out = append(out, StageReport{Name: name, Count: int64(total), P50: at(0.5), P99: at(0.99)})
	}
	slices.SortFunc(out, func(a, b StageReport) int { return strings.Compare(a.Name, b.Name) })
	return out
}
