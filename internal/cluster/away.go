package cluster

import (
	"context"
	"slices"
	"time"
)

// A node whose message store is away, while others reach theirs, gives its
// shards to them. The store is one that all nodes share, so a node compares:
//
//	reached ──silent for awayAfter longer than another node's, which is steady──► away
//	   ▲                                                                           │
//	   └──────────has answered for steadyFor, longer after it was back─────────────┘
//
// When the store itself is down it falls silent for all at once, and when it
// comes back each node finds that out in its own time, but long before another
// is steady: nobody is away, and no shard moves.
const (
	// awayAfter is how much longer than another's a node's store must have been
	// silent to be away. It is more than what lies between two nodes that ask
	// the same store in the same way.
	awayAfter = 5 * time.Second

	// awayFailures is how many questions in a row must have been in vain before:
	// one that was under way while this process was stopped says nothing.
	awayFailures = 3

	// steadyFor is how long a store must have answered to be steady. It is longer
	// than a node needs to find out that its store is back, connections that
	// hang and pauses between attempts to open it included.
	steadyFor = 15 * time.Second

	// A node that is away again within relapse of its return has to be steady for
	// twice as long as before, and for steadyMost at most, so that a bad line does
	// not move shards all the time.
	relapse    = 10 * time.Minute
	steadyMost = 4 * time.Minute

	// lapse is the longest silence that does not end a steady time.
	lapse = 3 * time.Second

	// askTime bounds a question.
	askTime = 2 * time.Second
)

// StoreContact is how a node's message store answers, as of the node's report.
type StoreContact struct {
	// Silent is how long ago, in milliseconds, that was asked which the store
	// answered last.
	Silent int64 `json:"silent_ms"`

	// Steady is for how long, in milliseconds, it had answered by then.
	Steady int64 `json:"steady_ms"`
}

// contact is how a message store answers. The zero value is of one that never has.
type contact struct {
	answered time.Time // when that was asked which was answered last
	since    time.Time // from when on it has answered, lapses aside; not after answered
	failures int       // questions in vain since answered
}

// reachability is whether a node's store is away, and what follows from how it was.
type reachability struct {
	away     bool
	steady   time.Duration // for how long it has to be steady to be no more
	returned time.Time     // when it ceased to be
}

// note notes what became of a question.
func (c *contact) note(asked time.Time, err error) {
	if err != nil {
		c.failures++
		return
	}
	if c.answered.IsZero() || asked.Sub(c.answered) > lapse {
		c.since = asked
	}
	c.answered, c.failures = asked, 0
}

// steady says whether the store has answered for so long, and its silence since
// is at most this.
func (c *contact) steady(long, silence time.Duration, now time.Time) bool {
	return c.answered.Sub(c.since) >= long && now.Sub(c.answered) <= silence
}

// decided says whether enough was asked to say whether the store is away.
func (c *contact) decided() bool { return !c.answered.IsZero() || c.failures >= awayFailures }

// told is the contact as it is told to others. One that never was is not.
func (c *contact) told(now time.Time) *StoreContact {
	if c.answered.IsZero() {
		return nil
	}
	return &StoreContact{Silent: now.Sub(c.answered).Milliseconds(), Steady: c.answered.Sub(c.since).Milliseconds()}
}

// contact is the contact that a node tells of in a report that comes now.
func (s *StoreContact) contact(now time.Time) contact {
	if s == nil {
		return contact{}
	}
	answered := now.Add(-time.Duration(s.Silent) * time.Millisecond)
	return contact{answered: answered, since: answered.Add(-time.Duration(s.Steady) * time.Millisecond)}
}

// next is whether the store is away by now, by how it answers, and how those of
// the other nodes do that take shards.
func (a reachability) next(own contact, others []contact, now time.Time) reachability {
	switch {
	case a.away && own.steady(a.steady, lapse, now):
		return reachability{steady: a.steady, returned: now}
	case a.away || own.failures < awayFailures || !slices.ContainsFunc(others, func(c contact) bool {
		return c.steady(steadyFor, awayAfter, now) && c.answered.Sub(own.answered) >= awayAfter
	}):
		return a
	case a.returned.IsZero() || now.Sub(a.returned) > relapse:
		return reachability{away: true, steady: steadyFor}
	}
	return reachability{away: true, steady: min(2*a.steady, steadyMost)}
}

// watchStore asks at every heartbeat whether this node's store answers, until
// ctx ends.
func (m *Members) watchStore(ctx context.Context) {
	tick := time.NewTicker(m.opts.Heartbeat)
	defer tick.Stop()
	for ctx.Err() == nil {
		asked := time.Now()
		asking, cancel := context.WithTimeout(ctx, askTime)
		err := m.opts.Store(asking)
		cancel()
		if ctx.Err() != nil {
			return
		}
		m.noteStore(asked, err)
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// noteStore notes what became of a question to this node's store, and what
// follows.
func (m *Members) noteStore(asked time.Time, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.contact.note(asked, err)
	var others []contact
	for _, n := range m.nodes {
		if n.alive && n.Name != m.self.Name && n.takesShards() {
			others = append(others, n.contact)
		}
	}
	m.reachability = m.reachability.next(m.contact, others, time.Now())
	if away := m.reachability.away; away != m.self.Away {
		if away {
			m.opts.Logger.Warn("this node does not reach the message store, and others do: they get its shards", "error", err)
		} else {
			m.opts.Logger.Info("this node reaches the message store again: it takes its share of the shards")
		}
		m.change(func(s *Member) { s.Away = away })
	}
	if m.contact.decided() && !isClosed(m.storeKnown) {
		close(m.storeKnown)
	}
}

// awaitStore waits until it is known whether this node's store is away. It
// returns ctx's error if ctx ends before.
func (m *Members) awaitStore(ctx context.Context) error {
	select {
	case <-m.storeKnown:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
