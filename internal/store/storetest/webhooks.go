package storetest

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
)

// webhook returns a webhook as it is stored when it was created with that id.
func (w *world) webhook(client, id string) store.Webhook {
	return store.Webhook{
		ID: id, Client: client, URL: "https://example.com/ورد?a=b", Description: "Größe",
		Statuses: []esh3ar.Status{esh3ar.StatusDelivered, esh3ar.StatusRead}, Format: "event", BatchMax: 7,
		Secret: []byte("\x00secret\xff"), CreatedAt: w.now, UpdatedAt: w.now, Version: 1, Epoch: 1,
		WebhookProgress: store.WebhookProgress{Cursor: "cursor"},
	}
}

func (w *world) createWebhook(h store.Webhook) {
	w.Helper()
	w.is("create "+h.ID, w.s.CreateWebhook(w.Context(), h, 100, w.webhookEntry("webhook.create", &h)), nil)
}

// entry returns an entry for the audit log.
func (w *world) webhookEntry(action string, h *store.Webhook) store.AuditEntry {
	return store.AuditEntry{At: w.now, Actor: h.Client + "/key", Address: "192.0.2.1", Action: action, Client: h.Client, Object: h.ID}
}

// actions returns what the audit log says, newest first.
func (w *world) actions() (list []string) {
	w.Helper()
	entries, err := w.s.Audited(w.Context(), store.AuditQuery{Limit: 100})
	w.is("audit log", err, nil)
	for _, e := range entries {
		list = append(list, e.Action+" "+e.Object)
	}
	return list
}

func (w *world) sameWebhook(want store.Webhook) {
	w.Helper()
	got, err := w.s.Webhook(w.Context(), want.Client, want.ID)
	w.is("webhook", err, nil)
	w.same("webhook", got, want)
}

func testWebhooks(w *world) {
	a, b, other := w.webhook("c", "a"), w.webhook("c", "b"), w.webhook("d", "o")
	b.CreatedAt, b.Statuses, b.OldSecret, b.OldUntil = w.tick(time.Second), nil, []byte("old"), w.now.Add(time.Hour)
	b.DisabledAt, b.DisabledReason = w.now, "gone"
	b.FailingSince, b.ResumeAt, b.SucceededAt, b.LostAt = w.now.Add(1e6), w.now.Add(2e6), w.now.Add(3e6), w.now.Add(4e6)
	for _, h := range []store.Webhook{b, a, other} {
		w.createWebhook(h)
	}
	for _, h := range []store.Webhook{a, b, other} {
		w.sameWebhook(h)
	}
	w.is("another client's", second(w.s.Webhook(w.Context(), "d", "a")), store.ErrNotFound)
	w.is("none", second(w.s.Webhook(w.Context(), "c", "x")), store.ErrNotFound)
	list, err := w.s.Webhooks(w.Context(), "c")
	w.is("list", err, nil)
	w.same("list", list, []store.Webhook{a, b})
	w.same("held", w.held("n", time.Hour), []store.WebhookRef{{ID: "a", Version: 1}, {ID: "o", Version: 1}})

	w.is("an id that is taken", w.s.CreateWebhook(w.Context(), a, 100, w.webhookEntry("twice", &a)), store.ErrPermanent)
	w.is("too many", w.s.CreateWebhook(w.Context(), w.webhook("c", "n"), 2, w.webhookEntry("many", &a)), store.ErrTooMany)

	// A change leaves the progress alone unless it says otherwise.
	changed := a
	changed.URL, changed.Description, changed.Statuses, changed.Format, changed.BatchMax = "https://x", "", nil, "other", 1
	changed.Secret, changed.OldSecret, changed.OldUntil = []byte("new"), a.Secret, w.tick(time.Minute)
	changed.UpdatedAt, changed.DisabledAt, changed.DisabledReason = w.now, w.now, "why"
	update := changed
	update.Cursor, update.FailingSince = "not this", w.now
	w.is("update", w.s.UpdateWebhook(w.Context(), store.WebhookUpdate{Webhook: update}, w.webhookEntry("webhook.update", &a)), nil)
	changed.Version = 2
	w.sameWebhook(changed)
	w.is("update of an old version", w.s.UpdateWebhook(w.Context(), store.WebhookUpdate{Webhook: update}, w.webhookEntry("late", &a)), store.ErrConflict)
	update.ID = "x"
	w.is("update of none", w.s.UpdateWebhook(w.Context(), store.WebhookUpdate{Webhook: update}, w.webhookEntry("none", &a)), store.ErrNotFound)
	w.is("update", w.s.UpdateWebhook(w.Context(), store.WebhookUpdate{Webhook: changed, Cursor: "back"}, w.webhookEntry("webhook.replay", &a)), nil)
	changed.Version, changed.Epoch, changed.Cursor = 3, 2, "back"
	w.sameWebhook(changed)

	w.is("delete of another client's", w.s.DeleteWebhook(w.Context(), "d", "a", w.webhookEntry("steal", &a)), store.ErrNotFound)
	w.is("delete", w.s.DeleteWebhook(w.Context(), "c", "a", w.webhookEntry("webhook.delete", &a)), nil)
	w.is("deleted", second(w.s.Webhook(w.Context(), "c", "a")), store.ErrNotFound)
	w.is("delete again", w.s.DeleteWebhook(w.Context(), "c", "a", w.webhookEntry("again", &a)), store.ErrNotFound)
	w.sameWebhook(b)
	w.same("audit log", w.actions(), []string{"webhook.delete a", "webhook.replay a", "webhook.update a", "webhook.create o", "webhook.create a", "webhook.create b"})
}

