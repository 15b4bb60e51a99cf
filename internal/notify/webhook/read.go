package webhook

import (
	"context"
	"errors"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/notify"
)

// read reads the endpoint's events from its cursor on, and hands them over as they are wanted, until ctx
// ends or the server drains.
func (w *worker) read(ctx context.Context) {
	cursor := w.hook.Cursor
	for failures := 0; ctx.Err() == nil; {
		next, err := w.follow(ctx, cursor)
		if next != cursor {
			cursor, failures = next, 0
		}
		if oldest := notify.Oldest(err); oldest != "" {
			w.noteLost(ctx)
			if !w.tell(ctx, news{cursor: oldest, lost: true}) {
				return
			}
			cursor = oldest
			continue
		}
		if errors.Is(err, notify.ErrStopping) {
			return
		}
		if ctx.Err() == nil {
			w.s.storeFailed(err)
		}
		failures++
		if !w.pause(ctx, retryStore(failures)) {
			return
		}
	}
}

// follow hands over the events behind a cursor. It returns where it came to, and why it ended.
func (w *worker) follow(ctx context.Context, cursor string) (string, error) {
	f, err := w.s.opts.Events.Watch(ctx, w.hook.Client, notify.Start{Cursor: cursor}, notify.Only(w.hook.Statuses...))
	if err != nil {
		return cursor, err
	}
	defer f.Close()
	for {
		found, err := f.Next(ctx, readEvents, idle)
		if err != nil {
			return cursor, err
		}
		n := news{cursor: f.Cursor(), events: make([]esh3ar.Event, len(found))}
		if n.cursor == cursor {
			continue
		}
		for i := range found {
			n.events[i] = found[i].Event
		}
		if !w.tell(ctx, n) {
			return cursor, ctx.Err()
		}
		cursor = n.cursor
	}
}

// tell hands news over. It reports false if ctx ended first.
func (w *worker) tell(ctx context.Context, n news) bool {
	select {
	case w.news <- n:
		return true
	case <-ctx.Done():
		return false
	}
}

// noteLost says in the server's log and in the audit log that events are lost.
func (w *worker) noteLost(ctx context.Context) {
	w.s.metrics.lost.Inc()
	w.log.Warn("webhook: events that were not posted are not kept any more; going on with those that are")
	if err := w.s.opts.Store.Audit(ctx, entry(w.hook, system, "webhook.events_lost", w.s.opts.Now(), nil)); err != nil {
		w.s.storeFailed(err)
	}
}
