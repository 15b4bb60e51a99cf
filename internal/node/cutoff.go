package node

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/esh3artech/esh3ar/internal/cluster"
	"github.com/esh3artech/esh3ar/internal/health"
	"github.com/esh3artech/esh3ar/internal/hub"
)

const (
	// cutOffKnown is how long a node that does not reach the majority keeps its devices while another node says that it does:
	// they can be served there.
	cutOffKnown = 3 * time.Second
	// cutOffUnknown is the same while nothing is heard of the others, who may have the majority or be dead: long enough for
	// elections. When all others are surely dead, or cut off too, the devices stay: there is no better place.
	cutOffUnknown = 20 * time.Second
	// cutOffOver is the time over which the devices are told to go.
	cutOffOver = 20 * time.Second

	probeEvery = 2 * time.Second
	probeTime  = time.Second
)

// cutOff is what a node knows that does not reach the majority of the cluster.
type cutOff struct {
	since   time.Time       // zero while the majority is reached
	probed  time.Time       // when the others were asked last
	others  map[string]bool // that may serve
	known   bool            // one of them says so
	portion int             // devices told to go at a time, 0 before any
}

// reached ends a time of being cut off.
func (p *places) reached() {
	if p.cut.since.IsZero() {
		return
	}
	if p.cut.portion > 0 {
		p.log.Info("the majority of the cluster is reached again: devices are served")
	}
	p.cut = cutOff{}
	p.set(placeServing)
}

// cutOffStep tells devices to go elsewhere if this node is cut off from the others and they would be served there.
func (p *places) cutOffStep(ctx context.Context, now time.Time) {
	if p.cut.since.IsZero() {
		p.cut.since = now
	}
	if now.Sub(p.cut.probed) >= probeEvery && p.probes.begin(ctx, p.candidates()) {
		p.cut.probed = now
	}
	waited := now.Sub(p.cut.since)
	if p.cut.portion == 0 {
		if len(p.cut.others) == 0 || waited < cutOffKnown || !p.cut.known && waited < cutOffUnknown {
			return
		}
		own, _ := p.node.hub.Devices()
		p.cut.portion = hub.Portion(own, cutOffOver, placeEvery)
		p.log.Warn("this node is cut off from the majority of the cluster: its devices are told to reconnect to other nodes", "devices", own)
		p.set(placeCutOff)
	}
	p.node.hub.Move(p.cut.portion, hub.ForCutOff)
}

// probedStep takes what the other nodes answered, unless this node is not cut off any more.
func (p *places) probedStep(now time.Time, a probed) {
	if p.cut.since.IsZero() {
		return
	}
	p.cut.others, p.cut.known = a.others, a.known
	p.look(now, p.cut.others)
}

// probes ask other nodes, in the background because one that hangs takes its time, and once at a time. All but the asking
// itself is for one goroutine.
type probes struct {
	answered chan probed // cap 1
	busy     bool
	running  sync.WaitGroup
}

// probed is what the other nodes answered.
type probed struct {
	others map[string]bool // that may reach the majority
	known  bool            // one of them says so
}

func newProbes() *probes { return &probes{answered: make(chan probed, 1)} }

// begin asks those nodes whether they reach the majority, for at most probeTime and until ctx ends, and reports whether it
// did: not before the answer of the last time was taken (done).
func (q *probes) begin(ctx context.Context, nodes []cluster.Member) bool {
	if q.busy {
		return false
	}
	q.busy = true
	q.running.Go(func() { q.answered <- probe(ctx, nodes) })
	return true
}

// done is to be called with each answer.
func (q *probes) done() { q.busy = false }

// wait returns once nobody is asked any more.
func (q *probes) wait() { q.running.Wait() }

// probe asks other nodes.
func probe(ctx context.Context, nodes []cluster.Member) probed {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	web := prober()
	defer web.CloseIdleConnections() // ends connections in the making, too, that nobody waits for any more
	all := probed{others: make(map[string]bool)}
	var mu sync.Mutex
	var asked sync.WaitGroup
	for _, m := range nodes {
		asked.Go(func() {
			says, ok := majority(ctx, web, m)
			mu.Lock()
			defer mu.Unlock()
			if ok {
				all.others[m.Name] = true
				all.known = all.known || says
			}
		})
	}
	asked.Wait()
	return all
}

// prober returns what asks other nodes. It takes any certificate, because this node knows of no authority for those of the others: nothing
// secret is asked, and an answer can at most send away devices of a node that cannot serve them.
func prober() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // see above
	}}
}

// majority asks a node whether it reaches the majority of the cluster. It reports whether the node says so, and whether it may be
// so: not if it says no, or if nobody listens where it did.
func majority(ctx context.Context, web *http.Client, m cluster.Member) (says, may bool) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, m.Address+"/readyz", http.NoBody)
	if err != nil {
		return false, false
	}
	resp, err := web.Do(r)
	if err != nil {
		return false, !errors.Is(err, syscall.ECONNREFUSED)
	}
	defer resp.Body.Close()
	var report health.Report
	if json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&report) != nil {
		return false, true // something else answers in its place
	}
	_, stops := report.Checks["drain"]
	says = report.Checks["cluster"].Status == health.OK && !stops
	return says, says
}