// held returns what a holder holds, by id.
func (w *world) held(holder string, d time.Duration) []store.WebhookRef {
	w.Helper()
	refs, err := w.s.HoldWebhooks(w.Context(), holder, d)
	w.is("hold", err, nil)
	slices.SortFunc(refs, func(a, b store.WebhookRef) int { return strings.Compare(a.ID, b.ID) })
	return refs
}

// testWebhookHolders: one node at a time posts to a webhook.
func testWebhookHolders(w *world) {
	a, b := w.webhook("c", "a"), w.webhook("c", "b")
	w.createWebhook(a)
	both := []store.WebhookRef{{ID: "a", Version: 1}, {ID: "b", Version: 1}}
	w.same("held by m", w.held("m", time.Hour), both[:1])
	w.same("held by n", len(w.held("n", time.Hour)), 0)
	w.createWebhook(b)
	w.same("held by n", w.held("n", time.Millisecond), both[1:])
	w.same("held by m", w.held("m", time.Hour)[0], both[0])

	save := store.WebhookSave{ID: "a", Epoch: 1, Progress: store.WebhookProgress{Cursor: "on"}}
	for holder, want := range map[string]error{"n": store.ErrConflict, "": store.ErrConflict, "m": nil} {
		save.Holder = holder
		w.is("save by "+holder, w.s.SaveWebhook(w.Context(), save), want)
	}
	// A right ends by itself, and before that when it is given up.
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for len(w.held("m", time.Hour)) < 2 {
		select {
		case <-tick.C:
		case <-deadline.C:
			w.Fatal("a right does not end")
		}
	}
	w.same("held by n", len(w.held("n", time.Hour)), 0)
	save.Holder = "m"
	w.is("release", w.s.ReleaseWebhooks(w.Context(), "m"), nil)
	w.is("save after the release", w.s.SaveWebhook(w.Context(), save), store.ErrConflict)
	w.same("held by n", w.held("n", time.Hour), both)
	w.same("held by m", len(w.held("m", time.Hour)), 0)
}

func second[T any](_ T, err error) error { return err }

// testWebhookLimit has many callers create webhooks of one client at once.
func testWebhookLimit(w *world) {
	const most, callers = 3, 8
	var created atomic.Int32
	var wg sync.WaitGroup
	for i := range callers {
		h := w.webhook("c", fmt.Sprint(i))
		e := w.webhookEntry("webhook.create", &h)
		wg.Go(func() {
			if err := w.s.CreateWebhook(w.Context(), h, most, e); err == nil {
				created.Add(1)
			}
		})
	}
	wg.Wait()
	list, err := w.s.Webhooks(w.Context(), "c")
	w.is("list", err, nil)
	if len(list) != most || created.Load() != most || len(w.actions()) != most {
		w.Errorf("%d webhooks, %d created, %d entries", len(list), created.Load(), len(w.actions()))
	}
}

