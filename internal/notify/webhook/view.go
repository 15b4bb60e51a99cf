package webhook

import (
	"time"

	"github.com/esh3artech/esh3ar/internal/store"
)

// view is a webhook as the API shows it.
type view struct {
	ID             string   `json:"id"`
	URL            string   `json:"url"`
	Description    string   `json:"description"`
	Types          []string `json:"types"`
	Format         string   `json:"format"`
	BatchMax       int      `json:"batch_max"`
	Status         string   `json:"status"`
	DisabledReason string   `json:"disabled_reason,omitempty"`
	DisabledAt     string   `json:"disabled_at,omitempty"`
	FailingSince   string   `json:"failing_since,omitempty"`
	ResumeAt       string   `json:"resume_at,omitempty"`
	SucceededAt    string   `json:"last_success_at,omitempty"`
	LostAt         string   `json:"events_lost_at,omitempty"`
	Parked         int      `json:"parked"`
	Cursor         string   `json:"cursor"`
	OldUntil       string   `json:"previous_secret_until,omitempty"`
	Secret         string   `json:"secret,omitempty"` // once
	CreatedAt      string   `json:"created_at"`
	UpdatedAt      string   `json:"updated_at"`
}

func viewOf(h *store.Webhook, now time.Time) view {
	v := view{
		ID: h.ID, URL: h.URL, Description: h.Description, Types: typesOf(h), Format: h.Format, BatchMax: h.BatchMax,
		Status: statusOf(h), DisabledReason: h.DisabledReason, DisabledAt: jsonTime(h.DisabledAt),
		FailingSince: jsonTime(h.FailingSince), SucceededAt: jsonTime(h.SucceededAt), LostAt: jsonTime(h.LostAt),
		Parked: h.Parked, Cursor: h.Cursor, CreatedAt: jsonTime(h.CreatedAt), UpdatedAt: jsonTime(h.UpdatedAt),
	}
	if now.Before(h.OldUntil) {
		v.OldUntil = jsonTime(h.OldUntil)
	}
	if now.Before(h.ResumeAt) {
		v.ResumeAt = jsonTime(h.ResumeAt)
	}
	return v
}

func statusOf(h *store.Webhook) string {
	if h.DisabledAt.IsZero() {
		return "enabled"
	}
	return "disabled"
}

// typesOf are the types of the events that a webhook gets.
func typesOf(h *store.Webhook) []string {
	if len(h.Statuses) == 0 {
		return allTypes()
	}
	names := make([]string, len(h.Statuses))
	for i, s := range h.Statuses {
		names[i] = typePrefix + s.String()
	}
	return names
}

// jsonTime is a time as the API shows it, "" for the zero time.
func jsonTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(timeFormat)
}

// delivery is an entry of the log as the API shows it.
type delivery struct {
	At         string      `json:"at"`
	WebhookID  string      `json:"webhook_id"`
	Events     []eventName `json:"events"`
	EventCount int         `json:"event_count"`
	Attempt    int         `json:"attempt"`
	Outcome    string      `json:"outcome"`
	StatusCode int         `json:"status_code,omitempty"`
	DurationMS float64     `json:"duration_ms"`
	Error      string      `json:"error,omitempty"`
	Response   string      `json:"response,omitempty"`
}

// eventName names an event by its message and its status_seq.
type eventName struct {
	Message   string `json:"message"`
	StatusSeq uint32 `json:"status_seq"`
}

func deliveryView(d *store.WebhookDelivery) delivery {
	v := delivery{
		At: jsonTime(d.At), WebhookID: d.RequestID, Events: make([]eventName, len(d.Events)), EventCount: d.Count, Attempt: d.Attempt,
		Outcome: d.Outcome, StatusCode: d.StatusCode, DurationMS: float64(d.Duration.Microseconds()) / 1000, Error: d.Error, Response: d.Response,
	}
	for i, k := range d.Events {
		v.Events[i] = eventName{k.Message.String(), k.Seq}
	}
	return v
}
