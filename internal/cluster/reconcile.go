package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// handover is a lease that is being given up.
type handover struct {
	shard    uint16
	lease    *lease
	released time.Time // zero until it is seen to be
}

// handoverPause is how long the next handover waits for the other node to take
// what was released.
const handoverPause = time.Second

// leaseView is what is known of members and holders at one moment.
type leaseView struct {
	live    map[string]Member
	holders map[uint16]holder
}

// dead says whether the holder is not there any more.
func (v leaseView) dead(h holder) bool {
	m, ok := v.live[h.Node]
	return !ok || m.Incarnation != h.Incarnation
}

// Run takes and gives up leases until ctx ends; then all that are held end with
// ErrLeaseLost, and it returns nil. A node that stops in good order calls Drain
// before. It must be called once.
func (l *Leases) Run(ctx context.Context) error {
	if l.m.Joined(ctx) != nil {
		return nil // ctx has ended
	}
	if l.m.awaitStore(ctx) != nil {
		return nil
	}
	l.m.setOwner(true)
	defer l.m.setOwner(false)
	var expiring sync.WaitGroup
	expiring.Go(func() { l.expire(ctx) })
	defer expiring.Wait()
	for ctx.Err() == nil {
		news := l.m.holdersChanged()
		var again <-chan time.Time
		if l.reconcile(ctx) {
			again = time.After(retryPause)
		}
		select {
		case <-ctx.Done():
		case <-news:
		case <-again:
		}
	}
	l.endAll(fmt.Errorf("%w: the node stops", ErrLeaseLost))
	return nil
}

// expire ends the leases when this node's report is not stored for too long.
func (l *Leases) expire(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		news := l.m.holdersChanged() // Members may have ended
		if !l.m.Fresh() {
			l.endAll(errNotFresh)
		}
		timer.Reset(max(time.Until(l.m.freshUntil()), sweepInterval))
		select {
		case <-ctx.Done():
		case <-news:
		case <-timer.C:
		}
	}
}

// endAll ends the leases that are held.
func (l *Leases) endAll(cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.slots {
		if s.held != nil {
			s.held.cancel(cause)
		}
	}
}

// step is a change of a lease that this node should make.
type step struct {
	shard    uint16
	revision uint64 // to be replaced
	release  bool   // or claim
}

// reconcile makes of the leases what they should be, as far as it is up to this
// node. It says whether it should look again soon though nothing changes.
func (l *Leases) reconcile(ctx context.Context) (again bool) {
	if !l.m.Fresh() {
		return true
	}
	self, v := l.m.Self(), l.m.view()
	l.assign(owners(v.live))
	for _, st := range l.steps(self, v) {
		err := l.take(ctx, st)
		again = again || err != nil
		if err != nil && !errors.Is(err, errChanged) {
			l.opts.Logger.Debug("lease was not stored", "shard", st.shard, "error", err)
			return true // the others would not fare better
		}
	}
	return l.handOver(self, v) || again
}

// assign brings the assignment up to date.
func (l *Leases) assign(owners []string) {
	if l.assigned == nil || !slices.Equal(owners, l.members) {
		l.members, l.assigned = owners, Assign(l.opts.Shards, owners)
	}
}

// steps finds what is to be claimed and released, and ends what was lost.
func (l *Leases) steps(self Member, v leaseView) (steps []step) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.slots {
		s, h := &l.slots[i], v.holders[uint16(i)]
		if s.busy || h.revision < s.wrote {
			continue // the view is to come
		}
		mine := h.Node == self.Name && h.Incarnation == self.Incarnation && !h.free()
		st := step{shard: uint16(i), revision: h.revision}
		switch {
		case s.held != nil:
			if h.revision != s.held.revision {
				s.held.cancel(fmt.Errorf("%w: node %q has it", ErrLeaseLost, h.Node))
			}
		case s.waiting != nil && l.assigned[i] == self.Name && (h.free() || mine || v.dead(h)):
			steps = append(steps, st)
		case mine: // and nobody here is doing anything for it
			st.release = true
			steps = append(steps, st)
		}
	}
	return steps
}

// take carries a step out.
func (l *Leases) take(ctx context.Context, st step) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	revision, err := l.store(ctx, st.shard, st.revision, st.release)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &l.slots[st.shard]
	s.wrote = max(s.wrote, revision)
	if st.release {
		return nil
	}
	if s.waiting == nil || !l.m.Fresh() {
		return errors.New("nobody waits for the lease any more, or it is lost again")
	}
	s.held = newLease(s.waiting.ctx, l.m, revision)
	s.waiting.granted <- s.held
	s.waiting = nil
	return nil
}

// handOver has one lease after the other end that belongs to another node. It
// says whether it should look again soon.
func (l *Leases) handOver(self Member, v leaseView) (again bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if h := l.handing; h != nil {
		if s := l.slots[h.shard]; s.held == h.lease || s.busy {
			return false // its end is news
		}
		if h.released.IsZero() {
			h.released = time.Now()
		}
		next := v.holders[h.shard]
		// By now the shard may be this node's again.
		if next.free() && l.assigned[h.shard] != self.Name && time.Since(h.released) < handoverPause {
			return true
		}
		l.handing = nil
	}
	for i, s := range l.slots {
		if to := l.assigned[i]; s.held != nil && to != "" && to != self.Name && s.held.Context.Err() == nil {
			s.held.cancel(ErrHandover)
			l.handing = &handover{shard: uint16(i), lease: s.held}
			return false
		}
	}
	return false
}