func testWebhookProgress(w *world) {
	h := w.webhook("c", "a")
	w.createWebhook(h)
	w.createWebhook(w.webhook("c", "b"))
	ref := store.WebhookRef{ID: "a", Version: 1}
	w.held("n", time.Hour)
	load := func() []store.ParkedEvent {
		w.Helper()
		got, parked, err := w.s.WebhookByRef(w.Context(), ref)
		w.is("by ref", err, nil)
		h.Parked = len(parked)
		w.same("by ref", got, h)
		w.sameWebhook(h)
		return parked
	}
	if parked := load(); len(parked) != 0 {
		w.Fatalf("parked of a fresh webhook: %+v", parked)
	}
	event := func(m *esh3ar.Message, seq uint32) store.ParkedEvent {
		return store.ParkedEvent{
			Event: esh3ar.Event{
				Message: m.ID, Client: "c", To: "\x00\xff any", TraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
				Transition: esh3ar.Transition{Seq: seq, Status: esh3ar.StatusQueued, At: w.now, Attempt: 2, Reason: esh3ar.ReasonAckTimeout},
			},
			NextAt: w.now.Add(time.Duration(seq) * time.Second),
		}
	}
	m, n := w.message(1, "c", "r"), w.message(1, "c", "s")
	m10, m2, n3 := event(m, 10), event(m, 2), event(n, 3)
	m2.Attempts, m2.FirstAt = 3, w.now
	h.WebhookProgress = store.WebhookProgress{Cursor: "on", FailingSince: w.now, ResumeAt: w.now.Add(time.Hour), SucceededAt: w.now, LostAt: w.now}
	save := store.WebhookSave{ID: "a", Epoch: 1, Holder: "n", Progress: h.WebhookProgress, Park: []store.ParkedEvent{n3, m10, m2}}
	w.is("save", w.s.SaveWebhook(w.Context(), save), nil)
	w.is("save again", w.s.SaveWebhook(w.Context(), save), nil)
	parked := load()
	w.same("parked", slices.DeleteFunc(slices.Clone(parked), func(p store.ParkedEvent) bool { return p.Event.Message != m.ID }), []store.ParkedEvent{m2, m10})
	w.same("parked", slices.DeleteFunc(parked, func(p store.ParkedEvent) bool { return p.Event.Message == m.ID }), []store.ParkedEvent{n3})

	// Another webhook has nothing of it.
	_, parked, err := w.s.WebhookByRef(w.Context(), store.WebhookRef{ID: "b", Version: 1})
	w.is("by ref", err, nil)
	w.same("parked of another", len(parked), 0)

	m10.Attempts, m10.NextAt = 1, w.tick(time.Minute)
	h.WebhookProgress = store.WebhookProgress{Cursor: "further"}
	w.is("save", w.s.SaveWebhook(w.Context(), store.WebhookSave{
		ID: "a", Epoch: 1, Holder: "n", Progress: h.WebhookProgress, Park: []store.ParkedEvent{m10},
		Unpark: []store.EventKey{{Message: m.ID, Seq: 2}, {Message: n.ID, Seq: 3}, {Message: n.ID, Seq: 4}},
	}), nil)
	w.same("parked", load(), []store.ParkedEvent{m10})

	// Who holds an old epoch moves nothing.
	for _, old := range []store.WebhookSave{{ID: "a", Epoch: 2}, {ID: "x", Epoch: 1}} {
		old.Holder, old.Progress.Cursor = "n", "no"
		w.is("save of another epoch", w.s.SaveWebhook(w.Context(), old), store.ErrConflict)
	}
	_, _, err = w.s.WebhookByRef(w.Context(), store.WebhookRef{ID: "a", Version: 2})
	w.is("another version", err, store.ErrConflict)
	_, _, err = w.s.WebhookByRef(w.Context(), store.WebhookRef{ID: "x", Version: 2})
	w.is("none", err, store.ErrNotFound)
	w.same("parked", load(), []store.ParkedEvent{m10})

	// Another version alone keeps nobody from it.
	h.UpdatedAt = w.tick(time.Second)
	w.is("update", w.s.UpdateWebhook(w.Context(), store.WebhookUpdate{Webhook: h}, w.webhookEntry("webhook.update", &h)), nil)
	ref.Version, h.Version, h.Cursor = 2, 2, "after the update"
	w.is("save", w.s.SaveWebhook(w.Context(), store.WebhookSave{ID: "a", Epoch: 1, Holder: "n", Progress: h.WebhookProgress}), nil)
	w.same("parked", load(), []store.ParkedEvent{m10})

	// Reviving forgets failures.
	h.WebhookProgress = store.WebhookProgress{Cursor: "further", FailingSince: w.now, ResumeAt: w.now, SucceededAt: w.now, LostAt: w.now}
	w.is("save", w.s.SaveWebhook(w.Context(), store.WebhookSave{ID: "a", Epoch: 1, Holder: "n", Progress: h.WebhookProgress}), nil)
	h.UpdatedAt = w.tick(time.Hour)
	w.is("revive", w.s.UpdateWebhook(w.Context(), store.WebhookUpdate{Webhook: h, Revive: true}, w.webhookEntry("webhook.enable", &h)), nil)
	w.is("save of another epoch", w.s.SaveWebhook(w.Context(), save), store.ErrConflict)
	ref.Version, h.Version, h.Epoch, h.FailingSince, h.ResumeAt = 3, 3, 2, time.Time{}, time.Time{}
	m10.Attempts, m10.FirstAt, m10.NextAt = 0, time.Time{}, w.now
	w.same("parked", load(), []store.ParkedEvent{m10})

	w.is("delete", w.s.DeleteWebhook(w.Context(), "c", "a", w.webhookEntry("webhook.delete", &h)), nil)
	w.is("save of a deleted one", w.s.SaveWebhook(w.Context(), store.WebhookSave{ID: "a", Epoch: 2, Holder: "n"}), store.ErrConflict)
	h = w.webhook("c", "a")
	w.createWebhook(h)
	ref.Version = 1
	w.same("parked of a new one", len(load()), 0)
}

