package node

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/cluster"
	"github.com/esh3artech/esh3ar/internal/health"
	"github.com/esh3artech/esh3ar/internal/hub"
	"github.com/esh3artech/esh3ar/internal/placement"
)

const (
	// placeEvery is how often devices are told to go, lookEvery how often the other nodes' figures are looked at.
	placeEvery = 250 * time.Millisecond
	lookEvery  = 500 * time.Millisecond

	// shedQuiet and shedPatience keep nodes from shedding while others start or stop, and from answering to what passes.
	shedQuiet    = 10 * time.Second
	shedPatience = 5 * time.Second

	// reportOverdue is how much longer than the others a node may be silent before devices that could go anywhere are not sent to it any
	// more. Nodes report once a second.
	reportOverdue = 2 * time.Second

	// returning is how long a node that stops answers the devices that it has told to go, which come back to it within a second to
	// hear where.
	returning = 1500 * time.Millisecond
)

// The life of a node as its devices see it.
type placeState uint8

const (
	// placeServing: devices are here; who comes may be sent elsewhere, and some may be shed.
	// → placeLeaving: the node is to stop. → placeCutOff: it cannot serve devices, and others can.
	placeServing placeState = iota
	// placeCutOff: devices are told to go, and none may come. → placeServing: the others are back. → placeLeaving
	placeCutOff
	// placeLeaving: the node is about to stop. Who comes is sent elsewhere, or served if there is nowhere.
	// → placeClosing: the drain delay has passed.
	placeLeaving
	// placeClosing: devices are told to go, and none may come.
	placeClosing
)

// places says where the devices are to be that come to this node or are there.
type places struct {
	node *Node
	log  *slog.Logger

	host string // at which devices reach this node, as requests say it; "" if they cannot

	mu      sync.Mutex
	state   placeState
	apart   bool // the majority of the cluster is not reached
	cluster *placement.Cluster
	urls    map[string]string // base URLs at which devices reach the nodes, by name
	others  int               // nodes that serve beside this one

	// These belong to run.
	looked   time.Time
	shedding bool
	shed     int // since shedding began
	cut      cutOff
	probes   *probes
}

func newPlaces(n *Node) *places {
	return &places{
		node: n, log: n.log, host: hostOf(n.cfg.DeviceURL), urls: map[string]string{n.cfg.NodeName: n.cfg.DeviceURL}, probes: newProbes(),
		cluster: placement.New(placement.Policy{Rate: float64(n.cfg.ShedRate) / 100, Quiet: shedQuiet, Patience: shedPatience}),
	}
}

// hostOf returns the host of a base URL as requests to it say it, "" for none: in small letters, and with no port if that is the
// scheme's own.
func hostOf(base string) string {
	u, err := url.Parse(base) // the configuration has been checked
	if err != nil {
		return ""
	}
	return plainHost(u.Scheme, u.Host)
}

// plainHost is hostOf for a host that is known to be asked over a scheme.
func plainHost(scheme, host string) string {
	port := ":80"
	if scheme == "https" {
		port = ":443"
	}
	return strings.ToLower(strings.TrimSuffix(host, port))
}

// spreads reports whether this node sends devices to others and takes theirs.
func (p *places) spreads() bool { return p.node.cfg.DeviceURL != "" }

// elsewhere returns the hub of the node to which a device is to go that negotiates here, "" if it is to stay. First says that no
// node has sent it here; who was sent here stays, if it can. Who has asked another host than this node's own has come through a
// balancer, or may at least be anywhere: it goes to whichever node has the fewest, at that node's own address, so that what follows
// need not meet at the same balancer or node. That may be this node. Behind a proxy that tells another host, who has asked for
// this node is sent once more than need be.
func (p *places) elsewhere(host string, first bool) string {
	if !p.spreads() {
		return ""
	}
	own, _ := p.node.hub.Devices()
	p.mu.Lock()
	defer p.mu.Unlock()
	to := ""
	switch {
	case p.state != placeServing:
		to = p.cluster.Elsewhere()
	case first && !p.asked(host):
		to = p.anywhere()
	case first:
		to = p.cluster.Place(own)
	}
	if to == "" {
		return ""
	}
	return p.urls[to] + mobileHub
}

// anywhere returns the name of the node to which a device is to go that has asked for none in particular: this one while nothing is
// known of the others. The lock must be held.
func (p *places) anywhere() string {
	if !p.apart {
		if to := p.cluster.Spread(); to != "" {
			return to
		}
	}
	return p.node.cfg.NodeName
}

// asked reports whether the host of a request is this node's own.
func (p *places) asked(host string) bool {
	scheme, _, _ := strings.Cut(p.node.cfg.DeviceURL, ":")
	return plainHost(scheme, host) == p.host
}

// admit says why no new device may connect, if none may.
func (p *places) admit() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch p.state {
	case placeClosing:
		return esh3ar.Errorf(esh3ar.KindUnavailable, "stopping", "this node is being stopped; connect to another").After(time.Second)
	case placeCutOff:
		return errCutOff().After(2 * time.Second)
	}
	return nil
}

