package client

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Webhook is an address that the platform posts events to. Package webhook is for what receives them.
type Webhook struct {
	ID          string `json:"id"`
	URL         string `json:"url"`
	Description string `json:"description"`
	// Types are the types of events that are posted.
	Types    []string `json:"types"`
	Format   string   `json:"format"`
	BatchMax int      `json:"batch_max"`
	// Status is "enabled" or "disabled", and then DisabledReason says why: "by_client", "gone" after an
	// answer of 410, "failing" when nothing had succeeded for days.
	Status         string    `json:"status"`
	DisabledReason string    `json:"disabled_reason,omitempty"`
	DisabledAt     time.Time `json:"disabled_at,omitzero"`
	// FailingSince is when the first of the failures happened that no success has followed.
	FailingSince  time.Time `json:"failing_since,omitzero"`
	LastSuccessAt time.Time `json:"last_success_at,omitzero"`
	// ResumeAt is until when the receiver asked to be left alone.
	ResumeAt time.Time `json:"resume_at,omitzero"`
	// EventsLostAt is when events were last found to be forgotten before they could be posted.
	EventsLostAt time.Time `json:"events_lost_at,omitzero"`
	// Parked is how many events wait for another attempt.
	Parked int `json:"parked"`
	// Cursor is a place in the client's events: what comes before it is posted or parked.
	Cursor string `json:"cursor"`
	// Secret signs requests. It is shown by CreateWebhook and RotateWebhookSecret alone.
	Secret string `json:"secret,omitempty"`
	// PreviousSecretUntil is how long the secret before signs requests, too.
	PreviousSecretUntil time.Time `json:"previous_secret_until,omitzero"`
	CreatedAt           time.Time `json:"created_at"`
	UpdatedAt           time.Time `json:"updated_at"`
}

// The formats of a webhook's bodies.
const (
	WebhookEvents      = "event"       // as in the event stream
	WebhookCloudEvents = "cloudevents" // CloudEvents 1.0
)

// WebhookSettings are what can be chosen of a webhook. A nil field leaves it as it is, or for a new webhook
// takes what stands with it.
type WebhookSettings struct {
	URL         *string  `json:"url,omitempty"`         // required for a new one
	Types       []string `json:"types,omitzero"`        // all
	Description *string  `json:"description,omitempty"` // ""
	Format      *string  `json:"format,omitempty"`      // WebhookEvents
	BatchMax    *int     `json:"batch_max,omitempty"`   // 1: one event a request, no array
	Enabled     *bool    `json:"enabled,omitempty"`     // true
}

// The codes of a *Problem about webhooks.
const (
	CodeTooManyWebhooks   = "too_many_webhooks"   // CreateWebhook
	CodeWebhookNotFound   = "webhook_not_found"   // there is none, or it is not yours
	CodeAddressNotAllowed = "address_not_allowed" // the URL leads into a private network
	CodeHTTPSRequired     = "https_required"
)

// WebhookDelivery is one request to a webhook's URL.
type WebhookDelivery struct {
	At        time.Time `json:"at"`
	WebhookID string    `json:"webhook_id"` // of the request, which is the same at every repeat
	// Events names the first of the request's events, EventCount is how many there were.
	Events     []WebhookEvent `json:"events"`
	EventCount int            `json:"event_count"`
	Attempt    int            `json:"attempt"`
	// Outcome is delivered, failed, deferred (the receiver asked for time), gone (410) or given_up.
	Outcome string `json:"outcome"`
	// StatusCode is that of the answer, 0 if there was none.
	StatusCode int     `json:"status_code,omitempty"`
	DurationMS float64 `json:"duration_ms"`
	Error      string  `json:"error,omitempty"`
	Response   string  `json:"response,omitempty"` // the beginning of the answer's body
}

// WebhookEvent names an event by its message and its number in that message's life.
type WebhookEvent struct {
	Message string `json:"message"`
	Seq     uint32 `json:"status_seq"`
}

func webhookPath(id string, action string) string {
	p := "/v1/webhooks/" + url.PathEscape(id)
	if action != "" {
		p += "/" + action
	}
	return p
}

// CreateWebhook makes a webhook, which events from now on are posted to. The result has its Secret, which
// nobody can show again. It is not repeated: when its answer is lost there may be a webhook whose secret
// nobody knows, which Webhooks shows.
func (c *Client) CreateWebhook(ctx context.Context, s WebhookSettings) (Webhook, error) {
	return c.webhook(ctx, "creating", request{method: http.MethodPost, path: "/v1/webhooks"}, s, false)
}

// Webhooks returns the client's webhooks, the oldest first.
func (c *Client) Webhooks(ctx context.Context) ([]Webhook, error) {
	var list struct {
		Webhooks []Webhook `json:"webhooks"`
	}
	if _, _, err := c.call(ctx, request{method: http.MethodGet, path: "/v1/webhooks", limit: maxPage}, &list); err != nil {
		return nil, fmt.Errorf("client: listing webhooks: %w", err)
	}
	return list.Webhooks, nil
}

