package webhook

import (
	"context"
	"errors"
	"time"

	"github.com/esh3artech/esh3ar/internal/store"
)

// save begins to save what has changed, if it is time. One save is under way at one time; one that failed
// is repeated as it was before the next.
func (w *worker) save(now time.Time) {
	if w.saving == nil {
		if w.dirty.IsZero() || now.Before(w.dirty.Add(saveEvery)) && len(w.changed) < readEvents {
			return
		}
		w.saving = w.snapshot()
	} else if w.underWay || now.Before(w.saveAt) {
		return
	}
	w.underWay = true
	save := *w.saving
	go func() { w.saved <- w.s.opts.Store.SaveWebhook(context.Background(), save) }() // the store bounds it
}

// snapshot is everything that has changed since the last one. The events that it parks are settled with
// it: the cursor that it has may be behind them.
func (w *worker) snapshot() *store.WebhookSave {
	s := &store.WebhookSave{
		ID: w.ref.ID, Epoch: w.hook.Epoch, Holder: w.s.opts.Holder, Progress: w.progress, Unpark: w.removed, Deliveries: w.logged, KeepDeliveries: w.s.opts.KeepDeliveries,
	}
	for _, it := range w.changed {
		it.stored = true
		s.Park = append(s.Park, it.parkedEvent())
	}
	clear(w.changed)
	w.removed, w.logged, w.dirty = nil, nil, time.Time{}
	return s
}

// noteSaved takes note of what came of a save. It reports whether the endpoint is not ours any more.
func (w *worker) noteSaved(err error, now time.Time) (changed bool) {
	w.underWay = false
	switch {
	case err == nil:
		w.saving, w.retries = nil, 0
		return false
	case errors.Is(err, store.ErrConflict):
		w.saving = nil
		return true
	}
	w.s.storeFailed(err)
	w.retries++
	w.saveAt = now.Add(retryStore(w.retries))
	return false
}

// finish waits for what is under way, saves what came of it, and disables the endpoint if that was
// decided. Changed says that what was saved would be refused.
func (w *worker) finish(ctx, grace context.Context, changed bool) {
	for w.inFlight > 0 || w.underWay {
		select {
		case r := <-w.results:
			w.settle(r, w.s.opts.Now())
		case err := <-w.saved:
			changed = w.noteSaved(err, w.s.opts.Now()) || changed
		}
	}
	for !changed && (w.saving != nil || !w.dirty.IsZero()) {
		if w.saving == nil {
			w.saving = w.snapshot()
		}
		changed = w.noteSaved(w.s.opts.Store.SaveWebhook(grace, *w.saving), w.s.opts.Now())
		if w.saving != nil && !changed && !w.pause(ctx, retryStore(w.retries)) {
			return // what could not be saved comes again
		}
	}
	if !changed && w.disable != "" {
		w.stop(ctx, grace)
	}
}

// stop disables the endpoint, with a notice: in the audit log, in the server's log, and to whoever asks for
// the endpoint.
func (w *worker) stop(ctx, grace context.Context) {
	for failures := 1; ; failures++ {
		now := w.s.opts.Now()
		hook := *w.hook
		hook.DisabledAt, hook.DisabledReason, hook.UpdatedAt = now, w.disable, now
		err := w.s.opts.Store.UpdateWebhook(grace, store.WebhookUpdate{Webhook: hook}, entry(&hook, system, "webhook.disable", now, map[string]any{
			"reason": w.disable, "failing_since": jsonTime(w.progress.FailingSince),
		}))
		switch {
		case err == nil:
			w.s.metrics.disabled.WithLabelValues(w.disable).Inc()
			w.log.Warn("webhook: disabled", "reason", w.disable, "failing_since", w.progress.FailingSince)
			return
		case errors.Is(err, store.ErrConflict), errors.Is(err, store.ErrNotFound):
			return // its client has changed it: what is right now shows itself again
		}
		w.s.storeFailed(err)
		if !w.pause(ctx, retryStore(failures)) {
			return
		}
	}
}

// logRequest adds a request to the endpoint's log.
func (w *worker) logRequest(r *result) {
	a := &r.answer
	d := store.WebhookDelivery{
		At: a.at, RequestID: r.id, Count: len(r.batch), Attempt: r.batch[0].attempts, Outcome: a.outcome,
		StatusCode: a.status, Duration: a.took, Error: a.err, Response: a.response,
	}
	for _, it := range r.batch[:min(len(r.batch), loggedKeys)] {
		d.Events = append(d.Events, keyOf(&it.event))
	}
	if len(w.logged) == maxLogged {
		// The oldest one that succeeded makes room, or the oldest of all.
		at := 0
		for i := range w.logged {
			if w.logged[i].Outcome == outcomeDelivered {
				at = i
				break
			}
		}
		w.logged = append(w.logged[:at], w.logged[at+1:]...)
	}
	w.logged = append(w.logged, d)
}
