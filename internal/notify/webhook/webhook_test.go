package webhook

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/notify"
	"github.com/esh3artech/esh3ar/internal/store"
)

// TestEventIsPosted: an event reaches the endpoint as docs/webhooks.md says, signed as an independent
// library wants it.
func TestEventIsPosted(t *testing.T) {
	w := newWorld(t)
	r := newReceiver(t, nil)
	h := w.create(r.url, `,"types":["message.delivered","read"],"description":"Größe"`)
	r.knows(h.Secret)
	w.message("other", life()...)
	id := w.message("c", life()...)
	g := r.await(1)[0]
	name := fmt.Sprintf("evt_%s_4", id)
	if e := g.events[0]; e.ID != name || e.Type != "message.delivered" || e.Data.ID != id.String() || e.Data.Seq != 4 {
		t.Errorf("event: %s", g.body)
	}
	for field, want := range map[string]string{
		"Webhook-Id": name, "Content-Type": "application/json", "User-Agent": userAgent, "Traceparent": traceParent,
	} {
		if g.header.Get(field) != want {
			t.Errorf("%s: %q, want %q", field, g.header.Get(field), want)
		}
	}
	w.eventually("progress is stored", func() bool { v := w.show(h.ID); return v.SucceededAt != "" && v.Cursor != h.Cursor })
	w.eventually("the request is logged", func() bool { return len(w.log(h.ID)) == 1 })
	if d := w.log(h.ID)[0]; d.WebhookID != name || d.Outcome != outcomeDelivered || d.StatusCode != 200 || d.Attempt != 1 ||
		d.EventCount != 1 || len(d.Events) != 1 || d.Events[0] != (eventName{id.String(), 4}) {
		t.Errorf("log: %+v", d)
	}
	w.message("c", esh3ar.StatusQueued)
	w.message("c", life()...)
	if all := r.await(2); len(all) != 2 || all[1].events[0].Type != "message.delivered" {
		t.Errorf("after the filter: %s", all[1].body)
	}
}

func TestCloudEventsInBatches(t *testing.T) {
	w := newWorld(t)
	release := make(chan struct{})
	r := newReceiver(t, func(n int, _ http.ResponseWriter, _ *http.Request, _ got) {
		if n == 1 {
			<-release // so that the others gather
		}
	})
	h := w.create(r.url, `,"batch_max":10,"format":"cloudevents"`)
	r.knows(h.Secret)
	w.message("c", esh3ar.StatusQueued)
	r.await(1)
	w.messages("c", 12, life()...)
	close(release)
	seen := 0
	w.eventually("all events are posted", func() bool {
		seen = 0
		for _, g := range r.requests() {
			seen += len(g.events)
		}
		return seen >= 37
	})
	ids := map[string]bool{}
	for _, g := range r.requests() {
		if g.header.Get("Content-Type") != "application/cloudevents-batch+json" || len(g.events) > 10 {
			t.Errorf("%d events of %s", len(g.events), g.header.Get("Content-Type"))
		}
		for _, e := range g.events {
			if e.SpecVersion != "1.0" {
				t.Errorf("not a CloudEvent: %s", g.body)
			}
		}
		id := g.header.Get("Webhook-Id")
		if ids[id] || len(g.events) > 1 != strings.HasPrefix(id, "bat_") {
			t.Errorf("webhook-id %s of %d events", id, len(g.events))
		}
		ids[id] = true
	}
	if seen != 37 || len(r.requests()) > 10 {
		t.Errorf("%d events in %d requests", seen, len(r.requests()))
	}
	inOrder(t, r)
}

