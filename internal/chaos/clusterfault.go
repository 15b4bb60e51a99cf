//go:build unix

package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/esh3artech/esh3ar/internal/freeport"
)

// What is told to the nodes of a cluster.
const (
	clusterSecret = "the chaos laboratory's nodes know each other by this"
	adminKey      = "the-chaos-laboratory-administers-with-this"
)

// rollingPatience is how long a rolling restart waits for a node to be ready.
const rollingPatience = 15 * time.Second

// several kills some or all of the nodes of a cluster at once.
type several struct {
	named
	*lab
	struck []*machine
	dice   *rand.Rand // of the power cut, nil if there is none
}

// newKillMost kills a majority: what is left accepts nothing.
func newKillMost(l *lab, dice *rand.Rand) Fault {
	return several{"kill-most", l, l.draft(dice, len(l.core())/2+1), nil}
}

// newPowerCutAll takes the power from all nodes that keep the journal: what they had not synced is gone everywhere.
func newPowerCutAll(l *lab, dice *rand.Rand) Fault {
	return several{"power-cut-all", l, l.core(), dice}
}

// core are the nodes that keep the journal. Elastic ones come after them.
func (l *lab) core() []*machine { return l.machines[:max(l.opts.Nodes, 1)] }

// keeper is one of the core: a machine with something on its disk.
func (l *lab) keeper(dice *rand.Rand) *machine {
	core := l.core()
	return core[dice.IntN(len(core))]
}

// draft returns n of the core.
func (l *lab) draft(dice *rand.Rand, n int) []*machine {
	core := l.core()
	var some []*machine
	for _, i := range dice.Perm(len(core))[:n] {
		some = append(some, core[i])
	}
	return some
}

func (f several) Inject(context.Context) error {
	err := each(f.struck, (*machine).kill)
	for _, m := range f.struck {
		m.say("killed")
		if f.dice != nil {
			err = errors.Join(err, m.cutPower(f.dice))
		}
	}
	return err
}

func (f several) Heal(context.Context) error {
	return each(f.struck, func(m *machine) error { return m.server.launch() })
}

// newLongPause stops a node for longer than its leases last: it wakes up as the owner of what is others' now.
func newLongPause(l *lab, dice *rand.Rand) Fault { return hang{"long-pause", l.some(dice)} }

// rolling restarts all nodes in order, one after the other, as an upgrade does, while other faults come and go.
type rolling struct {
	named
	*lab
	hurry context.CancelFunc // ends the waits between nodes
	done  chan error
}

func newRollingRestart(l *lab, _ *rand.Rand) Fault {
	return &rolling{named: "rolling-restart", lab: l, done: make(chan error, 1)}
}

func (f *rolling) Inject(ctx context.Context) error {
	ctx, f.hurry = context.WithCancel(ctx)
	f.working.Go(func() { f.done <- f.restart(ctx) })
	return nil
}

// restart restarts all nodes, each when the one before is ready, or when ctx ends.
func (f *rolling) restart(ctx context.Context) error {
	for _, m := range f.machines {
		m.say("is restarted")
		m.stop()
		if err := m.server.launch(); err != nil {
			return err
		}
		// As the documentation has it: the next one when this one is ready. A cluster that is cut apart or without
		// its store may not be for long; an upgrade would wait, a laboratory goes on.
		ready, cancel := context.WithTimeout(ctx, rollingPatience)
		_ = m.ready(ready)
		cancel()
	}
	return nil
}

// Heal has those that are left restarted without a wait.
func (f *rolling) Heal(context.Context) error {
	f.hurry()
	return <-f.done
}

// linkFault makes something of the ways between nodes.
type linkFault struct {
	named
	*lab
	what condition
	ways []way
}

// between are the ways between two nodes, there and back.
func between(a, b *machine) []way { return []way{{a.name, b.name}, {b.name, a.name}} }

// around are the ways between one node and those that keep the journal.
func (l *lab) around(m *machine) (out, in []way) {
	for _, other := range l.core() {
		if other != m {
			out, in = append(out, way{m.name, other.name}), append(in, way{other.name, m.name})
		}
	}
	return out, in
}

// everywhere are the ways between all nodes that keep the journal.
func (l *lab) everywhere() []way {
	var all []way
	for _, m := range l.core() {
		out, _ := l.around(m)
		all = append(all, out...)
	}
	return all
}

// newPartition cuts one node off from all others.
func newPartition(l *lab, dice *rand.Rand) Fault {
	out, in := l.around(l.draft(dice, 1)[0])
	return linkFault{"partition", l, condition{cut: true}, append(out, in...)}
}

