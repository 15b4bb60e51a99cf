package dispatch

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
)

// Cancel withdraws a client's message that is not in flight and not final, and returns what became of
// it. Canceling a canceled message again is no error.
//
// Errors: those of Message; KindConflict with the code in_flight, or that of its final status.
func (d *Dispatcher) Cancel(ctx context.Context, client string, id esh3ar.ID) (store.Row, error) {
	row, err := d.ask(ctx, client, id, event{kind: evCancel}, nil)
	if err != nil {
		return row, err
	}
	switch row.State.Status {
	case esh3ar.StatusCanceled:
		return row, nil
	case esh3ar.StatusDelivered, esh3ar.StatusRead:
		return row, esh3ar.Errorf(esh3ar.KindConflict, "already_delivered", "message %s was delivered already", id)
	case esh3ar.StatusExpired, esh3ar.StatusUndelivered:
		return row, esh3ar.Errorf(esh3ar.KindConflict, "already_final", "message %s is %s already", id, row.State.Status)
	}
	return row, esh3ar.Errorf(esh3ar.KindConflict, "in_flight",
		"message %s is on its way to a device; it can be canceled again if the attempt fails", id).After(time.Second)
}

// Replay brings a client's undelivered message back from the dead-letter queue, and returns what became
// of it.
//
// Errors: those of Message; KindConflict with the code not_undelivered, or payload_unavailable if the store
// refused what the message carried.
func (d *Dispatcher) Replay(ctx context.Context, client string, id esh3ar.ID) (store.Row, error) {
	return d.dead(ctx, client, id, event{kind: evReplay})
}

// Discard takes a client's undelivered message out of the dead-letter queue; it stays undelivered. Why is
// somebody's words, at most 200 bytes of them are kept.
//
// Errors: those of Message; KindConflict with the code not_undelivered.
func (d *Dispatcher) Discard(ctx context.Context, client string, id esh3ar.ID, why string) (store.Row, error) {
	reason := esh3ar.ReasonDiscarded
	if why != "" {
		// Not half a character at the end.
		reason += esh3ar.Reason(": " + strings.ToValidUTF8(why[:min(len(why), 200)], ""))
	}
	return d.dead(ctx, client, id, event{kind: evDiscard, reason: reason})
}

// deadTries is how often a request about a dead letter is made anew because the message changed under it.
const deadTries = 5

// dead brings the event to a message of the dead-letter queue. It does so to a row that is up to date when
// the event is handled: of several requests about one message the first changes it, and the others see that.
func (d *Dispatcher) dead(ctx context.Context, client string, id esh3ar.ID, e event) (store.Row, error) {
	if int(id.Shard()) >= len(d.shards) {
		return d.Message(ctx, client, id) // which tells that there is none
	}
	s := d.owned(id.Shard())
	if s == nil {
		return store.Row{}, elsewhere()
	}
	c := s.committer
	c.watch(id)
	defer c.unwatch(id)
	for range deadTries {
		e.since = c.changes(id)
		if !c.settled(ctx) || !c.told(ctx, id) {
			return store.Row{}, storeUnavailable(ctx.Err())
		}
		stale := false
		e.stale = &stale
		row, err := d.ask(ctx, client, id, e, func(m *esh3ar.Message, s esh3ar.Status) error {
			switch {
			case s != esh3ar.StatusUndelivered:
				return esh3ar.Errorf(esh3ar.KindConflict, "not_undelivered", "message %s is %s, not in the dead-letter queue", id, s)
			case m.Stripped && e.kind == evReplay:
				return esh3ar.Errorf(esh3ar.KindConflict, "payload_unavailable",
					"the message store refused what message %s carried, so there is nothing to deliver; send it anew, or discard it", id)
			}
			return nil
		})
		if err != nil || !stale {
			return row, err
		}
	}
	return store.Row{}, esh3ar.Errorf(esh3ar.KindConflict, "message_changing", "message %s is being changed by others; ask again", id).After(time.Second)
}

func storeUnavailable(cause error) error {
	return esh3ar.Errorf(esh3ar.KindUnavailable, "store_unavailable", "the message store does not answer; ask again").
		After(time.Second).Because(cause)
}

// ask brings the event, with the message's row, to the message's recipient, waits until what came of it
// is stored, and returns the row as it is then. Allowed, if set, may refuse by the row that is brought.
func (d *Dispatcher) ask(ctx context.Context, client string, id esh3ar.ID, e event, allowed func(*esh3ar.Message, esh3ar.Status) error) (store.Row, error) {
	if int(id.Shard()) >= len(d.shards) {
		return d.Message(ctx, client, id) // which tells that there is none
	}
	s := d.owned(id.Shard())
	if s == nil {
		return store.Row{}, elsewhere()
	}
	if err := s.looks.Acquire(ctx, 1); err != nil {
		return store.Row{}, storeUnavailable(err)
	}
	defer s.looks.Release(1)
	row, err := d.Message(ctx, client, id)
	if err == nil && allowed != nil {
		err = allowed(&row.Message, row.State.Status)
	}
	if err != nil || row.State.Status.Final() && row.State.Status != esh3ar.StatusUndelivered {
		return row, err
	}
	var handled sync.WaitGroup
	handled.Add(1)
	e.item, e.handled = itemOf(&row), &handled
	if !s.post(row.Message.To, e) {
		return row, elsewhere()
	}
	handled.Wait()
	if !s.committer.settled(ctx) {
		return row, outcomeUnknown(ctx.Err())
	}
	// It is done, if it may be: a store that does not answer now is no reason to say that it surely was not.
	after, err := d.Message(ctx, client, id)
	if esh3ar.KindOf(err) == esh3ar.KindUnavailable {
		return row, outcomeUnknown(err)
	}
	return after, err
}

func outcomeUnknown(cause error) error {
	return esh3ar.Errorf(esh3ar.KindOutcomeUnknown, "outcome_unknown",
		"the message store does not answer; ask for the message's status").After(time.Second).Because(cause)
}

// watched counts the changes of a message that somebody is about to change by its stored row.
type watched struct {
	by      int // how many watch
	changes uint64
}

// watch counts the changes of the message from now on, until unwatch.
func (c *committer) watch(id esh3ar.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.watched[id]
	if w == nil {
		w = new(watched)
		c.watched[id] = w
	}
	w.by++
}

func (c *committer) unwatch(id esh3ar.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.watched[id]
	if w.by--; w.by == 0 {
		delete(c.watched, id)
	}
}

// changes returns how many changes of a watched message were handed out so far.
func (c *committer) changes(id esh3ar.ID) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.watched[id].changes
}

// current reports whether the row that an event brings is still what the store has, or will have. When it is
// not it says so to who asked.
func (r *recipient) current(e *event) bool {
	*e.stale = r.shard.committer.changes(e.item.Message.ID) != e.since
	return !*e.stale
}
