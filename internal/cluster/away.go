package cluster

import (
	"context"
	"errors"
	"slices"
	"time"
)

// A node whose message store is away, while others reach theirs, gives its
// shards to them. The store is one that all nodes share, so a node compares:
//
//	reached ──silent for awayAfter longer than another node's, which is steady──► away
//	   ▲                                                                           │
//	   │  ╲                                                                     ▲  │
//	   │   ╰──takes another's commits and none of its own for all of patience───╯  │
//	   │                                                                           │
//	   └──────────has answered for steadyFor, longer after it was back─────────────┘
//
// When the store itself is down it falls silent for all at once, and when it
// comes back each node finds that out in its own time, but long before another
// is steady: nobody is away, and no shard moves. Nor does one when the store
// answers and takes nobody's commits: then there are none to compare with.
const (
	// awayAfter is how much longer than another's a node's store must have been
	// silent to be away. It is more than what lies between two nodes that ask
	// the same store in the same way.
	awayAfter = 5 * time.Second

	// awayFailures is how many questions in a row must have been in vain before:
	// one that was under way while this process was stopped says nothing.
	awayFailures = 3

	// vainAfter is how much later than the first of a node's commits in vain another's must have been asked for, and taken, to
	// show that the store takes commits; and how old it may be when that counts.
	vainAfter = 5 * time.Second

	// patience is how long the node's commits have to be in vain from then on for its store to be away. In that time any node
	// finds out that its store takes commits again: one that hangs is given up after 15 s, and repeated soon.
	patience = 20 * time.Second

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

	// Taken is how long ago, in milliseconds, that commit was asked for which
	// the store took last; nil if it took none.
	Taken *int64 `json:"taken_ms,omitempty"`
}

// contact is how a message store answers. The zero value is of one that never has.
type contact struct {
	answered time.Time // when that was asked which was answered last
	since    time.Time // from when on it has answered, lapses aside; not after answered
	failures int       // questions in vain since answered

	taken time.Time // when that commit was asked for which it took last
	vain  time.Time // since when it has taken none of those that are asked for, zero if it does; not known of others
}

// reachability is whether a node's store is away, and what follows from how it was.
type reachability struct {
	away     bool
	proven   time.Time     // when it was first seen to take another's commits while this node's are in vain
	steady   time.Duration // for how long it has to be steady to be no more
	after    time.Time     // from when on that counts: when it became away, or last took no commits
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
	s := &StoreContact{Silent: now.Sub(c.answered).Milliseconds(), Steady: c.answered.Sub(c.since).Milliseconds()}
	if !c.taken.IsZero() {
		taken := now.Sub(c.taken).Milliseconds()
		s.Taken = &taken
	}
	return s
}

// contact is the contact that a node tells of in a report that comes now.
func (s *StoreContact) contact(now time.Time) contact {
	if s == nil {
		return contact{}
	}
	answered := now.Add(-time.Duration(s.Silent) * time.Millisecond)
	c := contact{answered: answered, since: answered.Add(-time.Duration(s.Steady) * time.Millisecond)}
	if s.Taken != nil {
		c.taken = now.Add(-time.Duration(*s.Taken) * time.Millisecond)
	}
	return c
}

// silent says whether the store does not answer, though it answers another steadily.
func (c *contact) silent(others []contact, now time.Time) bool {
	return c.failures >= awayFailures && slices.ContainsFunc(others, func(o contact) bool {
		return o.steady(steadyFor, awayAfter, now) && o.answered.Sub(c.answered) >= awayAfter
	})
}

// refused says whether commits are in vain, though the store has just taken another's.
func (c *contact) refused(others []contact, now time.Time) bool {
	return !c.vain.IsZero() && slices.ContainsFunc(others, func(o contact) bool {
		return o.steady(steadyFor, awayAfter, now) && o.taken.Sub(c.vain) >= vainAfter && now.Sub(o.taken) <= vainAfter
	})
}

// next is whether the store is away by now, by how it answers, and how those of
// the other nodes do that take shards.
func (a reachability) next(own contact, others []contact, now time.Time) reachability {
	refused := own.refused(others, now)
	if a.proven.Before(own.vain) || own.vain.IsZero() {
		a.proven = time.Time{} // that was another time
	}
	if refused && a.proven.IsZero() {
		a.proven = now
	}
	refused = refused && now.Sub(a.proven) >= patience
	if !own.vain.IsZero() {
		a.after = now
	}
	switch {
	case a.away && now.Sub(a.after) >= a.steady && own.steady(a.steady, lapse, now):
		return reachability{steady: a.steady, returned: now}
	case a.away || !refused && !own.silent(others, now):
		return a
	case a.returned.IsZero() || now.Sub(a.returned) > relapse:
		return reachability{away: true, steady: steadyFor, after: now}
	}
	return reachability{away: true, steady: min(2*a.steady, steadyMost), after: now}
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

// errInVain is why a store is away that answers questions.
var errInVain = errors.New("it takes no commits")

// noteStore notes what became of a question to this node's store, and what
// follows.
func (m *Members) noteStore(asked time.Time, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.contact.note(asked, err)
	if m.opts.Commits != nil {
		m.contact.taken, m.contact.vain = m.opts.Commits()
	}
	var others []contact
	for _, n := range m.nodes {
		if n.alive && n.Name != m.self.Name && n.takesShards() {
			others = append(others, n.contact)
		}
	}
	m.reachability = m.reachability.next(m.contact, others, time.Now())
	if away := m.reachability.away; away != m.self.Away {
		if away {
			if err == nil {
				err = errInVain
			}
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