func testWebhookLog(w *world) {
	a, b := w.webhook("c", "a"), w.webhook("c", "b")
	w.createWebhook(a)
	w.createWebhook(b)
	w.held("n", time.Hour)
	m := w.message(1, "c", "r")
	delivery := func(i int) store.WebhookDelivery {
		d := store.WebhookDelivery{
			At: w.now.Add(time.Duration(i) * time.Minute), RequestID: fmt.Sprint("evt_", i), Count: 1, Attempt: i, Outcome: "delivered",
			Events: []store.EventKey{{Message: m.ID, Seq: uint32(i)}}, StatusCode: 200, Duration: 1234 * time.Microsecond,
		}
		if i%2 == 0 {
			d.Outcome, d.StatusCode, d.Error, d.Response = "failed", 500, "no", "Größe"
			d.Events, d.Count = append(d.Events, store.EventKey{Message: w.ids.New(w.now, 2), Seq: 1 << 31}), 200
		}
		return d
	}
	const keep = 6
	var all []store.WebhookDelivery
	for i := range 4 {
		part := []store.WebhookDelivery{delivery(3*i + 1), delivery(3*i + 2), delivery(3*i + 3)}
		all = append(all, part...)
		for _, h := range []store.Webhook{a, b} {
			w.is("save", w.s.SaveWebhook(w.Context(), store.WebhookSave{
				ID: h.ID, Epoch: 1, Holder: "n", Progress: h.WebhookProgress, Deliveries: part, KeepDeliveries: keep,
			}), nil)
		}
	}
	slices.Reverse(all)
	list := func(id string, before int64, outcome string, limit int) []store.WebhookDelivery {
		w.Helper()
		got, err := w.s.Deliveries(w.Context(), id, before, outcome, limit)
		w.is("deliveries", err, nil)
		return got
	}
	plain := func(list []store.WebhookDelivery) []store.WebhookDelivery {
		out := slices.Clone(list)
		for i := range out {
			if i > 0 && list[i].Number >= list[i-1].Number || list[i].Number < 1 {
				w.Fatalf("number %d after %d", list[i].Number, list[max(i-1, 0)].Number)
			}
			out[i].Number = 0
		}
		return out
	}
	w.same("log", plain(list("a", 0, "", 100)), all[:keep])
	first := list("a", 0, "", 2)
	w.same("log", plain(first), all[:2])
	w.same("log", plain(list("a", first[1].Number, "", 2)), all[2:4])
	failed := plain(list("a", 0, "failed", 100))
	w.same("failed", failed, slices.DeleteFunc(slices.Clone(all[:keep]), func(d store.WebhookDelivery) bool { return d.Outcome != "failed" }))
	w.same("of none", len(list("x", 0, "", 10)), 0)

	one := delivery(100)
	w.is("log", w.s.LogDelivery(w.Context(), "a", one, keep, w.webhookEntry("webhook.test", &a)), nil)
	w.same("log", plain(list("a", 0, "", 100)), append([]store.WebhookDelivery{one}, all[:keep-1]...))
	w.same("audit", w.actions()[0], "webhook.test a")

	for more := true; more; {
		var err error
		more, err = w.s.PruneDeliveries(w.Context(), w.now.Add(11*time.Minute))
		w.is("prune", err, nil)
	}
	w.same("log", plain(list("a", 0, "", 100)), append([]store.WebhookDelivery{one}, all[:2]...))
	w.is("delete", w.s.DeleteWebhook(w.Context(), "c", "a", w.webhookEntry("webhook.delete", &a)), nil)
	w.same("log of a deleted one", len(list("a", 0, "", 100)), 0)
	w.same("log of another", plain(list("b", 0, "", 100)), all[:2])
}

