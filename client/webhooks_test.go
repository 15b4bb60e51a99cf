package client_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar/client"
	"github.com/esh3artech/esh3ar/client/webhook"
	"github.com/esh3artech/esh3ar/internal/node"
)

// TestWebhooks manages a webhook of a real server from its creation to its end.
func TestWebhooks(t *testing.T) {
	cfg := node.DefaultConfig()
	cfg.Listen, cfg.Data, cfg.WebhookAllow = "127.0.0.1:0", t.TempDir(), []string{"127.0.0.0/8"}
	n, err := node.New(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	running, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(running) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	c, err := client.New("http://"+n.Info().Addr, n.Info().DevKey)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()

	type request struct {
		header http.Header
		events []client.Event
	}
	secrets := make(chan []string, 1)
	requests := make(chan request, 100)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		known := <-secrets
		secrets <- known
		events, err := webhook.Read(r, known...)
		if err != nil {
			t.Error(err)
			http.Error(w, "not verified", http.StatusBadRequest)
			return
		}
		requests <- request{r.Header.Clone(), events}
	}))
	defer receiver.Close()
	next := func() request {
		t.Helper()
		select {
		case r := <-requests:
			return r
		case <-ctx.Done():
			t.Fatal("no request came")
			return request{}
		}
	}

	private := "https://192.168.1.1/"
	_, err = c.CreateWebhook(ctx, client.WebhookSettings{URL: &private})
	var p *client.Problem
	if !errors.As(err, &p) || p.Code != client.CodeAddressNotAllowed || len(p.Errors) != 1 || p.Errors[0].Pointer != "/url" {
		t.Errorf("a private address: %v", err)
	}
	hook, err := c.CreateWebhook(ctx, client.WebhookSettings{URL: &receiver.URL, Types: []string{"message.queued"}})
	if err != nil || hook.Secret == "" || hook.Status != "enabled" || !slices.Equal(hook.Types, []string{"message.queued"}) {
		t.Fatalf("%+v, %v", hook, err)
	}
	secrets <- []string{hook.Secret}
	d, err := c.TestWebhook(ctx, hook.ID)
	if r := next(); err != nil || d.Outcome != "delivered" || d.StatusCode != 200 || r.events[0].Type != webhook.TypeTest || r.events[0].ID != d.WebhookID {
		t.Errorf("test: %+v, %v, %+v", d, err, r)
	}
	receipt, err := c.Send(ctx, client.Message{To: "alice", Content: "hello"})
	if err != nil {
		t.Fatal(err)
	}
	first := next()
	if first.events[0].Data.ID != receipt.ID || first.events[0].ID != first.header.Get("Webhook-Id") {
		t.Errorf("event: %+v", first)
	}
	// The request's own log follows its answer.
	var log []client.WebhookDelivery
	for len(log) < 2 && ctx.Err() == nil {
		log = nil
		for d, err := range c.WebhookDeliveries(ctx, hook.ID, "delivered") {
			if err != nil {
				t.Fatal(err)
			}
			log = append(log, d)
		}
	}
	if len(log) != 2 || log[0].Events[0].Message != receipt.ID || log[0].Events[0].Seq != 2 {
		t.Errorf("log: %+v", log)
	}

	rotated, err := c.RotateWebhookSecret(ctx, hook.ID, time.Hour)
	if err != nil || rotated.Secret == "" || rotated.Secret == hook.Secret || time.Until(rotated.PreviousSecretUntil) < 50*time.Minute {
		t.Fatalf("rotated: %+v, %v", rotated, err)
	}
	words := "orders"
	changed, err := c.UpdateWebhook(ctx, hook.ID, client.WebhookSettings{Description: &words})
	if err != nil || changed.Description != words || changed.URL != receiver.URL || changed.Secret != "" {
		t.Errorf("changed: %+v, %v", changed, err)
	}
	<-secrets
	secrets <- []string{rotated.Secret, hook.Secret}
	if _, err := c.ReplayWebhookFrom(ctx, hook.ID, hook.Cursor); err != nil {
		t.Fatal(err)
	}
	if again := next(); again.header.Get("Webhook-Id") != first.header.Get("Webhook-Id") {
		t.Errorf("replayed: %+v", again)
	}
	if _, err := c.ReplayWebhook(ctx, hook.ID, time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	if again := next(); again.events[0].Data.ID != receipt.ID {
		t.Errorf("replayed: %+v", again)
	}
	disabled := false
	if off, err := c.UpdateWebhook(ctx, hook.ID, client.WebhookSettings{Enabled: &disabled}); err != nil || off.Status != "disabled" || off.DisabledReason != "by_client" {
		t.Errorf("disabled: %+v, %v", off, err)
	}
	if on, err := c.EnableWebhook(ctx, hook.ID); err != nil || on.Status != "enabled" {
		t.Errorf("enabled: %+v, %v", on, err)
	}
	if one, err := c.Webhook(ctx, hook.ID); err != nil || one.Description != words {
		t.Errorf("%+v, %v", one, err)
	}
	if list, err := c.Webhooks(ctx); err != nil || len(list) != 1 || list[0].ID != hook.ID {
		t.Errorf("%+v, %v", list, err)
	}
	if err := c.DeleteWebhook(ctx, hook.ID); err != nil {
		t.Error(err)
	}
	if _, err := c.Webhook(ctx, hook.ID); code(err) != client.CodeWebhookNotFound {
		t.Errorf("deleted: %v", err)
	}
}