// TestFailedEventWaitsAlone: an event that is refused is parked with what follows of its message, comes
// again, and holds up nobody.
func TestFailedEventWaitsAlone(t *testing.T) {
	w := newWorld(t)
	id := w.ids.New(time.Now(), 0)
	let := make(chan struct{})
	r := newReceiver(t, func(_ int, rw http.ResponseWriter, _ *http.Request, g got) {
		select {
		case <-let:
		default:
			if g.events[0].Data.ID == id.String() {
				http.Error(rw, "not this one", http.StatusBadRequest)
			}
		}
	})
	h := w.create(r.url, "")
	r.knows(h.Secret)
	w.messageOf(id, "c", life()...)
	w.eventually("the event is parked with those behind it", func() bool { return w.show(h.ID).Parked == 3 })
	for range 10 {
		w.message("c", life()...)
	}
	accepted := func() (n int) {
		for _, g := range r.requests() {
			if g.events[0].Data.ID != id.String() {
				n++
			}
		}
		return n
	}
	w.eventually("the others go on", func() bool { return accepted() == 30 })
	for _, g := range r.requests() {
		if g.events[0].Data.ID == id.String() && g.events[0].Data.Seq != 2 {
			t.Fatalf("event %d of a message whose first is refused", g.events[0].Data.Seq)
		}
	}
	w.eventually("several attempts are logged", func() bool {
		return slices.ContainsFunc(w.log(h.ID), func(d delivery) bool {
			return d.Outcome == outcomeFailed && d.Attempt >= 3 && d.StatusCode == 400 && d.Response == "not this one\n"
		})
	})
	close(let)
	w.eventually("nothing is parked", func() bool { return w.show(h.ID).Parked == 0 })
	var seqs []uint32
	for _, g := range r.requests() {
		if e := g.events[0]; e.Data.ID == id.String() && (len(seqs) == 0 || seqs[len(seqs)-1] != e.Data.Seq) {
			seqs = append(seqs, e.Data.Seq)
		}
	}
	if !slices.Equal(seqs, []uint32{2, 3, 4}) {
		t.Errorf("events of the message: %v", seqs)
	}
	inOrder(t, r)
}

// TestRestart: a service that ends in the middle of everything loses nothing.
func TestRestart(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Grace = 10 * time.Millisecond })
	hang := make(chan struct{})
	r := newReceiver(t, func(n int, rw http.ResponseWriter, req *http.Request, g got) {
		switch {
		case n%7 == 3:
			rw.WriteHeader(http.StatusInternalServerError)
		case n == 20:
			select {
			case <-hang:
			case <-req.Context().Done():
			}
		}
	})
	h := w.create(r.url, "")
	r.knows(h.Secret)
	for range 5 {
		w.messages("c", 4, life()...)
	}
	r.await(20)
	w.restart()
	for range 5 {
		w.messages("c", 4, life()...)
	}
	w.restart()
	delivered := func() int {
		seen := map[string]bool{}
		for _, g := range r.requests() {
			seen[g.events[0].ID] = true
		}
		return len(seen)
	}
	w.eventually("every event came", func() bool { return delivered() == 120 && w.show(h.ID).Parked == 0 })
	close(hang)
	w.eventually("everything is settled", func() bool {
		at, err := w.notify.Place(t.Context(), notify.Start{})
		return err == nil && w.show(h.ID).Cursor == at
	})
	inOrder(t, r)
	before := len(r.requests())
	w.restart()
	id := w.message("c", esh3ar.StatusQueued)
	all := r.await(before + 1)
	if e := all[before].events[0]; e.Data.ID != id.String() {
		t.Errorf("after everything was settled and a restart: %s", all[before].body)
	}
}