func testEventTime(w *world) {
	epoch := w.claim(1).Epoch
	w.is("before the first", second(w.s.EventTime(w.Context(), 1, 1)), store.ErrForgotten)
	var times []time.Time
	for range 3 {
		w.commit(1, epoch, w.change(w.message(1, "c", "r"), life(w.now, esh3ar.StatusQueued)))
		times = append(times, w.now)
		w.tick(time.Hour)
	}
	for i, want := range times {
		at, err := w.s.EventTime(w.Context(), 1, int64(i+1))
		w.is("time", err, nil)
		w.same("time", at, want)
	}
	w.is("another shard", second(w.s.EventTime(w.Context(), 2, 1)), store.ErrForgotten)
	w.is("after the last", second(w.s.EventTime(w.Context(), 1, 4)), store.ErrForgotten)
}

// testWebhooksOfADeletedClient: they go with their client.
func testWebhooksOfADeletedClient(w *world) {
	w.putClient(esh3ar.Client{ID: "c", CreatedAt: w.now})
	gone, stays := w.webhook("c", "a"), w.webhook("d", "b")
	w.createWebhook(gone)
	w.createWebhook(stays)
	w.held("n", time.Hour)
	for _, id := range []string{"a", "b"} {
		w.is("save", w.s.SaveWebhook(w.Context(), store.WebhookSave{
			ID: id, Epoch: 1, Holder: "n", Progress: gone.WebhookProgress, KeepDeliveries: 10,
			Park:       []store.ParkedEvent{{Event: esh3ar.Event{Message: w.ids.New(w.now, 1), Client: "c", Transition: esh3ar.Transition{Seq: 2, Status: esh3ar.StatusQueued, At: w.now}}, NextAt: w.now}},
			Deliveries: []store.WebhookDelivery{{At: w.now, Outcome: "failed"}},
		}), nil)
	}
	w.is("delete", w.s.DeleteClient(w.Context(), "c", w.entry("client.delete", "c", "c")), nil)
	w.is("webhook of a deleted client", second(w.s.Webhook(w.Context(), "c", "a")), store.ErrNotFound)
	log, err := w.s.Deliveries(w.Context(), "a", 0, "", 10)
	w.is("log", err, nil)
	w.same("log", len(log), 0)
	w.same("held", w.held("n", time.Hour), []store.WebhookRef{{ID: "b", Version: 1}})
	stays.Parked = 1
	w.sameWebhook(stays)
	// Nothing of it comes back under the same id.
	w.createWebhook(gone)
	w.sameWebhook(gone)
}
