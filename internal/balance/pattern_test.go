package balance

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// What a worker needs of its one processor: many times what a server does, so that the figures stand out of a busy machine's noise.
const (
	singleTime = time.Millisecond      // for a message that comes alone
	partTime   = 10 * time.Millisecond // for a part of a batch; between two of them others have their turn
	batchParts = 30
)

// worker is a node that does one thing at a time, in the order of arrival. It knows a batch by its length.
type worker struct {
	processor chan struct{} // holds whoever works
	batches   atomic.Int64  // that it has to do

	singles, beside atomic.Int64 // single messages that it got, and those of them while it had a batch to do
}

// ServeHTTP implements http.Handler.
func (n *worker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts, took := 1, singleTime
	if r.ContentLength > replayBuffer {
		parts, took = batchParts, partTime
		n.batches.Add(1)
		defer n.batches.Add(-1)
	} else {
		n.singles.Add(1)
		if n.batches.Load() > 0 {
			n.beside.Add(1)
		}
	}
	_, _ = io.Copy(io.Discard, r.Body) // a client that has gone is no matter here
	for range parts {
		n.processor <- struct{}{}
		<-time.After(took)
		<-n.processor
	}
	w.WriteHeader(http.StatusAccepted)
}

// patternClients are clients of one kind, which send until they are stopped.
type patternClients struct {
	t    *testing.T
	http *http.Client
	url  string

	mu   sync.Mutex
	took []time.Duration
}

// post sends one message or batch and notes how long that took.
func (c *patternClients) post(body string) {
	begun := time.Now()
	r, err := http.NewRequest(http.MethodPost, c.url+"/v1/messages", strings.NewReader(body))
	if err != nil {
		c.t.Error(err)
		return
	}
	resp, err := c.http.Do(r)
	if err != nil {
		c.t.Error(err)
		return
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted {
		c.t.Errorf("status %d", resp.StatusCode)
	}
	c.mu.Lock()
	c.took = append(c.took, time.Since(begun))
	c.mu.Unlock()
}

// run sends over n connections, each again after a pause, until stop is called.
func (c *patternClients) run(n int, body string, pause time.Duration) (stop func()) {
	ctx, cancel := context.WithCancel(c.t.Context())
	var under sync.WaitGroup
	for range n {
		under.Go(func() {
			tick := time.NewTicker(pause)
			defer tick.Stop()
			for {
				c.post(body)
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
			}
		})
	}
	return func() {
		cancel()
		under.Wait()
	}
}

func (c *patternClients) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.took)
}