func TestRotation(t *testing.T) {
	w := newWorld(t)
	r := newReceiver(t, nil)
	h := w.create(r.url, "")
	w.message("c", esh3ar.StatusQueued)
	first := r.await(1)[0]
	var rotated view
	w.ask(http.MethodPost, "/v1/webhooks/"+h.ID+"/rotate-secret", `{"overlap_seconds":3600}`, &rotated)
	if rotated.Secret == "" || rotated.Secret == h.Secret || rotated.OldUntil == "" {
		t.Fatalf("rotated: %+v", rotated)
	}
	// Both secrets verify while they overlap.
	both := func() bool {
		w.message("c", esh3ar.StatusQueued)
		all := r.requests()
		last := all[len(all)-1]
		for _, secret := range []string{h.Secret, rotated.Secret} {
			verifier, err := standardwebhooks.NewWebhook(secret)
			if err != nil {
				t.Fatal(err)
			}
			if verifier.Verify(last.body, last.header) != nil {
				return false
			}
		}
		return len(strings.Fields(last.header.Get("Webhook-Signature"))) == 2
	}
	w.eventually("both secrets sign", both)
	if n := len(strings.Fields(first.header.Get("Webhook-Signature"))); n != 1 {
		t.Errorf("%d signatures before the rotation", n)
	}
	if w.show(h.ID).Secret != "" {
		t.Error("a secret is shown twice")
	}
	// Without an overlap the old one is worth nothing at once.
	var again view
	w.ask(http.MethodPost, "/v1/webhooks/"+h.ID+"/rotate-secret", `{"overlap_seconds":0}`, &again)
	if again.OldUntil != "" {
		t.Errorf("previous secret until %q", again.OldUntil)
	}
	verifier, err := standardwebhooks.NewWebhook(again.Secret)
	if err != nil {
		t.Fatal(err)
	}
	// What was under way when the secret was changed is still signed as before.
	w.eventually("the new secret alone signs", func() bool {
		w.message("c", esh3ar.StatusQueued)
		all := r.requests()
		last := all[len(all)-1]
		return verifier.Verify(last.body, last.header) == nil && len(strings.Fields(last.header.Get("Webhook-Signature"))) == 1
	})
}

func TestReplay(t *testing.T) {
	w := newWorld(t)
	r := newReceiver(t, nil)
	h := w.create(r.url, `,"types":["delivered"]`)
	r.knows(h.Secret)
	var ids []string
	var middle time.Time
	for i := range 6 {
		if i == 3 {
			middle = time.Now()
		}
		ids = append(ids, w.message("c", life()...).String())
	}
	r.await(6)
	w.eventually("all is settled", func() bool { return len(w.log(h.ID)) == 6 })
	names := func(all []got) (ids []string) {
		for _, g := range all {
			ids = append(ids, g.events[0].Data.ID)
		}
		slices.Sort(ids)
		return ids
	}
	w.ask(http.MethodPost, "/v1/webhooks/"+h.ID+"/replay", fmt.Sprintf(`{"since":%q}`, middle.Format(time.RFC3339Nano)), nil)
	all := r.await(9)
	slices.Sort(ids[3:])
	if !slices.Equal(names(all[6:]), ids[3:]) {
		t.Errorf("replayed %v, want %v", names(all[6:]), ids[3:])
	}
	for _, g := range all[6:] {
		if !slices.ContainsFunc(all[:6], func(o got) bool {
			return o.header.Get("Webhook-Id") == g.header.Get("Webhook-Id") && string(o.body) == string(g.body)
		}) {
			t.Errorf("a repeat differs: %s", g.body)
		}
	}
	w.eventually("all is settled", func() bool { return len(w.log(h.ID)) == 9 })
	w.ask(http.MethodPost, "/v1/webhooks/"+h.ID+"/replay", `{"cursor":"`+h.Cursor+`"}`, nil)
	if all = r.await(15); !slices.Equal(names(all[9:]), names(all[:6])) {
		t.Errorf("replayed %v", names(all[9:]))
	}
	// Nothing more comes than was asked for.
	id := w.message("c", life()...)
	if all = r.await(16); all[15].events[0].Data.ID != id.String() {
		t.Errorf("after the replay: %s", all[15].body)
	}
}

func TestTest(t *testing.T) {
	w := newWorld(t)
	r := newReceiver(t, func(n int, rw http.ResponseWriter, _ *http.Request, _ got) {
		if n == 2 {
			http.Error(rw, "no", http.StatusTeapot)
		}
	})
	h := w.create(r.url, "")
	r.knows(h.Secret)
	w.ask(http.MethodPatch, "/v1/webhooks/"+h.ID, `{"enabled":false}`, nil)
	var d delivery
	w.ask(http.MethodPost, "/v1/webhooks/"+h.ID+"/test", "", &d)
	g := r.await(1)[0]
	if d.Outcome != outcomeDelivered || d.StatusCode != 200 || g.events[0].Type != "webhook.test" || g.events[0].ID != d.WebhookID {
		t.Errorf("%+v, %s", d, g.body)
	}
	w.ask(http.MethodPost, "/v1/webhooks/"+h.ID+"/test", "", &d)
	if d.Outcome != outcomeFailed || d.StatusCode != http.StatusTeapot || d.Response != "no\n" || d.Error == "" {
		t.Errorf("%+v", d)
	}
	if log := w.log(h.ID); len(log) != 2 || log[0].StatusCode != http.StatusTeapot {
		t.Errorf("log: %+v", log)
	}
	if v := w.show(h.ID); v.FailingSince != "" || v.Status != "disabled" || v.DisabledReason != reasonByClient {
		t.Errorf("a test changed the webhook: %+v", v)
	}
}

