package client

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"time"
)

// Cancel withdraws a message that is neither on its way to a device nor final, and returns it as it is
// then. Canceling a canceled message again is no error.
//
// A message that cannot be canceled is a *Problem with status 409: with the code CodeInFlight while it
// is on its way to a device, when asking again may help.
func (c *Client) Cancel(ctx context.Context, id string) (Details, error) {
	d, err := c.change(ctx, request{method: http.MethodDelete, path: "/v1/messages/" + url.PathEscape(id)})
	if err != nil {
		return Details{}, fmt.Errorf("client: canceling message %s: %w", id, err)
	}
	return d, nil
}

// The codes of a *Problem with status 409.
const (
	CodeInFlight         = "in_flight"         // Cancel: the message is on its way to a device
	CodeAlreadyDelivered = "already_delivered" // Cancel: too late
	CodeAlreadyFinal     = "already_final"     // Cancel: expired or undelivered already
	CodeNotUndelivered   = "not_undelivered"   // Replay, Discard: not in the dead-letter queue
)

// DeadLetter is a message that was given up and lies in the dead-letter queue.
type DeadLetter struct {
	Details
	// UndeliveredAt is when it was given up, Reason why, in one stable word.
	UndeliveredAt time.Time `json:"undelivered_at"`
	Reason        string    `json:"reason"`
}

// DeadLetterQuery selects messages of the dead-letter queue. Zero fields do not filter.
type DeadLetterQuery struct {
	To string
	// Type is the sender's own label of the message.
	Type   string
	Reason string
	// From is inclusive, Until exclusive; both are compared with the time of acceptance.
	From, Until time.Time
	// PageSize is how many messages one request concerns, at most 200; 0 leaves it to the server.
	PageSize int
}

func (q *DeadLetterQuery) values() url.Values {
	selection := Query{To: q.To, From: q.From, Until: q.Until, PageSize: q.PageSize}
	v := selection.values()
	if q.Type != "" {
		v.Set("type", q.Type)
	}
	if q.Reason != "" {
		v.Set("reason", q.Reason)
	}
	return v
}

// DeadLetters iterates over the client's messages in the dead-letter queue that the query selects, the
// latest accepted first and without content and timeline. It fetches page after page as the loop goes
// on. An error ends the iteration: it comes last, with a zero DeadLetter.
func (c *Client) DeadLetters(ctx context.Context, q DeadLetterQuery) iter.Seq2[DeadLetter, error] {
	type page struct {
		DeadLetters []DeadLetter `json:"dead_letters"`
		next
	}
	return pages(ctx, c, "dead letters", "/v1/dead-letters", q.values(), func(p *page) ([]DeadLetter, string) { return p.DeadLetters, p.Next })
}

// Replay brings a message back from the dead-letter queue: it is queued again, with all its attempts
// before it. A message that does not lie there is a *Problem with the code CodeNotUndelivered, also when
// an earlier request, whose answer was lost, has replayed it.
func (c *Client) Replay(ctx context.Context, id string) (Details, error) {
	d, err := c.change(ctx, request{method: http.MethodPost, path: "/v1/dead-letters/" + url.PathEscape(id) + "/replay"})
	if err != nil {
		return Details{}, fmt.Errorf("client: replaying message %s: %w", id, err)
	}
	return d, nil
}

// Discard takes a message out of the dead-letter queue for good; it stays undelivered. The reason, at
// most 200 bytes, ends up in its timeline and may be "". A message that does not lie in the queue is a
// *Problem with the code CodeNotUndelivered.
func (c *Client) Discard(ctx context.Context, id, reason string) (Details, error) {
	body, err := json.Marshal(struct {
		Reason string `json:"reason,omitempty"`
	}{reason})
	if err != nil {
		return Details{}, fmt.Errorf("client: the reason does not encode as JSON: %w", err)
	}
	d, err := c.change(ctx, request{method: http.MethodPost, path: "/v1/dead-letters/" + url.PathEscape(id) + "/discard", body: body})
	if err != nil {
		return Details{}, fmt.Errorf("client: discarding message %s: %w", id, err)
	}
	return d, nil
}

// change makes a request that changes one message and answers with it.
func (c *Client) change(ctx context.Context, r request) (Details, error) {
	r.limit = maxDetails
	var d Details
	_, _, err := c.call(ctx, r, &d)
	return d, err
}

// Replayed counts what ReplayAll did.
type Replayed struct {
	// Replayed messages are queued again.
	Replayed int `json:"replayed"`
	// Skipped messages had left the dead-letter queue meanwhile.
	Skipped int `json:"skipped"`
}

// ReplayAll replays every message of the dead-letter queue that the query selects, the latest accepted
// first, page after page. With an error comes the count of what was done before it; when an answer was
// lost and its request repeated, what the lost one had replayed is not counted.
func (c *Client) ReplayAll(ctx context.Context, q DeadLetterQuery) (Replayed, error) {
	var all Replayed
	for cursor := ""; ; {
		var page struct {
			Replayed
			next
		}
		v := q.values()
		if cursor != "" {
			v.Set("cursor", cursor)
		}
		_, _, err := c.call(ctx, request{method: http.MethodPost, path: "/v1/dead-letters/replay", query: v, limit: maxReceipt}, &page)
		if err == nil {
			err = forward(cursor, page.Next)
		}
		if err != nil {
			return all, fmt.Errorf("client: replaying dead letters, %d of them so far: %w", all.Replayed, err)
		}
		all.Replayed += page.Replayed.Replayed
		all.Skipped += page.Skipped
		if page.Next == "" {
			return all, nil
		}
		cursor = page.Next
	}
}