// When the pattern of calls changes, requests of real clients over real connections go other ways within seconds: many small clients are
// spread evenly; a huge one's batches of a thousand messages keep one node busy at a time, and what the small ones send
// goes round that node; bursts are spread; and after each of them it is as it was.
func TestRequestsFollowThePattern(t *testing.T) {
	workers := make([]*worker, 3)
	var urls []string
	for i := range workers {
		workers[i] = &worker{processor: make(chan struct{}, 1)}
		urls = append(urls, server(t, workers[i].ServeHTTP).URL)
	}
	b := start(t, newSetNodes(urls...), nil)
	allReady(t, b, len(urls))
	transport := &http.Transport{MaxIdleConnsPerHost: 256}
	t.Cleanup(transport.CloseIdleConnections)
	clients := func() *patternClients {
		return &patternClients{t: t, http: &http.Client{Transport: transport, Timeout: 30 * time.Second}, url: b.url}
	}
	message, batch := strings.Repeat("m", 200), strings.Repeat("b", 200_000)

	// observe lets the small clients send so many messages, and tells which share of them went to which node, which to one with a
	// batch, and their times.
	small := clients()
	observe := func(phase string, n int) (shares []float64, beside float64, p50 time.Duration) {
		t.Helper()
		from := small.count()
		singles, besides := make([]int64, len(workers)), int64(0)
		for i, w := range workers {
			singles[i] = w.singles.Load()
			besides -= w.beside.Load()
		}
		eventually(t, "they have sent as much", func() bool { return small.count() >= from+n })
		sum := int64(0)
		for i, w := range workers {
			singles[i] = w.singles.Load() - singles[i]
			besides += w.beside.Load()
			sum += singles[i]
		}
		for _, s := range singles {
			shares = append(shares, float64(s)/float64(sum))
		}
		small.mu.Lock()
		took := slices.Sorted(slices.Values(small.took[from:]))
		small.mu.Unlock()
		beside, p50 = float64(besides)/float64(sum), took[len(took)/2]
		t.Logf("%-24s shares %.2f, beside a batch %.3f, p50 %v, p90 %v, p99 %v", phase, shares, beside,
			p50.Round(100*time.Microsecond), took[len(took)*9/10].Round(100*time.Microsecond), took[len(took)*99/100].Round(100*time.Microsecond))
		return shares, beside, p50
	}
	even := func(phase string) {
		t.Helper()
		for range 8 { // "within seconds"
			if shares, _, _ := observe(phase, 400); slices.Max(shares) < 0.42 && slices.Min(shares) > 0.25 {
				return
			}
		}
		t.Errorf("%s: shares do not become even", phase)
	}
	stopSmall := small.run(12, message, 20*time.Millisecond)
	defer stopSmall()
	even("many small clients")
	_, _, calm := observe("many small clients", 600)

	huge := clients()
	stopHuge := huge.run(1, batch, time.Millisecond)
	eventually(t, "a batch is done", func() bool { return huge.count() > 0 })
	_, beside, p50 := observe("a huge one beside them", 1200)
	stopHuge()
	if huge.count() < 2 {
		t.Errorf("%d batches are no load", huge.count())
	}
	// A node of three has a batch nearly all the time: a third would go there by chance.
	if beside > 0.1 {
		t.Errorf("%.3f of the small clients' messages go to the node with the batch", beside)
	}
	even("small ones alone again")
	// The median alone, because whatever else the machine does shows in the rest, and of the calm before and after the greater, because
	// the machine may have become busier in between.
	_, _, again := observe("small ones alone again", 600)
	if calm := max(calm, again); p50 > 2*calm+partTime {
		t.Errorf("beside batches the small clients' p50 rises from %v to %v", calm, p50)
	}

	// Bursts of so many at one time come one after the other.
	const many = 90
	burst := clients()
	before := make([]int64, len(workers))
	for i, w := range workers {
		before[i] = w.singles.Load()
	}
	for range 5 {
		var under sync.WaitGroup
		for range many {
			under.Go(func() { burst.post(message) })
		}
		under.Wait()
	}
	sum := int64(0)
	for i, w := range workers {
		before[i] = w.singles.Load() - before[i]
		sum += before[i]
	}
	t.Logf("5 bursts of %d: the nodes get %d", many, before)
	if most := slices.Max(before); float64(most) > 0.45*float64(sum) {
		t.Errorf("of bursts and what came beside them the nodes got %d", before)
	}
	even("after the bursts")
}

// A long body is noted as the work that it is from when it has gone to the node until the answer, whoever passes it on.
func TestWorkOfABody(t *testing.T) {
	arrived, answer := make(chan struct{}), make(chan struct{})
	node := server(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		arrived <- struct{}{}
		<-answer
		w.WriteHeader(http.StatusAccepted)
	})
	b := start(t, newSetNodes(node.URL), nil)
	c := httpClient(t)
	for _, path := range []string{"/v1/messages", "/v1/%6dessages"} { // the second is for net/http to read
		for length, want := range map[int]int{0: 1, 1: 1, 4096: 1, 4097: 2, 200_000: 49, 8 << 20: 2048} {
			ended := make(chan answered, 1)
			go func() { ended <- ask(t, c, http.MethodPost, b.url+path, strings.Repeat("x", length)) }()
			<-arrived
			eventually(t, fmt.Sprintf("%s: %d bytes are work for %d in one request", path, length, want), func() bool {
				v := b.views()[0]
				return v.Work == want && v.InFlight == 1
			})
			answer <- struct{}{}
			if a := <-ended; a.status != http.StatusAccepted {
				t.Errorf("answered %d %s", a.status, a.body)
			}
			if v := b.views()[0]; v.Work != 0 {
				t.Errorf("%s: work for %d is left of %d bytes", path, v.Work, length)
			}
		}
	}
}