// TestAudit: whoever changes a webhook is in the audit log, which never shows a secret.
func TestAudit(t *testing.T) {
	w := newWorld(t)
	r := newReceiver(t, nil)
	h := w.create(r.url, "")
	for _, call := range [][2]string{
		{http.MethodPatch, ""}, {http.MethodPost, "/rotate-secret"}, {http.MethodPost, "/test"}, {http.MethodPost, "/enable"},
		{http.MethodDelete, ""},
	} {
		w.ask(call[0], "/v1/webhooks/"+h.ID+call[1], "", nil)
	}
	entries, err := w.store.Audited(t.Context(), store.AuditQuery{Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	var actions []string
	for _, e := range entries {
		actions = append(actions, e.Action)
		if e.Actor != "c/key" || e.Address != "192.0.2.7" || e.Client != "c" || e.Object != h.ID {
			t.Errorf("entry: %+v", e)
		}
		if strings.Contains(string(e.Detail), "whsec") {
			t.Errorf("a secret in %s", e.Detail)
		}
		if e.Detail != nil && !json.Valid(e.Detail) {
			t.Errorf("detail: %s", e.Detail)
		}
	}
	want := []string{"webhook.delete", "webhook.enable", "webhook.test", "webhook.rotate_secret", "webhook.update", "webhook.create"}
	if !slices.Equal(actions, want) {
		t.Errorf("actions: %v", actions)
	}
}

// TestDisableAndEnable: what happens while a webhook is disabled comes when it is enabled, at once.
func TestDisableAndEnable(t *testing.T) {
	w := newWorld(t)
	r := newReceiver(t, nil)
	h := w.create(r.url, `,"types":["queued"]`)
	r.knows(h.Secret)
	for i := range 30 {
		w.ask(http.MethodPatch, "/v1/webhooks/"+h.ID, `{"enabled":false}`, nil)
		id := w.message("c", esh3ar.StatusQueued).String()
		w.ask(http.MethodPost, "/v1/webhooks/"+h.ID+"/enable", "", nil)
		w.eventually(fmt.Sprint("event ", i, " comes"), func() bool {
			return slices.ContainsFunc(r.requests(), func(g got) bool { return g.events[0].Data.ID == id })
		})
	}
}

// TestStopIsNoFailure: a request that the server breaks off because it stops is not held against the endpoint.
func TestStopIsNoFailure(t *testing.T) {
	w := newWorld(t, func(o *Options) {
		o.Grace = 10 * time.Millisecond
		o.Backoff.Base = time.Hour
		o.Backoff.Cap = time.Hour
	})
	r := newReceiver(t, func(n int, _ http.ResponseWriter, req *http.Request, _ got) {
		if n == 1 {
			<-req.Context().Done()
		}
	})
	h := w.create(r.url, "")
	w.message("c", esh3ar.StatusQueued)
	r.await(1)
	w.stop()
	stored, err := w.store.Webhook(t.Context(), "c", h.ID)
	if err != nil || !stored.FailingSince.IsZero() || stored.Parked != 0 {
		t.Errorf("after the stop: %+v, %v", stored, err)
	}
	w.start()
	all := r.await(2)
	if all[0].header.Get("Webhook-Id") != all[1].header.Get("Webhook-Id") {
		t.Error("the event did not come again")
	}
	w.eventually("the request is logged", func() bool { return len(w.log(h.ID)) == 1 })
	if d := w.log(h.ID)[0]; d.Attempt != 1 || d.Outcome != outcomeDelivered {
		t.Errorf("log: %+v", d)
	}
}