// newPartitionAll cuts all nodes off from each other.
func newPartitionAll(l *lab, _ *rand.Rand) Fault {
	return linkFault{"partition-all", l, condition{cut: true}, l.everywhere()}
}

// newPartitionPair cuts two nodes off from each other, both of which the others reach.
func newPartitionPair(l *lab, dice *rand.Rand) Fault {
	two := l.draft(dice, 2)
	return linkFault{"partition-pair", l, condition{cut: true}, between(two[0], two[1])}
}

// newPartitionOneWay lets nothing arrive of what a node sends to one other or to all, or of what they send to it.
func newPartitionOneWay(l *lab, dice *rand.Rand) Fault {
	ways, in := l.around(l.draft(dice, 1)[0])
	if dice.IntN(2) == 0 {
		ways = in
	}
	if dice.IntN(2) == 0 {
		ways = ways[:1]
	}
	return linkFault{"partition-one-way", l, condition{cut: true}, ways}
}

// newPartitionElastic cuts a node that keeps no journal off from one that does, or from all.
func newPartitionElastic(l *lab, dice *rand.Rand) Fault {
	m := l.machines[l.opts.Nodes+dice.IntN(l.opts.Elastic)]
	if dice.IntN(2) == 0 {
		return linkFault{"partition-elastic", l, condition{cut: true}, between(m, l.draft(dice, 1)[0])}
	}
	out, in := l.around(m)
	return linkFault{"partition-elastic", l, condition{cut: true}, append(out, in...)}
}

// newSlowLinks makes the ways to and from one node long, or those between all.
func newSlowLinks(l *lab, dice *rand.Rand) Fault {
	ways, in := l.around(l.machines[dice.IntN(len(l.machines))])
	if ways = append(ways, in...); dice.IntN(2) == 0 {
		ways = l.everywhere()
	}
	return linkFault{"slow-links", l, condition{delay: 10*time.Millisecond + rand64(dice, 300*time.Millisecond)}, ways}
}

func (f linkFault) Inject(context.Context) error {
	for _, w := range f.ways {
		if f.what.cut {
			f.say("         %s does not reach %s", w.from, w.to)
		} else {
			f.say("         %s reaches %s after %s", w.from, w.to, f.what.delay)
		}
	}
	f.links.set(f.what, f.ways...)
	return nil
}

func (f linkFault) Heal(context.Context) error {
	f.links.set(condition{}, f.ways...)
	return nil
}

// openCluster makes the nodes of a cluster. The connections between them pass through the laboratory's links.
func (l *lab) openCluster() error {
	n := l.opts.Nodes
	free, err := freeport.Take(l.ctx, "127.0.0.1", 3*n+l.opts.Elastic)
	if err != nil {
		return err
	}
	targets, clients, free := free[:n], free[n:2*n], free[2*n:]
	var names, urls []string
	for i := range n {
		names = append(names, fmt.Sprint("node-", i+1))
		urls = append(urls, "nats://"+clients[i])
	}
	if l.streams, err = openStreams(urls, l.book.elected); err != nil {
		return err
	}
	l.links = newLinks(l.ctx)
	var routes []string
	for i, name := range names {
		addr, err := l.links.lead("", name, targets[i])
		if err != nil {
			return err
		}
		routes = append(routes, addr)
	}
	node := func(name string, args ...string) error {
		common := []string{"--cluster-name", "chaos", "--node-name", name}
		_, err := l.newMachine(name, free[len(l.machines)], filepath.Join(l.dir, name), append(common, args...)...)
		return err
	}
	for i, name := range names {
		if err := node(name, "--cluster-listen", targets[i], "--cluster-advertise", routes[i],
			"--client-listen", clients[i], "--routes", strings.Join(routes, ",")); err != nil {
			return err
		}
	}
	for i := range l.opts.Elastic {
		elastic := fmt.Sprint("elastic-", i+1)
		var urls []string
		for i, name := range names {
			addr, err := l.links.lead(elastic, name, clients[i])
			if err != nil {
				return err
			}
			urls = append(urls, "nats://"+addr)
		}
		if err := node(elastic, "--nats-url", strings.Join(urls, ",")); err != nil {
			return err
		}
	}
	return nil
}

// ready waits until the server says that it is.
func (m *machine) ready(ctx context.Context) error {
	c := http.Client{Timeout: requestTimeout, Transport: &http.Transport{
		DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return m.server.dial(ctx) },
	}}
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/readyz", nil)
		if err != nil {
			return err
		}
		if resp, err := c.Do(req); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		if !pause(ctx, 50*time.Millisecond) {
			return fmt.Errorf("%s is not ready: %w\n%s", m.name, ctx.Err(), m.server.tail(2<<10))
		}
	}
}
