package webhook

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/jsonobject"
	"github.com/esh3artech/esh3ar/internal/notify"
	"github.com/esh3artech/esh3ar/internal/store"
)

const (
	// apiTime bounds how long a request of the API may take, apart from a test.
	apiTime = 10 * time.Second
	// conflicts is how often a change is tried again that met another one.
	conflicts = 3
	// maxTests is how many tests are under way at one time.
	maxTests = 8

	defaultOverlap = 24 * time.Hour
	maxOverlap     = 7 * 24 * time.Hour

	defaultPage, maxPage = 50, 200
)

// Caller is who sends a request of the API.
type Caller struct {
	Client string
	// Actor and Address are those of store.AuditEntry.
	Actor, Address string
}

// system is the caller when the server does something by itself.
const system = "system"

// Route is a route of the API.
type Route struct {
	// Pattern is the path as http.ServeMux takes it, Methods are those that it takes; GET stands for HEAD, too.
	Pattern string
	Methods []string
	// Serve answers a request, or returns how it is refused: an error that is an *esh3ar.Error or wraps
	// one.
	Serve func(w http.ResponseWriter, r *http.Request, who Caller) error
}

// Routes returns the routes of the API.
func (s *Service) Routes() []Route {
	get, post := []string{http.MethodGet}, []string{http.MethodPost}
	return []Route{
		{"/v1/webhooks", []string{http.MethodGet, http.MethodPost}, s.serveAll},
		{"/v1/webhooks/{id}", []string{http.MethodDelete, http.MethodGet, http.MethodPatch}, s.serveOne},
		{"/v1/webhooks/{id}/deliveries", get, s.serveDeliveries},
		{"/v1/webhooks/{id}/enable", post, s.serveEnable},
		{"/v1/webhooks/{id}/replay", post, s.serveReplay},
		{"/v1/webhooks/{id}/rotate-secret", post, s.serveRotate},
		{"/v1/webhooks/{id}/test", post, s.serveTest},
	}
}

// entry is one for the audit log about a webhook.
func entry(hook *store.Webhook, actor, action string, at time.Time, detail map[string]any) store.AuditEntry {
	e := store.AuditEntry{At: at, Actor: actor, Action: action, Client: hook.Client, Object: hook.ID}
	if detail != nil {
		e.Detail, _ = json.Marshal(detail) // strings and numbers, which always encode
	}
	return e
}

func (c *Caller) entry(hook *store.Webhook, action string, at time.Time, detail map[string]any) store.AuditEntry {
	e := entry(hook, c.Actor, action, at, detail)
	e.Address = c.Address
	return e
}

// storeError is how a failure of the store is told.
func storeError(err error) error {
	var e *esh3ar.Error
	switch {
	case errors.As(err, &e):
		return err
	case errors.Is(err, store.ErrNotFound):
		return esh3ar.Errorf(esh3ar.KindNotFound, "webhook_not_found", "there is no such webhook, or it is not yours")
	case errors.Is(err, store.ErrConflict):
		return esh3ar.Errorf(esh3ar.KindConflict, "changed_meanwhile", "the webhook is being changed by somebody else; try again")
	}
	return esh3ar.Errorf(esh3ar.KindUnavailable, "store_unavailable", "webhooks cannot be looked up at the moment; try again").
		After(time.Second).Because(err)
}

// newID returns the id of a new webhook.
func newID() string {
	var b [12]byte
	rand.Read(b[:]) // never fails since Go 1.24
	return "wh_" + hex.EncodeToString(b[:])
}

// serveAll lists webhooks and creates them.
func (s *Service) serveAll(w http.ResponseWriter, r *http.Request, who Caller) error {
	ctx, cancel := context.WithTimeout(r.Context(), apiTime)
	defer cancel()
	if err := noParameters(r); err != nil {
		return err
	}
	if r.Method == http.MethodPost {
		return s.create(ctx, w, r, who)
	}
	list, err := s.opts.Store.Webhooks(ctx, who.Client)
	if err != nil {
		return storeError(err)
	}
	shown := make([]view, 0, len(list))
	for i := range list {
		shown = append(shown, viewOf(&list[i], s.opts.Now()))
	}
	return answerJSON(w, http.StatusOK, struct {
		Webhooks []view `json:"webhooks"`
	}{shown})
}