// run keeps places up to date, and sheds, until ctx ends.
func (p *places) run(ctx context.Context) error {
	tick := time.NewTicker(placeEvery)
	defer tick.Stop()
	defer p.probes.wait()
	for {
		select {
		case <-ctx.Done():
			return nil
		case answer := <-p.probes.answered:
			p.probes.done()
			p.probedStep(time.Now(), answer)
			continue
		case <-tick.C:
		}
		// Not the tick's time, which may be old.
		now := time.Now()
		fresh := p.node.peers.members.Fresh()
		p.mu.Lock()
		p.apart = !fresh
		p.mu.Unlock()
		if !fresh {
			p.cutOffStep(ctx, now)
			continue
		}
		p.reached()
		if now.Sub(p.looked) >= lookEvery {
			p.look(now, nil)
		}
		p.shedStep(now)
	}
}

// look takes the figures of the nodes, of those that may be told by their names if only is not nil.
func (p *places) look(now time.Time, only map[string]bool) {
	p.looked = now
	self := placementNode(p.node.cfg.NodeName, 0, p.node.health.Told())
	var others []placement.Node
	serving := 0
	urls := map[string]string{self.Name: p.node.cfg.DeviceURL}
	heard, latest := p.node.peers.members.Heard(), time.Time{}
	for _, at := range heard {
		if at.After(latest) {
			latest = at
		}
	}
	for _, m := range p.candidates() {
		var told memberLoad
		if json.Unmarshal(m.Load, &told) != nil || told.Status == health.Unavailable || only != nil && !only[m.Name] {
			continue
		}
		serving++
		if told.DeviceURL != "" {
			other := placementNode(m.Name, m.Incarnation, told.Told)
			other.Overdue = latest.Sub(heard[m.Name]) > reportOverdue
			others = append(others, other)
			urls[m.Name] = told.DeviceURL
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cluster.Look(now, self, others)
	p.urls, p.others = urls, serving
}

// candidates returns the other nodes that live and are not about to stop.
func (p *places) candidates() []cluster.Member {
	var all []cluster.Member
	for _, m := range p.node.peers.members.Live() {
		if m.Name != p.node.cfg.NodeName && !m.Draining {
			all = append(all, m)
		}
	}
	return all
}

func placementNode(name string, run uint64, told health.Told) placement.Node {
	memory, checked := told.Checks["memory"]
	return placement.Node{
		Name: name, Run: run, Devices: told.Figures.Devices,
		Connections: told.Figures.Connections, MaxConnections: told.Capacity.Connections,
		CPU: told.Figures.CPU, Processors: told.Capacity.Processors,
		MemoryTight: checked && memory.Status != health.OK,
	}
}

// shedStep tells a few devices to reconnect elsewhere if there are too many here.
func (p *places) shedStep(now time.Time) {
	if !p.spreads() {
		return
	}
	own, movable := p.node.hub.Devices()
	p.mu.Lock()
	if p.state != placeServing {
		p.mu.Unlock()
		return
	}
	n := p.cluster.Shed(now, own, movable)
	excess, shedding := p.cluster.Shedding(own)
	p.mu.Unlock()
	why := hub.ForBalance
	if excess.Overloaded {
		why = hub.ForOverload
	}
	p.shed += p.node.hub.Move(n, why)
	if shedding == p.shedding {
		return
	}
	p.shedding = shedding
	if shedding {
		p.log.Info("this node has more than its share of the devices and sends some to others, little by little",
			"devices", own, "share", excess.Share, "overloaded", excess.Overloaded, "stay where they come", own-movable)
		return
	}
	p.log.Info("no more devices are sent to other nodes", "devices", own, "sent", p.shed)
	p.shed = 0
}

// check is how readiness and the operator see it.
func (p *places) check(context.Context) error {
	own, movable := p.node.hub.Devices()
	p.mu.Lock()
	defer p.mu.Unlock()
	e, shedding := p.cluster.Shedding(own)
	if !shedding || movable == 0 && !e.Overloaded {
		return nil
	}
	what := "some are sent to other nodes"
	if movable == 0 {
		what = "they did not negotiate, so that they cannot be sent to other nodes"
	}
	return health.Degrade(esh3ar.Errorf(esh3ar.KindUnavailable, "devices_uneven",
		"%d devices are connected to this node, and its share would be %d: %s", own, e.Share, what))
}

// set changes the state, unless the node is already further on its way out.
func (p *places) set(s placeState) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state < placeLeaving || s > p.state {
		p.state = s
	}
}

// leave has those who come go elsewhere: the node is about to stop.
func (p *places) leave() { p.set(placeLeaving) }

// empty tells all devices to reconnect, evenly over a part of the time that there is, so that no storm comes over the
// other nodes; then it lets those who come back hear where to. A node that no other can stand in for does not.
func (p *places) empty(failed context.Context, limit time.Duration) {
	p.mu.Lock()
	alone := p.others == 0
	p.mu.Unlock()
	if alone {
		return
	}
	p.set(placeClosing)
	ctx, cancel := context.WithTimeout(failed, limit/2)
	defer cancel()
	told := p.node.hub.Empty(ctx, limit*2/5, hub.ForStop)
	if told == 0 {
		return
	}
	p.log.Info("devices were told to reconnect to other nodes", "devices", told)
	wait := time.NewTimer(min(returning, limit/4)) // the rest of the stop has something to do, too
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-failed.Done():
	}
}
