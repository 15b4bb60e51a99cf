package client

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Message returns a message of this client with its timeline. A message that is not the client's is a
// *Problem with status 404.
func (c *Client) Message(ctx context.Context, id string) (Details, error) {
	var d Details
	_, _, err := c.call(ctx, request{
		method: http.MethodGet, path: "/v1/messages/" + url.PathEscape(id), limit: maxDetails,
	}, &d)
	if err != nil {
		return Details{}, fmt.Errorf("client: message %s: %w", id, err)
	}
	return d, nil
}

// Query selects messages. Zero fields do not filter.
type Query struct {
	To     string
	Status Status
	// From is inclusive, Until exclusive; both are compared with the time of acceptance.
	From, Until time.Time
	// PageSize is how many messages one request fetches, at most 200; 0 leaves it to the server.
	PageSize int
}

func (q *Query) values() url.Values {
	v := url.Values{}
	set := func(name, value string) {
		if value != "" {
			v.Set(name, value)
		}
	}
	set("to", q.To)
	set("status", string(q.Status))
	if !q.From.IsZero() {
		v.Set("from", q.From.UTC().Format(time.RFC3339Nano))
	}
	if !q.Until.IsZero() {
		v.Set("until", q.Until.UTC().Format(time.RFC3339Nano))
	}
	if q.PageSize != 0 {
		v.Set("limit", strconv.Itoa(q.PageSize))
	}
	return v
}

// Messages iterates over the client's messages that the query selects, newest first. It fetches page
// after page as the loop goes on. An error ends the iteration: it comes last, with zero Details.
func (c *Client) Messages(ctx context.Context, q Query) iter.Seq2[Details, error] {
	type page struct {
		Messages []Details `json:"messages"`
		next
	}
	return pages(ctx, c, "messages", "/v1/messages", q.values(), func(p *page) ([]Details, string) { return p.Messages, p.Next })
}

// ErrNotReached is what Wait returns when the message ended otherwise.
var ErrNotReached = errors.New("client: the message ended without the status")

// The times between two looks of Wait.
const (
	firstLook = 50 * time.Millisecond
	lastLook  = 2 * time.Second
)

// Wait returns as soon as the message has, or has had, the status. Its error is ErrNotReached when the
// message came to its end otherwise, ctx's when that ended first, or one of [Client.Message]'s; with
// the first two the Details are the last seen.
func (c *Client) Wait(ctx context.Context, id string, want Status) (Details, error) {
	var last Details
	for delay := firstLook; ; delay = min(delay*2, lastLook) {
		d, err := c.Message(ctx, id)
		if err != nil {
			if ctx.Err() != nil {
				err = fmt.Errorf("client: waiting for message %s to be %s: %w", id, want, ctx.Err())
			}
			return last, err
		}
		last = d
		switch {
		case d.Reached(want):
			return d, nil
		case d.Status.Final() && !(d.Status == StatusDelivered && want == StatusRead):
			return d, fmt.Errorf("%w: %s is %s, not %s", ErrNotReached, id, d.Status, want)
		}
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return last, fmt.Errorf("client: waiting for message %s to be %s: %w", id, want, ctx.Err())
		}
	}
}