func (s *Service) create(ctx context.Context, w http.ResponseWriter, r *http.Request, who Caller) error {
	now := s.opts.Now()
	hook := store.Webhook{
		ID: newID(), Client: who.Client, Format: formatEvent, BatchMax: 1, Secret: newSecret(), CreatedAt: now, UpdatedAt: now,
	}
	f, err := readFields(r)
	if err != nil {
		return err
	}
	if err := s.apply(ctx, &hook, f, true); err != nil {
		return err
	}
	if hook.Cursor, err = s.opts.Events.Place(ctx, notify.Start{}); err != nil {
		return err
	}
	err = s.opts.Store.CreateWebhook(ctx, hook, s.opts.MaxEndpoints, who.entry(&hook, "webhook.create", now, settings(&hook)))
	switch {
	case errors.Is(err, store.ErrTooMany):
		return esh3ar.Errorf(esh3ar.KindConflict, "too_many_webhooks", "there are %d webhooks, which is the limit; delete one first", s.opts.MaxEndpoints)
	case err != nil:
		return storeError(err)
	}
	s.lookSoon()
	v := viewOf(&hook, now)
	v.Secret = shown(hook.Secret)
	w.Header().Set("Location", "/v1/webhooks/"+hook.ID)
	return answerJSON(w, http.StatusCreated, v)
}

// settings are what the audit log says of a webhook.
func settings(hook *store.Webhook) map[string]any {
	return map[string]any{"url": hook.URL, "types": typesOf(hook), "format": hook.Format, "batch_max": hook.BatchMax, "status": statusOf(hook)}
}

// serveOne shows, changes and deletes a webhook.
func (s *Service) serveOne(w http.ResponseWriter, r *http.Request, who Caller) error {
	ctx, cancel := context.WithTimeout(r.Context(), apiTime)
	defer cancel()
	if err := noParameters(r); err != nil {
		return err
	}
	id := r.PathValue("id")
	switch r.Method {
	case http.MethodDelete:
		hook := store.Webhook{ID: id, Client: who.Client}
		if err := s.opts.Store.DeleteWebhook(ctx, who.Client, id, who.entry(&hook, "webhook.delete", s.opts.Now(), nil)); err != nil {
			return storeError(err)
		}
		s.lookSoon()
		w.WriteHeader(http.StatusNoContent)
		return nil
	case http.MethodPatch:
		f, err := readFields(r)
		if err != nil {
			return err
		}
		hook, err := s.change(ctx, who, id, "webhook.update", func(u *store.WebhookUpdate) (map[string]any, error) {
			was := u.Webhook.DisabledAt
			if err := s.apply(ctx, &u.Webhook, f, false); err != nil {
				return nil, err
			}
			u.Revive = !was.IsZero() && u.Webhook.DisabledAt.IsZero()
			return settings(&u.Webhook), nil
		})
		if err != nil {
			return err
		}
		return answerJSON(w, http.StatusOK, viewOf(&hook, s.opts.Now()))
	}
	hook, err := s.opts.Store.Webhook(ctx, who.Client, id)
	if err != nil {
		return storeError(err)
	}
	return answerJSON(w, http.StatusOK, viewOf(&hook, s.opts.Now()))
}

// change changes a webhook and returns it as it is then. Edit changes what is to be stored and returns what
// the audit log says of it; it may be called several times.
func (s *Service) change(ctx context.Context, who Caller, id, action string, edit func(*store.WebhookUpdate) (map[string]any, error)) (store.Webhook, error) {
	for try := 1; ; try++ {
		hook, err := s.opts.Store.Webhook(ctx, who.Client, id)
		if err != nil {
			return hook, storeError(err)
		}
		u := store.WebhookUpdate{Webhook: hook}
		u.Webhook.UpdatedAt = s.opts.Now()
		detail, err := edit(&u)
		if err != nil {
			return hook, err
		}
		err = s.opts.Store.UpdateWebhook(ctx, u, who.entry(&hook, action, u.Webhook.UpdatedAt, detail))
		if errors.Is(err, store.ErrConflict) && try < conflicts {
			continue
		}
		if err != nil {
			return hook, storeError(err)
		}
		s.lookSoon()
		if hook, err = s.opts.Store.Webhook(ctx, who.Client, id); err != nil {
			return hook, storeError(err)
		}
		return hook, nil
	}
}

