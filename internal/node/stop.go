package node

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// leaveTime is for the word to the other nodes, and whatever else has not ended by then.
	leaveTime = 500 * time.Millisecond
	// closeTime is for closing the journal, the NATS server and the store.
	closeTime = 1500 * time.Millisecond
)

// abandonTime is how long a start that fails, or is told to stop, takes to close what it has opened.
const abandonTime = 5 * time.Second

// stopLimits say when the parts of a stop end at the latest, from the end of the drain delay on. A part begins when the one
// before it has ended, which is mostly long before its limit.
type stopLimits struct {
	drain time.Duration // requests, devices, and the shards' way to other nodes
	store time.Duration // storing what dispatch knows
	leave time.Duration // all that runs
	close time.Duration // everything

	// These are lengths of time.
	storing    time.Duration // storing, from its beginning: a database that hangs is not waited for longer
	committing time.Duration // of that the last transactions of a shard; the rest is for giving it up
	appends    time.Duration // what is under way to the journal when its callers are cut off
	posts      time.Duration // the requests of webhooks that are under way when nothing else is to come
}

func (c *Config) stopLimits() stopLimits {
	l := stopLimits{drain: max(c.DrainTimeout, time.Second), storing: max(c.DrainTimeout/2, time.Second)}
	l.store = l.drain + l.storing
	l.leave = l.store + leaveTime
	l.close = l.leave + closeTime
	l.committing = l.storing * 3 / 4
	l.appends = min(c.PublishTimeout, l.storing/2)
	l.posts = min(webhookGrace, l.storing)
	return l
}

// webhookGrace is how long a stop lets the requests of webhooks go on at most.
const webhookGrace = 3 * time.Second

// stopping keeps the time of a stop. It is for one goroutine.
type stopping struct {
	log   *slog.Logger
	began time.Time
	last  time.Time   // when the part before ended
	took  []slog.Attr // how long each part took
}

func newStopping(log *slog.Logger) *stopping {
	now := time.Now()
	return &stopping{log: log, began: now, last: now}
}

// left returns how long it is until the limit.
func (s *stopping) left(limit time.Duration) time.Duration { return time.Until(s.began.Add(limit)) }

// ended notes that a part has ended.
func (s *stopping) ended(part string) {
	now := time.Now()
	s.took = append(s.took, slog.Duration(part, now.Sub(s.last).Round(time.Millisecond)))
	s.last = now
}

// await waits for the end of a part, and reports whether it came in time. If not, the log is told, with what runs still.
func (s *stopping) await(part string, end <-chan struct{}, most time.Duration, runs func() string) bool {
	defer s.ended(part)
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-end:
		return true
	case <-timer.C:
	}
	s.log.Warn("a part of the stop has used up its time; the stop goes on without its end, and nothing accepted is lost",
		"part", part, "took", time.Since(s.last).Round(time.Millisecond), "runs", runs())
	return false
}

// done tells the log that the stop is over, and how long its parts took.
func (s *stopping) done() {
	all := append([]slog.Attr{slog.Duration("took", time.Since(s.began).Round(time.Millisecond))}, s.took...)
	s.log.LogAttrs(context.Background(), slog.LevelInfo, "stopped", all...)
}

// parts are what runs in a node, by name. A part that fails ends failed, and is to end the others.
type parts struct {
	g      *errgroup.Group
	failed context.Context

	mu      sync.Mutex
	running map[string]struct{}
}

func newParts(ctx context.Context) *parts {
	g, failed := errgroup.WithContext(ctx)
	return &parts{g: g, failed: failed, running: make(map[string]struct{})}
}

// run runs a part. The channel is closed at its end.
func (p *parts) run(name string, f func() error) (ended <-chan struct{}) {
	p.mu.Lock()
	p.running[name] = struct{}{}
	p.mu.Unlock()
	end := make(chan struct{})
	p.g.Go(func() error {
		defer close(end)
		defer func() {
			p.mu.Lock()
			delete(p.running, name)
			p.mu.Unlock()
		}()
		return f()
	})
	return end
}

// failure returns why the first part failed that did, nil if none has. To end when it was told to is no failure.
func (p *parts) failure() error {
	if err := context.Cause(p.failed); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// left names the parts that have not ended.
func (p *parts) left() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(slices.Sorted(maps.Keys(p.running)), ", ")
}

// allEnded returns a channel that is closed when all parts have.
func (p *parts) allEnded() <-chan struct{} {
	end := make(chan struct{})
	go func() {
		defer close(end)
		_ = p.g.Wait() // the cause of failed is the same
	}()
	return end
}
