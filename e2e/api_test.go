package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// The API as a business system sees it, written down here once more and by hand: these tests are to
// notice when a name on the wire changes.

type outgoing struct {
	To       string            `json:"to"`
	Content  string            `json:"content,omitempty"`
	Data     json.RawMessage   `json:"data,omitempty"`
	Type     string            `json:"type,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`
	TTL      int               `json:"ttl,omitempty"`
	Key      string            `json:"idempotency_key,omitempty"` // in batches; else a header
}

type receipt struct {
	ID         string    `json:"id"`
	Status     string    `json:"status"`
	To         string    `json:"to"`
	AcceptedAt time.Time `json:"accepted_at"`
}

type transition struct {
	Seq     int       `json:"status_seq"`
	Status  string    `json:"status"`
	At      time.Time `json:"at"`
	Attempt int       `json:"attempt"`
	Reason  string    `json:"reason"`
}

type details struct {
	receipt
	Content  string       `json:"content"`
	Timeline []transition `json:"timeline"`
}

// statuses returns the words of the timeline.
func (d details) statuses() []string {
	words := make([]string, 0, len(d.Timeline))
	for _, t := range d.Timeline {
		words = append(words, t.Status)
	}
	return words
}

type problem struct {
	HTTP      int    `json:"-"`
	Type      string `json:"type"`
	Title     string `json:"title"`
	Status    int    `json:"status"`
	Detail    string `json:"detail"`
	Code      string `json:"code"`
	Permanent bool   `json:"permanent"`
}

func (p *problem) Error() string { return fmt.Sprintf("HTTP %d %s: %s", p.HTTP, p.Code, p.Detail) }

// api is one business client's connection to a server.
type api struct {
	http *http.Client
	url  string
	key  string
}

func (s *server) api() *api {
	a := newAPI(s.url)
	s.t.Cleanup(a.close)
	return a
}

// newAPI returns an api with one keep-alive connection of its own.
func newAPI(url string) *api {
	return &api{
		http: &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1, MaxIdleConnsPerHost: 1}, Timeout: 30 * time.Second},
		url:  url,
		key:  apiKey,
	}
}

func (a *api) close() { a.http.CloseIdleConnections() }

// call makes one request and decodes the answer into out. A refusal is a *problem; any other error
// leaves open what the server did.
func (a *api) call(ctx context.Context, method, path, key string, in, out any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, a.url+path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+a.key)
	req.Header.Set("Content-Type", "application/json")
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	resp, err := a.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		p := &problem{HTTP: resp.StatusCode}
		if err := json.Unmarshal(raw, p); err != nil {
			return resp, fmt.Errorf("HTTP %d is not a problem: %w: %.200s", resp.StatusCode, err, raw)
		}
		return resp, p
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return resp, fmt.Errorf("the answer of %s %s: %w: %.200s", method, path, err, raw)
	}
	return resp, nil
}

// send posts one message. An answer other than 202 is an error.
func (a *api) send(ctx context.Context, m outgoing) (receipt, error) {
	key := m.Key
	m.Key = ""
	var r receipt
	resp, err := a.call(ctx, http.MethodPost, "/v1/messages", key, m, &r)
	if err == nil && (resp.StatusCode != http.StatusAccepted || r.ID == "" || r.Status != "accepted" || resp.Header.Get("Location") != "/v1/messages/"+r.ID) {
		err = fmt.Errorf("HTTP %d, Location %q, %+v is not how a message is accepted", resp.StatusCode, resp.Header.Get("Location"), r)
	}
	return r, err
}

// batchResult is what became of one message of a batch: the HTTP status that it would have had alone,
// and an id or a problem.
type batchResult struct {
	Status  int      `json:"status"`
	ID      string   `json:"id"`
	Problem *problem `json:"problem"`
}

func (a *api) sendBatch(ctx context.Context, messages []outgoing) ([]batchResult, error) {
	var answer struct {
		Results []batchResult `json:"results"`
	}
	_, err := a.call(ctx, http.MethodPost, "/v1/messages/batch", "", map[string]any{"messages": messages}, &answer)
	if err == nil && len(answer.Results) != len(messages) {
		err = fmt.Errorf("%d results for %d messages", len(answer.Results), len(messages))
	}
	return answer.Results, err
}

func (a *api) message(ctx context.Context, id string) (details, error) {
	var d details
	_, err := a.call(ctx, http.MethodGet, "/v1/messages/"+url.PathEscape(id), "", nil, &d)
	return d, err
}

// list returns all messages that the query selects, newest first, page by page.
func (a *api) list(ctx context.Context, query url.Values) ([]details, error) {
	q := url.Values{"limit": {"200"}}
	for name, values := range query {
		q[name] = values
	}
	var all []details
	for {
		var page struct {
			Messages []details `json:"messages"`
			Next     string    `json:"next_cursor"`
		}
		if _, err := a.call(ctx, http.MethodGet, "/v1/messages?"+q.Encode(), "", nil, &page); err != nil {
			return all, err
		}
		all = append(all, page.Messages...)
		if page.Next == "" {
			return all, nil
		}
		q.Set("cursor", page.Next)
	}
}

// mustSend posts a message that has to be accepted.
func (a *api) mustSend(t testing.TB, m outgoing) receipt {
	t.Helper()
	r, err := a.send(t.Context(), m)
	if err != nil {
		t.Fatalf("sending to %s: %v", m.To, err)
	}
	return r
}

// awaitStatus waits until the message has that status.
func (s *server) awaitStatus(a *api, id, status string) details {
	s.t.Helper()
	var last details
	var lastErr error
	err := s.poll(30*time.Second, "message "+id+" to be "+status, func() bool {
		last, lastErr = a.message(s.t.Context(), id)
		return lastErr == nil && last.Status == status
	})
	if err != nil {
		s.t.Fatal(errors.Join(err, lastErr, fmt.Errorf("last seen: %+v", last)))
	}
	return last
}

// token returns a device token for the recipient, signed with the server's secret.
func token(t testing.TB, sub string, lifetime time.Duration) string {
	t.Helper()
	return signedToken(t, jwtSecret, sub, lifetime)
}

func signedToken(t testing.TB, secret, sub string, lifetime time.Duration) string {
	t.Helper()
	now := time.Now()
	signed, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
		"sub": sub, "iat": now.Unix(), "exp": now.Add(lifetime).Unix(),
	}).SignedString([]byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	return signed
}