// serveEnable has posting go on from where it was stopped.
func (s *Service) serveEnable(w http.ResponseWriter, r *http.Request, who Caller) error {
	ctx, cancel := context.WithTimeout(r.Context(), apiTime)
	defer cancel()
	if err := errors.Join(noParameters(r), noBody(r)); err != nil {
		return err
	}
	hook, err := s.change(ctx, who, r.PathValue("id"), "webhook.enable", func(u *store.WebhookUpdate) (map[string]any, error) {
		u.Webhook.DisabledAt, u.Webhook.DisabledReason, u.Revive = time.Time{}, "", true
		return nil, nil
	})
	if err != nil {
		return err
	}
	return answerJSON(w, http.StatusOK, viewOf(&hook, s.opts.Now()))
}

// serveRotate gives a webhook another secret. The old one signs too, for a while.
func (s *Service) serveRotate(w http.ResponseWriter, r *http.Request, who Caller) error {
	ctx, cancel := context.WithTimeout(r.Context(), apiTime)
	defer cancel()
	if err := noParameters(r); err != nil {
		return err
	}
	f, err := readFields(r)
	if err != nil {
		return err
	}
	overlap, err := f.seconds("overlap_seconds", defaultOverlap, maxOverlap)
	if err == nil {
		err = f.done()
	}
	if err != nil {
		return err
	}
	hook, err := s.change(ctx, who, r.PathValue("id"), "webhook.rotate_secret", func(u *store.WebhookUpdate) (map[string]any, error) {
		u.Webhook.OldSecret, u.Webhook.OldUntil = nil, time.Time{}
		if overlap > 0 {
			u.Webhook.OldSecret, u.Webhook.OldUntil = u.Webhook.Secret, u.Webhook.UpdatedAt.Add(overlap)
		}
		u.Webhook.Secret = newSecret()
		return map[string]any{"overlap_seconds": int(overlap / time.Second)}, nil
	})
	if err != nil {
		return err
	}
	v := viewOf(&hook, s.opts.Now())
	v.Secret = shown(hook.Secret)
	return answerJSON(w, http.StatusOK, v)
}

// serveReplay sets a webhook back, so that events from there on are posted again.
func (s *Service) serveReplay(w http.ResponseWriter, r *http.Request, who Caller) error {
	ctx, cancel := context.WithTimeout(r.Context(), apiTime)
	defer cancel()
	if err := noParameters(r); err != nil {
		return err
	}
	f, err := readFields(r)
	if err != nil {
		return err
	}
	at, cursor, err := f.since()
	if err == nil {
		err = f.done()
	}
	if err != nil {
		return err
	}
	now := s.opts.Now()
	detail := map[string]any{}
	switch {
	case cursor != "":
		cursor, err = s.opts.Events.Place(ctx, notify.Start{Cursor: cursor})
		detail["cursor"] = cursor
	case at.After(now):
		return esh3ar.Errorf(esh3ar.KindInvalid, "time_in_future", "the time is in the future; events of it come by themselves").At("/since")
	default:
		cursor, err = s.opts.Events.Since(ctx, at, now.Add(-s.opts.Retention))
		detail["since"] = jsonTime(at)
	}
	if err != nil {
		return atField(err)
	}
	hook, err := s.change(ctx, who, r.PathValue("id"), "webhook.replay", func(u *store.WebhookUpdate) (map[string]any, error) {
		u.Cursor = cursor
		return detail, nil
	})
	if err != nil {
		return err
	}
	return answerJSON(w, http.StatusOK, viewOf(&hook, now))
}

// serveTest posts an event of no message, and tells what came of it.
func (s *Service) serveTest(w http.ResponseWriter, r *http.Request, who Caller) error {
	if err := errors.Join(noParameters(r), noBody(r)); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), apiTime)
	defer cancel()
	hook, err := s.opts.Store.Webhook(ctx, who.Client, r.PathValue("id"))
	if err != nil {
		return storeError(err)
	}
	if !s.tests.TryAcquire(1) {
		return esh3ar.Errorf(esh3ar.KindUnavailable, "too_many_tests", "other webhooks are being tested; try again").After(s.opts.Timeout)
	}
	defer s.tests.Release(1)
	req := request{id: "test_" + rand.Text()}
	req.body, req.contentType = testBody(&hook, req.id, s.opts.Now())
	a := s.sender.post(r.Context(), &hook, &req)
	d := store.WebhookDelivery{
		At: a.at, RequestID: req.id, Count: 1, Attempt: 1, Outcome: a.outcome, StatusCode: a.status, Duration: a.took,
		Error: a.err, Response: a.response,
	}
	logging, cancel := context.WithTimeout(r.Context(), apiTime)
	defer cancel()
	if err := s.opts.Store.LogDelivery(logging, hook.ID, d, s.opts.KeepDeliveries, who.entry(&hook, "webhook.test", a.at, map[string]any{"outcome": a.outcome})); err != nil {
		return storeError(err)
	}
	return answerJSON(w, http.StatusOK, deliveryView(&d))
}

