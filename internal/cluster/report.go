package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Run reports and watches until ctx ends, then says goodbye and returns nil. It
// waits for NATS for as long as it takes. It must be called once.
//
// Errors: ErrSuperseded, or what makes NATS unusable for good.
func (m *Members) Run(ctx context.Context) error {
	nc, js, err := connect(ctx, m.opts.NATS, m.opts.Logger)
	if err != nil || nc == nil {
		return err
	}
	defer nc.Close()
	running, stop := context.WithCancelCause(ctx)
	var workers sync.WaitGroup
	bs := make([]*board, boards)
	for i := range bs {
		bs[i] = newBoard(i, m.opts.Replicas, js, m.opts.Logger, func(e boardEntry) {
			if m.apply(i, e) {
				stop(ErrSuperseded)
			}
		})
		workers.Go(func() { bs[i].run(running) })
	}
	m.mu.Lock()
	m.leaseBoard = bs[0]
	m.mu.Unlock()
	workers.Go(func() { m.watchClock(running) })
	workers.Go(func() { m.watchMajority(running, nc) })
	if m.opts.Store != nil {
		workers.Go(func() { m.watchStore(running) })
	}
	workers.Go(func() { m.keepLeadersSpread(running, nc) })
	if m.awaitBoards(running) {
		for i, b := range bs {
			workers.Go(func() { m.reportTo(running, i, b) })
		}
	}
	<-running.Done()
	workers.Wait()
	m.end()
	if errors.Is(context.Cause(running), ErrSuperseded) {
		stop(nil)
		return fmt.Errorf("cluster: node %s: %w", m.opts.Name, ErrSuperseded)
	}
	stop(nil)
	m.goodbye(ctx, bs)
	return nil
}

// connect connects to NATS, however long it takes. If ctx ends before there is no connection.
func connect(ctx context.Context, c Connector, log *slog.Logger) (*nats.Conn, jetstream.JetStream, error) {
	for told := false; ctx.Err() == nil; told = true {
		nc, err := c.Connect(nats.Name("members"))
		if err == nil {
			js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(requestTimeout))
			if err != nil {
				nc.Close()
				return nil, nil, fmt.Errorf("cluster: %w", err)
			}
			return nc, js, nil
		}
		if !told {
			log.Warn("cluster's state cannot be reached", "error", err)
		}
		pause(ctx, retryPause)
	}
	return nil, nil, nil
}

// awaitBoards waits until it is known what the boards say, so that this start
// can go above the one before, and says whether ctx goes on. All boards but the
// first are waited for only for so long.
func (m *Members) awaitBoards(ctx context.Context) bool {
	for waited := 0; ; waited++ {
		m.mu.Lock()
		all := !slices.ContainsFunc(m.views[:], func(v boardView) bool { return !v.complete })
		first := m.views[0].complete
		if before := m.nodes[m.self.Name]; before != nil && before.Incarnation >= m.self.Incarnation {
			m.self.Incarnation = before.Incarnation + 1
		}
		m.mu.Unlock()
		if all || first && time.Duration(waited)*sweepInterval > m.opts.FreshFor {
			return true
		}
		pause(ctx, sweepInterval)
		if ctx.Err() != nil {
			return false
		}
	}
}

// reportTo stores this node's record on one board, at every heartbeat and when
// it changed.
func (m *Members) reportTo(ctx context.Context, i int, b *board) {
	tick := time.NewTicker(m.opts.Heartbeat)
	defer tick.Stop()
	for ctx.Err() == nil {
		began, wait := time.Now(), tick.C
		sending, cancel := context.WithTimeout(ctx, requestTimeout)
		err := b.put(sending, memberKey+m.opts.Name, m.record(false))
		cancel()
		if err == nil {
			m.stored(i, began)
		} else {
			m.opts.Logger.Debug("report was not stored", "bucket", b.name, "error", err)
			wait = time.After(min(retryPause, m.opts.Heartbeat))
		}
		select {
		case <-ctx.Done():
		case <-wait:
		case <-m.report[i]:
		}
	}
}

// record is this node's record as of now.
func (m *Members) record(gone bool) []byte {
	var load json.RawMessage
	if m.opts.Load != nil {
		load = m.opts.Load()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.self.Load, m.self.Store = load, m.contact.told(time.Now())
	m.beat++
	data, err := json.Marshal(memberRecord{Member: m.self, Beat: m.beat, Gone: gone})
	if err != nil { // the load is no JSON
		m.opts.Logger.Error("load is not told", "error", err)
		m.self.Load = nil
		data, _ = json.Marshal(memberRecord{Member: m.self, Beat: m.beat, Gone: gone})
	}
	return data
}

// stored notes that a report is known to the others.
func (m *Members) stored(i int, began time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	first := m.last.IsZero()
	if began.After(m.last) {
		m.last = began
	}
	// The leases are on the first board: whoever reads of a lease there must
	// have read before that its holder is alive.
	if i == 0 && !isClosed(m.joined) {
		close(m.joined)
	}
	if first {
		m.membership.tell()
	}
}

// goodbyeTimeout bounds a goodbye. It is short: a node that is the last to stop tells nobody, and without it the others
// notice by themselves.
const goodbyeTimeout = requestTimeout / 4

// goodbye lets the others know at once, as far as that is possible.
func (m *Members) goodbye(ctx context.Context, bs []*board) {
	if m.lost.Err() != nil {
		return // there is nobody to store it
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbyeTimeout)
	defer cancel()
	var telling sync.WaitGroup
	for _, b := range bs {
		telling.Go(func() {
			if err := b.put(ctx, memberKey+m.opts.Name, m.record(true)); err != nil {
				m.opts.Logger.Warn("no goodbye to the other nodes", "error", err)
			}
		})
	}
	telling.Wait()
}

// end has this node count as no member any more.
func (m *Members) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last = time.Time{}
	m.membership.tell()
	m.holdersNews.tell()
}
