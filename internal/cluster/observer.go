package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
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
	nc, err := o.m.connect(ctx)
	if err != nil || nc == nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(requestTimeout))
	if err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
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
			nodes = append(nodes, Observed{n.clone(), slices.MaxFunc(n.seen[:], time.Time.Compare)})
		}
	}
	slices.SortFunc(nodes, func(a, b Observed) int { return cmp.Compare(a.Name, b.Name) })
	return nodes, slices.ContainsFunc(o.m.views[:], func(v boardView) bool { return v.complete })
}

// Changed returns a channel that is closed at the next change of what Live returns, loads aside. Take it before looking.
func (o *Observer) Changed() <-chan struct{} { return o.m.Changed() }

// get reads the value of a key, which may not be the newest: it may come from a server that is behind. The revision is 0
// if there is none.
func (b *board) get(ctx context.Context, key string) (boardEntry, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	s, err := b.find(ctx)
	if err != nil {
		return boardEntry{}, err
	}
	msg, err := s.GetLastMsgForSubject(ctx, b.subject(key))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return boardEntry{key: key}, nil
	}
	if err != nil {
		return boardEntry{}, err
	}
	return boardEntry{key: key, value: msg.Data, revision: msg.Sequence}, nil
}
