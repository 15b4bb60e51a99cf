//go:build unix

package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"slices"
	"time"
)

// api is the business clients' side of the server. It is written apart from the SDK because that never
// sends without an idempotency key and repeats by itself.
type api struct {
	http *http.Client
	key  string
}

// base stands for whichever server there is.
const base = "http://esh3ar.invalid"

// requestTimeout bounds a request: a server that hangs must not hang its clients.
const requestTimeout = 8 * time.Second

// newAPI returns one whose connections are made by dial. Of several servers, each request may go to another.
func newAPI(key string, dial func(context.Context) (net.Conn, error), several bool) *api {
	return &api{key: key, http: &http.Client{Timeout: requestTimeout, Transport: &http.Transport{
		DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		MaxIdleConnsPerHost: 64, DisableKeepAlives: several,
	}}}
}

func (a *api) close() { a.http.CloseIdleConnections() }

// refusal is a problem that the server answers with.
type refusal struct {
	HTTP   int    `json:"-"`
	Status int    `json:"status"`
	Code   string `json:"code"`
	Detail string `json:"detail"`
	From   string `json:"-"` // the server's address
}

func (r *refusal) Error() string {
	return fmt.Sprintf("%d %s by %s: %s", r.Status, r.Code, r.From, r.Detail)
}

// passing reports whether the refusal says that the same request may succeed later.
func (r *refusal) passing() bool {
	switch r.Status {
	case http.StatusServiceUnavailable, http.StatusInsufficientStorage, http.StatusTooManyRequests:
		return true
	case http.StatusBadGateway, http.StatusGatewayTimeout:
		return slices.Contains(balancerCodes(), r.Code)
	}
	return false
}

// balancerCodes are those by which a balancer says that a server has failed it.
func balancerCodes() []string {
	return []string{"node_unreachable", "node_failed", "node_timeout", outcomeUnknown}
}

const outcomeUnknown = "outcome_unknown"

// sure reports whether the refused message surely was not accepted.
func (r *refusal) sure() bool {
	return r.Code != outcomeUnknown && r.Code != "node_failed" && r.Code != "node_timeout"
}

// call makes one request. An answer that refuses is a *refusal; any other error leaves open whether the
// request was carried out.
func (a *api) call(ctx context.Context, method, path, key string, body, out any) error {
	var send io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return err
		}
		send = bytes.NewReader(raw)
	}
	from := ""
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(c httptrace.GotConnInfo) { from = c.Conn.RemoteAddr().String() }})
	req, err := http.NewRequestWithContext(ctx, method, base+path, send)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+a.key)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		r := &refusal{HTTP: resp.StatusCode, From: from}
		if err := json.Unmarshal(raw, r); err != nil {
			return fmt.Errorf("HTTP %d without problem details: %.200q", resp.StatusCode, raw)
		}
		return r
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(raw, out)
}

// outgoing is a message as the API takes it.
type outgoing struct {
	To       string            `json:"to"`
	Content  string            `json:"content"`
	Metadata map[string]string `json:"metadata"`
	TTL      int64             `json:"ttl,omitempty"`
	Key      string            `json:"idempotency_key,omitempty"`
}

// nameMember is the member of the metadata by which a listing tells which message is which.
const nameMember = "name"

func (m *message) outgoing() outgoing {
	return outgoing{To: recipientName(m.recipient), Content: m.name, Metadata: map[string]string{nameMember: m.name}, TTL: int64(m.ttl / time.Second)}
}

// send sends one message and returns its identifier.
func (a *api) send(ctx context.Context, m *message) (string, error) {
	var out struct{ ID string }
	err := a.call(ctx, http.MethodPost, "/v1/messages", m.key, m.outgoing(), &out)
	if err == nil && out.ID == "" {
		err = errors.New("a 202 without an identifier")
	}
	return out.ID, err
}

// result is what became of one message of a batch.
type result struct {
	ID      string
	Problem *refusal
}

// sendBatch sends several messages, each with its key.
func (a *api) sendBatch(ctx context.Context, ms []*message) ([]result, error) {
	var body struct {
		Messages []outgoing `json:"messages"`
	}
	for _, m := range ms {
		o := m.outgoing()
		o.Key = m.key
		body.Messages = append(body.Messages, o)
	}
	var out struct{ Results []result }
	err := a.call(ctx, http.MethodPost, "/v1/messages/batch", "", &body, &out)
	if err == nil && len(out.Results) != len(ms) {
		err = fmt.Errorf("%d results for %d messages", len(out.Results), len(ms))
	}
	return out.Results, err
}

// details is a message as the API shows it.
type details struct {
	ID         string
	Status     string
	To         string
	Attempts   int
	Metadata   map[string]string
	AcceptedAt time.Time `json:"accepted_at"`
	Timeline   []struct {
		Seq     int `json:"status_seq"`
		Status  string
		Reason  string
		At      time.Time
		Attempt int
	}
}

// message asks for one message.
func (a *api) message(ctx context.Context, id string) (details, error) {
	var d details
	err := a.call(ctx, http.MethodGet, "/v1/messages/"+id, "", nil, &d)
	return d, err
}

// list asks for all messages.
func (a *api) list(ctx context.Context) ([]details, error) {
	var all []details
	for cursor := ""; ; {
		var page struct {
			Messages []details
			Next     string `json:"next_cursor"`
		}
		path := "/v1/messages?limit=200"
		if cursor != "" {
			path += "&cursor=" + cursor
		}
		if err := a.call(ctx, http.MethodGet, path, "", nil, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Messages...)
		if page.Next == "" {
			return all, nil
		}
		cursor = page.Next
	}
}

// cancel withdraws a message.
func (a *api) cancel(ctx context.Context, id string) error {
	return a.call(ctx, http.MethodDelete, "/v1/messages/"+id, "", nil, nil)
}