// Webhook returns a webhook.
func (c *Client) Webhook(ctx context.Context, id string) (Webhook, error) {
	return c.webhook(ctx, "reading", request{method: http.MethodGet, path: webhookPath(id, "")}, nil, true)
}

// UpdateWebhook changes what the settings name, and returns the webhook as it is then.
func (c *Client) UpdateWebhook(ctx context.Context, id string, s WebhookSettings) (Webhook, error) {
	return c.webhook(ctx, "changing", request{method: http.MethodPatch, path: webhookPath(id, "")}, s, true)
}

// EnableWebhook has posting go on from where it was stopped, with what is parked first.
func (c *Client) EnableWebhook(ctx context.Context, id string) (Webhook, error) {
	return c.webhook(ctx, "enabling", request{method: http.MethodPost, path: webhookPath(id, "enable")}, nil, true)
}

// RotateWebhookSecret gives a webhook another secret, which the result has. The old one signs requests, too,
// for the overlap of at most seven days. Like CreateWebhook it is not repeated.
func (c *Client) RotateWebhookSecret(ctx context.Context, id string, overlap time.Duration) (Webhook, error) {
	return c.webhook(ctx, "rotating the secret of", request{method: http.MethodPost, path: webhookPath(id, "rotate-secret")}, struct {
		Overlap int64 `json:"overlap_seconds"`
	}{int64((overlap + time.Second - 1) / time.Second)}, false)
}

// ReplayWebhook has every event that was stored at that time or later posted again.
func (c *Client) ReplayWebhook(ctx context.Context, id string, since time.Time) (Webhook, error) {
	return c.webhook(ctx, "replaying", request{method: http.MethodPost, path: webhookPath(id, "replay")}, struct {
		Since time.Time `json:"since"`
	}{since}, true)
}

// ReplayWebhookFrom has every event behind a cursor posted again: a Cursor of the webhook or the ID of an
// event of the stream.
func (c *Client) ReplayWebhookFrom(ctx context.Context, id, cursor string) (Webhook, error) {
	return c.webhook(ctx, "replaying", request{method: http.MethodPost, path: webhookPath(id, "replay")}, struct {
		Cursor string `json:"cursor"`
	}{cursor}, true)
}

// DeleteWebhook forgets a webhook.
func (c *Client) DeleteWebhook(ctx context.Context, id string) error {
	_, unknown, err := c.call(ctx, request{method: http.MethodDelete, path: webhookPath(id, "")}, nil)
	if p := asProblem(err); p != nil && unknown && p.Status == http.StatusNotFound {
		return nil // by an attempt whose answer was lost
	}
	if err != nil {
		return fmt.Errorf("client: deleting webhook %s: %w", id, err)
	}
	return nil
}

// TestWebhook has an event of the type webhook.test posted, and returns what came of that: a receiver that
// refuses it is not an error.
func (c *Client) TestWebhook(ctx context.Context, id string) (WebhookDelivery, error) {
	var d WebhookDelivery
	if _, _, err := c.call(ctx, request{method: http.MethodPost, path: webhookPath(id, "test"), limit: maxReceipt}, &d); err != nil {
		return WebhookDelivery{}, fmt.Errorf("client: testing webhook %s: %w", id, err)
	}
	return d, nil
}

// webhook makes a request that is answered with a webhook, and repeats it where that is safe.
func (c *Client) webhook(ctx context.Context, doing string, r request, body any, repeat bool) (w Webhook, err error) {
	if body != nil {
		if r.body, err = json.Marshal(body); err != nil {
			return Webhook{}, fmt.Errorf("client: %s a webhook: %w", doing, err)
		}
	}
	r.limit = maxReceipt
	if repeat {
		_, _, err = c.call(ctx, r, &w)
	} else {
		err = c.retry.once(ctx, func(ctx context.Context) error {
			_, err := c.once(ctx, r, &w)
			return err
		})
	}
	if err != nil {
		return Webhook{}, fmt.Errorf("client: %s a webhook: %w", doing, err)
	}
	return w, nil
}

// WebhookDeliveries iterates over the last requests to a webhook, the newest first. Outcome, if it is not "",
// selects those with that one. It fetches page after page as the loop goes on. An error ends the iteration:
// it comes last, with a zero WebhookDelivery.
func (c *Client) WebhookDeliveries(ctx context.Context, id, outcome string) iter.Seq2[WebhookDelivery, error] {
	const perPage = 100
	type page struct {
		Deliveries []WebhookDelivery `json:"deliveries"`
		next
	}
	v := url.Values{"limit": {strconv.Itoa(perPage)}}
	if outcome != "" {
		v.Set("outcome", outcome)
	}
	return pages(ctx, c, "deliveries", webhookPath(id, "deliveries"), v, func(p *page) ([]WebhookDelivery, string) { return p.Deliveries, p.Next })
}