// serveDeliveries shows the log, newest first.
func (s *Service) serveDeliveries(w http.ResponseWriter, r *http.Request, who Caller) error {
	ctx, cancel := context.WithTimeout(r.Context(), apiTime)
	defer cancel()
	limit, before, outcome, err := parsePage(r.URL.RawQuery)
	if err != nil {
		return err
	}
	hook, err := s.opts.Store.Webhook(ctx, who.Client, r.PathValue("id"))
	if err != nil {
		return storeError(err)
	}
	list, err := s.opts.Store.Deliveries(ctx, hook.ID, before, outcome, limit+1)
	if err != nil {
		return storeError(err)
	}
	page := struct {
		Deliveries []delivery `json:"deliveries"`
		Next       string     `json:"next_cursor,omitempty"`
	}{Deliveries: []delivery{}}
	if len(list) > limit {
		list = list[:limit]
		page.Next = logCursor(list[limit-1].Number)
	}
	for i := range list {
		page.Deliveries = append(page.Deliveries, deliveryView(&list[i]))
	}
	return answerJSON(w, http.StatusOK, page)
}

// logCursor is the cursor behind the entry of that number.
func logCursor(number int64) string {
	return base64.RawURLEncoding.EncodeToString(binary.BigEndian.AppendUint64([]byte{1}, uint64(number)))
}

func parseLogCursor(s string) (int64, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != 9 || b[0] != 1 {
		return 0, esh3ar.Errorf(esh3ar.KindInvalid, "bad_cursor", "the cursor is not one that this listing gave out").At("cursor")
	}
	n := int64(binary.BigEndian.Uint64(b[1:]))
	if n < 1 {
		return 0, esh3ar.Errorf(esh3ar.KindInvalid, "bad_cursor", "the cursor is not one that this listing gave out").At("cursor")
	}
	return n, nil
}

// parsePage reads the query of the log.
func parsePage(raw string) (limit int, before int64, outcome string, err error) {
	limit = defaultPage
	values, err := url.ParseQuery(raw)
	if err != nil {
		return 0, 0, "", esh3ar.Errorf(esh3ar.KindInvalid, "malformed_query", "the query string is malformed; percent-encode its values")
	}
	for name, v := range values {
		switch {
		case len(v) > 1:
			err = esh3ar.Errorf(esh3ar.KindInvalid, "duplicate_parameter", "the query parameter is given twice").At(jsonobject.Clip(name))
		case v[0] == "" && slices.Contains([]string{"limit", "cursor", "outcome"}, name): // as if it were left out
		case name == "limit":
			if limit, err = strconv.Atoi(v[0]); err != nil || limit < 1 || limit > maxPage {
				err = esh3ar.Errorf(esh3ar.KindInvalid, "bad_limit", "the limit is a number from 1 to %d", maxPage).At(name)
			}
		case name == "cursor":
			before, err = parseLogCursor(v[0])
		case name == "outcome":
			switch outcome = v[0]; outcome {
			case outcomeDelivered, outcomeFailed, outcomeDeferred, outcomeGone, outcomeGivenUp:
			default:
				err = esh3ar.Errorf(esh3ar.KindInvalid, "unknown_outcome", "the outcome is one of delivered, failed, deferred, gone, given_up").At(name)
			}
		default:
			err = esh3ar.Errorf(esh3ar.KindInvalid, "unknown_parameter", "there is no such query parameter").At(jsonobject.Clip(name))
		}
		if err != nil {
			return 0, 0, "", err
		}
	}
	return limit, before, outcome, nil
}

func noParameters(r *http.Request) error {
	if r.URL.RawQuery != "" {
		return esh3ar.Errorf(esh3ar.KindInvalid, "unknown_parameter", "this route has no query parameters")
	}
	return nil
}

func answerJSON(w http.ResponseWriter, status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // fails only if the client has gone
	return nil
}
