package balance

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/esh3artech/esh3ar/internal/balance/picker"
)

// missesUnready is how many times in a row a node must not answer to count as unready: one lost packet
// says nothing.
const missesUnready = 2

// pollTime is how long a node may take to say how it is.
const pollTime = 2 * time.Second

// poller asks every node how it is.
type poller struct {
	balancer *Balancer
	client   *http.Client
	wake     chan struct{} // of capacity 1: there are new nodes

	mu     sync.Mutex
	asking map[string]bool // nodes whose answer is to come
	misses map[string]int  // unanswered polls in a row
	said   map[string]string
}

func newPoller(b *Balancer) *poller {
	return &poller{
		balancer: b,
		client:   &http.Client{Transport: b.opts.NodeTLS.transport(pollTime)},
		wake:     make(chan struct{}, 1),
		asking:   make(map[string]bool), misses: make(map[string]int), said: make(map[string]string),
	}
}

// run polls until ctx ends.
func (p *poller) run(ctx context.Context) error {
	defer p.client.CloseIdleConnections()
	var under sync.WaitGroup
	defer under.Wait()
	tick := time.NewTicker(p.balancer.opts.PollEvery)
	defer tick.Stop()
	for {
		for _, n := range p.balancer.nodes() {
			if p.begin(n.id) {
				under.Go(func() { p.ask(ctx, n) })
			}
		}
		p.tell(ctx)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.wake:
		case <-tick.C:
		}
	}
}

// begin reports whether a node is to be asked now. A node that is slow to answer is not asked twice at one time.
func (p *poller) begin(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.asking[id] {
		return false
	}
	p.asking[id] = true
	return true
}

// ask asks one node and reports what it says.
func (p *poller) ask(ctx context.Context, n *backend) {
	ctx, cancel := context.WithTimeout(ctx, pollTime)
	defer cancel()
	h, err := p.readiness(ctx, n)
	p.mu.Lock()
	delete(p.asking, n.id)
	if err != nil {
		p.misses[n.id]++
	} else {
		delete(p.misses, n.id)
	}
	misses := p.misses[n.id]
	p.mu.Unlock()
	if err != nil {
		if misses < missesUnready {
			return
		}
		h = picker.Health{State: picker.Unready, Free: 1, Cause: "does not answer: " + err.Error()}
	}
	p.balancer.report(n.id, h)
}

// readiness is what a node's /readyz says. A server that has none, but answers, is taken for ready.
func (p *poller) readiness(ctx context.Context, n *backend) (picker.Health, error) {
	h := picker.Health{State: picker.Ready, Free: 1}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.id+"/readyz", nil)
	if err != nil {
		return h, err
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return h, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return h, err
	}
	return readHealth(resp.StatusCode, body)
}

// readHealth understands the answer of /readyz.
func readHealth(status int, body []byte) (picker.Health, error) {
	h := picker.Health{State: picker.Ready, Free: 1}
	var report struct {
		Status string `json:"status"`
		Checks map[string]struct {
			Status string `json:"status"`
			Detail string `json:"detail"`
		} `json:"checks"`
		Load *struct {
			Free float64 `json:"free"`
		} `json:"load"`
	}
	if err := json.Unmarshal(body, &report); err != nil || report.Status == "" {
		if status >= http.StatusInternalServerError {
			return h, fmt.Errorf("/readyz answers with status %d", status)
		}
		h.Cause = "does not tell how it is"
		return h, nil
	}
	if report.Load != nil {
		h.Free = report.Load.Free
	}
	if _, drains := report.Checks["drain"]; drains {
		h.State, h.Cause = picker.Draining, "is about to stop"
		return h, nil
	}
	switch {
	case report.Status == "degraded":
		h.State = picker.Degraded
	case report.Status != "ok" || status >= http.StatusInternalServerError:
		h.State = picker.Unready
	}
	// The worst is the cause.
	rank := map[string]int{"degraded": 1, "unavailable": 2}
	worst, first := 0, ""
	for name, c := range report.Checks {
		if r := rank[c.Status]; r > worst || r == worst && r > 0 && name < first {
			worst, first, h.Cause = r, name, name+": "+c.Detail
		}
	}
	return h, nil
}

// tell logs what has changed about the nodes since it was last called.
func (p *poller) tell(ctx context.Context) {
	views := p.balancer.views()
	seen := make(map[string]bool, len(views))
	for _, v := range views {
		seen[v.ID] = true
		level, state, cause := news(v)
		if p.said[v.ID] == state {
			continue
		}
		attrs := []slog.Attr{slog.String("node", v.ID), slog.String("state", state)}
		if cause != "" {
			attrs = append(attrs, slog.String("cause", cause))
		}
		p.balancer.log.LogAttrs(ctx, level, "a node's state has changed", attrs...)
		p.said[v.ID] = state
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for id := range p.said {
		if !seen[id] {
			p.balancer.log.LogAttrs(ctx, slog.LevelInfo, "a node's state has changed", slog.String("node", id), slog.String("state", "gone"))
			delete(p.said, id)
			delete(p.misses, id)
		}
	}
}

// news is what the log says of a node: of the ways to be out of use, which is a warning, too. There is no cause where
// nothing is to be said.
func news(v picker.View) (level slog.Level, state, cause string) {
	switch {
	case !v.Ejected.IsZero():
		return slog.LevelWarn, "ejected", ejectedCause
	case v.State == picker.Unready:
		return slog.LevelWarn, v.State.String(), v.Cause
	}
	return slog.LevelInfo, v.State.String(), v.Cause
}

// ejectedCause is why a node is ejected.
const ejectedCause = "failed too often in a row"
