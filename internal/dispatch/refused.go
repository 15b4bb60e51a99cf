package dispatch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/record"
	"github.com/esh3artech/esh3ar/internal/store"
)

// unstorable stands for a recipient that the store refuses. No recipient has this name: what begins with a
// plus sign is a telephone number.
const unstorable = "+unstorable"

// strippings take from a message, step by step, what a store may refuse: what it carries first, at last
// everything but its id, client and tier.
var strippings = [...]func(m *esh3ar.Message, b *store.Batch){
	func(m *esh3ar.Message, _ *store.Batch) {
		m.Content, m.Data, m.Metadata = "", nil, nil
		m.Stripped = true
	},
	func(m *esh3ar.Message, _ *store.Batch) {
		*m = esh3ar.Message{ID: m.ID, Client: m.Client, Tier: m.Tier, To: m.To, AcceptedAt: m.AcceptedAt, Stripped: true}
	},
	func(m *esh3ar.Message, b *store.Batch) {
		*m = esh3ar.Message{ID: m.ID, Client: m.Client, Tier: m.Tier, To: unstorable, AcceptedAt: b.At, Stripped: true}
	},
}

// refuse stores a batch whose only change the store refuses for good: the record raw among the dead
// letters and, in the same transaction, a row without what is refused, undelivered unless the message's life
// has ended otherwise. If the store takes no row of it at all, the raw record alone is stored, and the
// message is known to nobody but the operator.
func (c *committer) refuse(ctx context.Context, b *store.Batch, cause error) error {
	log, change := c.s.d.opts.Logger, &b.Changes[0]
	original := change.Message
	c.s.d.metrics.refused.Inc()

	reject := store.Reject{
		Tier: original.Tier, Ord: change.Ord, Record: record.AppendMessage(nil, original),
		Reason: esh3ar.ReasonRefusedByStore, Detail: fmt.Sprintf("message %s: %v", original.ID, cause),
	}
	refused := *b
	refused.Rejects = append(b.Rejects[:len(b.Rejects):len(b.Rejects)], reject)
	last := c.overrule(change, b)
	for _, strip := range strippings {
		m := *last.Message
		strip(&m, b)
		last.Message = &m
		refused.Changes = []store.Change{*last}
		err := c.persist(ctx, &refused)
		if err == nil {
			*change = *last
			log.Error("the store refuses a message for good; it is undelivered, and raw among the dead letters",
				"id", original.ID.String(), "client", original.Client, "status", last.State.Status.String(), "err", cause)
			if !c.s.post(original.To, event{kind: evRefused, ids: []esh3ar.ID{original.ID}}) {
				c.forget(original.ID) // the shard has retired, and its recipients hand out nothing more
			}
			return nil
		}
		if !errors.Is(err, store.ErrPermanent) {
			return err
		}
	}
	c.forget(original.ID)
	change.NewFrom = len(change.State.Timeline) // none of it is stored, nor counted
	refused.Changes = nil
	if err := c.persist(ctx, &refused); err != nil {
		if errors.Is(err, store.ErrPermanent) {
			err = c.s.errLost(err)
		}
		return err
	}
	log.Error("the store refuses a message for good, and any row of it; it is raw among the dead letters alone",
		"id", original.ID.String(), "client", original.Client, "err", cause)
	return nil
}

// overrule returns the change that ends a message which the store refuses, and has it take the place of what
// the message's recipient hands out until it knows.
func (c *committer) overrule(change *store.Change, b *store.Batch) *store.Change {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := *change
	if n, ok := c.index[change.Message.ID]; ok {
		// What came meanwhile is a continuation, and is stored here. In its own turn it changes nothing.
		p := &c.queue[n-c.first]
		last.State = p.change.State
		p.change.NewFrom = len(p.change.State.Timeline)
	}
	s := &last.State
	s.Timeline = slices.Clone(s.Timeline)
	if !s.Status.Final() {
		if s.Status == esh3ar.StatusScheduled {
			s.Move(esh3ar.StatusQueued, b.At, esh3ar.ReasonNone)
		}
		s.Move(esh3ar.StatusUndelivered, b.At, esh3ar.ReasonRefusedByStore)
	}
	s.NotBefore = time.Time{}
	// Recipients go on with a copy while the row is being stored.
	m := *last.Message
	strippings[0](&m, b)
	next := last
	next.Message = &m
	c.refused[m.ID] = &next
	return &last
}

// forget says that nothing more is handed out about a message as it was before the store refused it.
func (c *committer) forget(id esh3ar.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.refused, id)
	close(c.changed)
	c.changed = make(chan struct{})
}

// told waits until the message's recipient knows that the store refused it, if it did: what is decided about the message
// before does not count. It reports false when ctx ended first.
func (c *committer) told(ctx context.Context, id esh3ar.ID) bool {
	return c.until(ctx, func() bool { return c.refused[id] == nil })
}

// afterRefusal turns what a recipient hands out, of a message that the store has refused meanwhile, into what
// of it counts: that a device has it. The caller holds mu.
func (c *committer) afterRefusal(refused *store.Change, shown *esh3ar.State) {
	if !shown.Status.Shown() {
		return
	}
	from := len(refused.State.Timeline)
	refused.State.Timeline = slices.Clone(refused.State.Timeline)
	refused.State.Move(esh3ar.StatusDelivered, shown.Last().At, esh3ar.ReasonLateAck)
	if shown.Status == esh3ar.StatusRead {
		refused.State.Move(esh3ar.StatusRead, shown.Last().At, esh3ar.ReasonNone)
	}
	if len(refused.State.Timeline) == from {
		return
	}
	late := *refused
	late.From, late.NewFrom = store.InHistory, from
	id := late.Message.ID
	if n, ok := c.index[id]; ok {
		p := &c.queue[n-c.first]
		if p.change.Message.Stripped { // of this kind too: its news are not stored yet
			late.NewFrom = p.change.NewFrom
		}
		p.change = late
		return
	}
	c.index[id] = c.first + uint64(len(c.queue))
	c.queue = append(c.queue, pending{change: late})
}
