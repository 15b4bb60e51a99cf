package client

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Event tells what became of a message: one change of its status.
type Event struct {
	// ID is the event's place among the client's events: the cursor to go on from behind it.
	ID string `json:"id"`
	// Type is "message." and the status.
	Type string    `json:"type"`
	Time time.Time `json:"time"`
	// TraceParent is the W3C traceparent that the message was sent with, "" without one.
	TraceParent string `json:"traceparent,omitempty"`
	// Data says which message it is and what it has become.
	Data EventData `json:"data"`
}

// EventData is what an [Event] is about. An event may come twice, always with the same message and Seq.
type EventData struct {
	// ID is the message's.
	ID     string `json:"id"`
	To     string `json:"to"`
	Status Status `json:"status"`
	// Seq grows by one with each transition of the message: who keeps the highest is right.
	Seq     uint32 `json:"status_seq"`
	Attempt uint32 `json:"attempt,omitempty"`
	Reason  string `json:"reason,omitempty"`
}

// EventQuery says which events to follow, and from where on.
type EventQuery struct {
	// Cursor is the ID of the last event that was handled, or the Next of a page. Without one, events are
	// followed from now on, or from the oldest that are kept if FromStart is set.
	Cursor    string
	FromStart bool
	// Statuses are those to be told of. Empty means all.
	Statuses []Status
}

func (q *EventQuery) values() url.Values {
	v := url.Values{}
	if q.Cursor != "" {
		v.Set("cursor", q.Cursor)
	} else if q.FromStart {
		v.Set("from", "start")
	}
	if len(q.Statuses) > 0 {
		words := make([]string, len(q.Statuses))
		for i, s := range q.Statuses {
			words[i] = string(s)
		}
		v.Set("status", strings.Join(words, ","))
	}
	return v
}

// EventPage is one page of events, for programs that rather ask now and then than hold a connection.
type EventPage struct {
	Events []Event `json:"events"`
	// Next is the cursor of the page that follows. There always is one.
	Next string `json:"next_cursor"`
	// More says that the page that follows is worth asking for at once.
	More bool `json:"more"`
}

// EventPage returns one page of at most limit events, 500 at most; 0 leaves it to the server. The order is
// that in which things happened to each message. A *Problem with status 410 says that events which follow
// the cursor are not kept any more; go on from its OldestCursor.
func (c *Client) EventPage(ctx context.Context, q EventQuery, limit int) (EventPage, error) {
	v := q.values()
	if limit != 0 {
		v.Set("limit", strconv.Itoa(limit))
	}
	var p EventPage
	if _, _, err := c.call(ctx, request{method: http.MethodGet, path: eventsPath, query: v, limit: maxPage}, &p); err != nil {
		return EventPage{}, fmt.Errorf("client: events: %w", err)
	}
	return p, nil
}

const eventsPath = "/v1/events"

// The waits between two connections, and bounds of one.
const (
	firstFollow = 100 * time.Millisecond
	lastFollow  = 10 * time.Second
	// silence is how long a stream may say nothing before it counts as lost. The server says every 15 s
	// that it is there.
	silence = 50 * time.Second
	// maxFrame bounds one line of a stream.
	maxFrame = 1 << 20
)

// Events follows what becomes of the client's messages, as it happens, until ctx ends or the loop does.
// When the connection is lost it goes on behind the last event, so that none is missed; the last one may
// come again. To go on after a restart of the program, keep the ID of the last event that was handled.
//
// An error ends the iteration: it comes last, with a zero Event. A *Problem with status 410 says that
// events which follow the cursor are not kept any more; go on from its OldestCursor.
func (c *Client) Events(ctx context.Context, q EventQuery) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		f := &feed{c: c, q: q, yield: yield}
		backoff := RetryPolicy{Base: firstFollow, Max: lastFollow}
		for failures := 0; ctx.Err() == nil; {
			came, err := f.connect(ctx)
			switch {
			case f.stopped || ctx.Err() != nil:
				return
			case err != nil && !temporary(err):
				yield(Event{}, fmt.Errorf("client: following events: %w", err))
				return
			}
			failures++
			if came {
				failures = 1
			}
			wait := backoff.backoff(failures)
			if p := asProblem(err); p != nil {
				wait += p.RetryAfter
			}
			if !sleep(ctx, wait) {
				return
			}
		}
	}
}

// feed is one iteration over events.
type feed struct {
	c       *Client
	q       EventQuery // whose Cursor moves on
	yield   func(Event, error) bool
	stopped bool // the loop does not want any more
}

// connect opens a stream and hands out its events until it ends. Came says that the server began to
// answer. Its error is nil when the server ended the stream in order.
func (f *feed) connect(ctx context.Context) (came bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lost := time.AfterFunc(silence, cancel)
	defer lost.Stop()

	u := f.c.base.JoinPath(eventsPath)
	u.RawQuery = f.q.values().Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return false, err
	}
	req.Header.Set("Authorization", f.c.auth)
	req.Header.Set("User-Agent", f.c.agent)
	req.Header.Set("Accept", "text/event-stream, application/problem+json")
	resp, err := f.c.http.Do(req)
	if err != nil {
		return false, &connError{err}
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return false, problemOf(resp, time.Now())
	}
	if media := resp.Header.Get("Content-Type"); !strings.HasPrefix(media, "text/event-stream") {
		return false, fmt.Errorf("the answer is %q and no stream of events", media)
	}
	return true, f.read(resp.Body, lost)
}

// read hands out the events of a stream (WHATWG HTML, 9.2.6).
func (f *feed) read(body io.Reader, lost *time.Timer) error {
	lines := bufio.NewScanner(body)
	lines.Buffer(make([]byte, 0, 4<<10), maxFrame)
	var id, kind string
	var data []byte
	for lines.Scan() {
		lost.Reset(silence)
		line := lines.Text()
		if line != "" {
			name, value, _ := strings.Cut(line, ":")
			value = strings.TrimPrefix(value, " ")
			switch name {
			case "id":
				id = value
			case "event":
				kind = value
			case "data":
				if data != nil {
					data = append(data, '\n')
				}
				data = append(data, value...)
			}
			continue
		}
		if data != nil {
			if err := f.handle(kind, data); err != nil || f.stopped {
				return err
			}
		}
		// Only now: an event that was not handed out whole comes again.
		if id != "" {
			f.q.Cursor = id
		}
		kind, data = "", nil
	}
	if err := lines.Err(); err != nil {
		return &connError{err}
	}
	return nil
}

// handle hands out one event, or returns the problem that ends the stream.
func (f *feed) handle(kind string, data []byte) error {
	if kind == "problem" {
		p := &Problem{}
		if err := json.Unmarshal(data, p); err != nil {
			return fmt.Errorf("the stream's problem is not the expected JSON: %w", err)
		}
		return p
	}
	var e Event
	if err := json.Unmarshal(data, &e); err != nil {
		return fmt.Errorf("an event is not the expected JSON: %w", err)
	}
	f.stopped = !f.yield(e, nil)
	return nil
}
