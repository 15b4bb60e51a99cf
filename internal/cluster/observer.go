package cluster

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// ObserverOptions configures an Observer.
type ObserverOptions struct {
	NATS   Connector    // required
	Logger *slog.Logger // required
}

// Observer knows which nodes are there and what they tell, without being one: it stores nothing.
type Observer struct {
	m *Members
}

// Observed is a node as an observer knows it.
type Observed struct {
	Member
	Reported time.Time // when its last report came
}

// NewObserver checks the options. Nothing happens before Run.
func NewObserver(o ObserverOptions) (*Observer, error) {
	// No node has this name: Run never reports.
	m, err := NewMembers(MembersOptions{NATS: o.NATS, Logger: o.Logger, Name: "-"})
	if err != nil {
		return nil, err
	}
	return &Observer{m}, nil
}

// Run watches until ctx ends and returns nil. It waits for NATS, and for the nodes to have made what they report to, for
// as long as it takes. It must be called once. Errors: what makes NATS unusable for good.
func (o *Observer) Run(ctx context.Context) error {
	nc, js, err := connect(ctx, o.m.opts.NATS, o.m.opts.Logger)
	if err != nil || nc == nil {
		return err
	}
	defer nc.Close()
	var watching sync.WaitGroup
	for i := range boards {
		b := newBoard(i, 0, js, o.m.opts.Logger, func(e boardEntry) { o.m.apply(i, e) })
		b.observed = true
		watching.Go(func() { b.run(ctx) })
	}
	watching.Go(func() { o.m.watchClock(ctx) })
	watching.Wait()
	return nil
}

// Live returns the nodes that are alive, by name, and whether these are all: before everything was read they are not.
//
// While NATS cannot be reached, or no node reports at all, they are those of before: Reported tells their age.
func (o *Observer) Live() (nodes []Observed, complete bool) {
	o.m.mu.Lock()
	defer o.m.mu.Unlock()
	for _, n := range o.m.nodes {
		if n.alive {
			nodes = append(nodes, Observed{n.clone(), n.heard()})
		}
	}
	slices.SortFunc(nodes, func(a, b Observed) int { return cmp.Compare(a.Name, b.Name) })
	return nodes, slices.ContainsFunc(o.m.views[:], func(v boardView) bool { return v.complete })
}

// Changed returns a channel that is closed at the next change of what Live returns, loads aside. Take it before looking.
func (o *Observer) Changed() <-chan struct{} { return o.m.Changed() }
