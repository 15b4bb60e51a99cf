package dispatch

import (
	"context"
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
// Errors: those of Message; KindConflict with the code not_undelivered.
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
		reason += esh3ar.Reason(": " + why[:min(len(why), 200)])
	}
	return d.dead(ctx, client, id, event{kind: evDiscard, reason: reason})
}

func (d *Dispatcher) dead(ctx context.Context, client string, id esh3ar.ID, e event) (store.Row, error) {
	return d.ask(ctx, client, id, e, func(s esh3ar.Status) error {
		if s != esh3ar.StatusUndelivered {
			return esh3ar.Errorf(esh3ar.KindConflict, "not_undelivered", "message %s is %s, not in the dead-letter queue", id, s)
		}
		return nil
	})
}

// ask brings the event, with the message's row, to the message's recipient, waits until what came of it
// is stored, and returns the row as it is then. Allowed, if set, may refuse by the status of the row that
// is brought.
func (d *Dispatcher) ask(ctx context.Context, client string, id esh3ar.ID, e event, allowed func(esh3ar.Status) error) (store.Row, error) {
	if int(id.Shard()) >= len(d.shards) {
		return d.Message(ctx, client, id) // which tells that there is none
	}
	s := d.shards[id.Shard()]
	if err := s.looks.Acquire(ctx, 1); err != nil {
		return store.Row{}, esh3ar.Errorf(esh3ar.KindUnavailable, "store_unavailable",
			"the message store does not answer; ask again").After(time.Second).Because(err)
	}
	defer s.looks.Release(1)
	row, err := d.Message(ctx, client, id)
	if err == nil && allowed != nil {
		err = allowed(row.State.Status)
	}
	if err != nil || row.State.Status.Final() && row.State.Status != esh3ar.StatusUndelivered {
		return row, err
	}
	var handled sync.WaitGroup
	handled.Add(1)
	e.item, e.handled = itemOf(&row), &handled
	s.post(row.Message.To, e)
	handled.Wait()
	if !s.committer.settled(ctx) {
		return row, esh3ar.Errorf(esh3ar.KindOutcomeUnknown, "outcome_unknown",
			"the message store does not answer; ask for the message's status").After(time.Second).Because(ctx.Err())
	}
	return d.Message(ctx, client, id)
}
