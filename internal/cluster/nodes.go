package cluster

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// memberKey is what the keys of members' records begin with.
const memberKey = "member."

// boardView is how one board looks.
type boardView struct {
	complete bool      // all that was there at the beginning is known
	entry    time.Time // when the last entry came
	resumed  time.Time // when entries came again after a silence
}

// node is what is known of a member.
type node struct {
	memberRecord
	revision [boards]uint64    // of the board's last report
	seen     [boards]time.Time // when it came
	alive    bool
	contact  contact // as its last report told of it, by this machine's clock
}

// heard returns when a report of the node came last, on any board.
func (n *node) heard() time.Time { return slices.MaxFunc(n.seen[:], time.Time.Compare) }

// apply takes note of an entry of a board. It says whether this node has been
// superseded.
func (m *Members) apply(i int, e boardEntry) (superseded bool) {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	v := &m.views[i]
	if now.Sub(v.entry) > m.stall() {
		v.resumed = now
	}
	v.entry = now
	switch name, isMember := strings.CutPrefix(e.key, memberKey); {
	case e.key == "":
		v.complete = true
		m.membership.tell()
		m.holdersNews.tell()
	case isMember:
		return m.applyMember(i, name, e, now)
	default:
		if i == 0 {
			m.applyHolder(e)
		}
	}
	return false
}

// applyMember takes note of a member's record. The lock must be held.
func (m *Members) applyMember(i int, name string, e boardEntry, now time.Time) (superseded bool) {
	n := m.nodes[name]
	if e.value == nil { // the server has forgotten it
		if n != nil && !n.alive {
			delete(m.nodes, name)
		}
		return false
	}
	var r memberRecord
	if err := json.Unmarshal(e.value, &r); err != nil || r.Name != name {
		m.opts.Logger.Warn("unreadable record of a node", "node", name, "error", err)
		return false
	}
	if n == nil {
		n = new(node)
		m.nodes[name] = n
	}
	if e.revision == n.revision[i] {
		return false // told again by a watch that began anew
	}
	n.revision[i] = e.revision
	if r.Incarnation < n.Incarnation {
		return false // of a start that is over
	}
	n.seen[i] = now
	before, wasAlive := n.Member, n.alive
	if r.Incarnation > n.Incarnation || r.Beat > n.Beat {
		n.memberRecord = r
		n.contact = contact{}
		if m.views[i].complete { // what was there before this node began to watch may be of any time
			n.contact = r.Store.contact(now)
		}
	}
	n.alive = !n.Gone
	if n.alive != wasAlive || !sameMembership(before, n.Member) {
		m.membership.tell()
		m.holdersNews.tell()
	}
	return name == m.self.Name && r.Incarnation > m.self.Incarnation && isClosed(m.joined)
}

// sameMembership says whether two records differ in nothing but the load and how
// the store answers.
func sameMembership(a, b Member) bool {
	return a.Name == b.Name && a.Incarnation == b.Incarnation && a.Address == b.Address &&
		a.Owner == b.Owner && a.Draining == b.Draining && a.Away == b.Away && slices.Equal(a.Roles, b.Roles)
}

// sweepInterval is how often it is looked who has died.
const sweepInterval = 50 * time.Millisecond

// watchClock finds the dead until ctx ends.
func (m *Members) watchClock(ctx context.Context) {
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			m.sweep(time.Now())
		}
	}
}

// stall is how long a board is silent when it stands still: this node's own
// reports come back from it at every heartbeat otherwise.
func (m *Members) stall() time.Duration { return 2 * m.opts.Heartbeat }

// sweep finds who died. A board that stood still says nothing about anybody
// until everybody has had time to report again.
func (m *Members) sweep(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	counts := false
	for _, v := range m.views {
		if now.Sub(v.entry) <= m.stall() && now.Sub(v.resumed) > m.stall() {
			counts = true
		}
	}
	if !counts {
		return
	}
	for name, n := range m.nodes {
		if !n.alive {
			continue
		}
		latest := n.heard()
		if now.Sub(latest) <= m.opts.DeadAfter {
			continue
		}
		n.alive = false
		m.opts.Logger.Warn("node does not report any more", "node", name, "silent", now.Sub(latest).Round(time.Millisecond))
		m.membership.tell()
		m.holdersNews.tell()
	}
}

// applyHolder takes note of who holds a shard. The lock must be held.
func (m *Members) applyHolder(e boardEntry) {
	shard, err := strconv.ParseUint(strings.TrimPrefix(e.key, shardKey), 10, 16)
	if err != nil {
		return // of another version of this program
	}
	h := holder{revision: e.revision}
	if e.value == nil {
		h.Released = true
	} else if err := json.Unmarshal(e.value, &h); err != nil {
		m.opts.Logger.Warn("unreadable lease", "key", e.key, "error", err)
		h.Released = true // whoever it was meant for does not know of it
	}
	if h != m.holders[uint16(shard)] {
		m.holders[uint16(shard)] = h
		m.holdersNews.tell()
	}
}

// view is what is known now.
func (m *Members) view() leaseView {
	m.mu.Lock()
	defer m.mu.Unlock()
	v := leaseView{live: make(map[string]Member, len(m.nodes)), holders: maps.Clone(m.holders)}
	for name, n := range m.nodes {
		if n.alive {
			v.live[name] = n.Member
		}
	}
	return v
}

// leases is the board that the leases are on. It is there once the node has
// joined.
func (m *Members) leases() *board {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.leaseBoard
}

// holdersChanged returns a channel that is closed at the next news of holders or
// of whether they are alive.
func (m *Members) holdersChanged() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.holdersNews.next
}

// tellHolders has everybody look again who waits for holdersChanged.
func (m *Members) tellHolders() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.holdersNews.tell()
}
