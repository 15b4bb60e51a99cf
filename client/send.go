package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"
)

// The greatest batch that the server takes in one request.
const (
	maxBatch      = 1000
	maxBatchBytes = 8 << 20
)

// Bounds of answers, in bytes: generous, for an answer is smaller than its request unless something
// other than the platform answers.
const (
	maxReceipt = 64 << 10
	maxResults = 4 << 20
	maxDetails = 1 << 20
	maxPage    = 8 << 20
)

// Send sends one message and returns when it is durable. It repeats the request as the retry policy
// says, always with the same idempotency key.
//
// A message that was not confirmed is a *SendError, which wraps a *Problem when the server said why.
func (c *Client) Send(ctx context.Context, m Message) (Receipt, error) {
	body, err := m.MarshalJSON()
	if err != nil {
		return Receipt{}, err
	}
	if m.IdempotencyKey == "" {
		m.IdempotencyKey = newKey()
	}
	r := Receipt{}
	attempts, unknown, err := c.call(ctx, request{
		method: http.MethodPost, path: "/v1/messages", body: body, key: m.IdempotencyKey, limit: maxReceipt, messages: 1,
	}, &r)
	if err != nil {
		return Receipt{}, &SendError{IdempotencyKey: m.IdempotencyKey, Attempts: attempts, Unknown: unknown, Err: err}
	}
	r.IdempotencyKey = m.IdempotencyKey
	return r, nil
}

// newKey returns a fresh idempotency key. Its leading time is what the server sorts the message by.
func newKey() string {
	return uuid.Must(uuid.NewV7()).String() // fails only without a system source of randomness
}

// BatchResult is what became of one message of a batch: Err is nil and Receipt says that it is durable,
// or Err is a *SendError.
type BatchResult struct {
	Receipt Receipt
	Err     error
}

// SendBatch sends many messages in few requests and returns one result for each message, in the same
// order. Each message is accepted or refused on its own; those that may succeed later are sent again,
// as the retry policy says. Messages that were refused at first and accepted later come behind the
// others, so a sender that needs an order among messages to one recipient sends them one by one.
//
// The error tells that some message was not confirmed; it wraps the first such result's.
func (c *Client) SendBatch(ctx context.Context, msgs []Message) ([]BatchResult, error) {
	b := batch{
		client: c, results: make([]BatchResult, len(msgs)), bodies: make([]json.RawMessage, len(msgs)),
		unknown: make([]bool, len(msgs)),
	}
	open := make([]int, len(msgs))
	for i, m := range msgs {
		if m.IdempotencyKey == "" {
			m.IdempotencyKey = newKey()
		}
		w, err := m.wire()
		if err == nil {
			b.bodies[i], err = json.Marshal(w)
		}
		if err != nil {
			return nil, fmt.Errorf("message %d: %w", i, err)
		}
		b.results[i].Receipt.IdempotencyKey = m.IdempotencyKey
		open[i] = i
	}
	for len(open) > 0 {
		n := b.prefix(open)
		b.send(ctx, open[:n])
		open = open[n:]
	}
	failed, first := 0, error(nil)
	for i := range b.results {
		if err := b.results[i].Err; err != nil {
			if failed++; first == nil {
				first = err
			}
		}
	}
	if failed > 0 {
		return b.results, fmt.Errorf("%d of %d messages: %w", failed, len(msgs), first)
	}
	return b.results, nil
}

// batch is the work of one SendBatch. Its slices have one entry a message.
type batch struct {
	client  *Client
	bodies  []json.RawMessage
	results []BatchResult
	unknown []bool
}

// prefix returns how many of the messages, at least one, fit one request.
func (b *batch) prefix(open []int) int {
	size := len(`{"messages":[]}`)
	for n, i := range open {
		size += len(b.bodies[i]) + 1
		if n > 0 && size > maxBatchBytes || n == maxBatch {
			return n
		}
	}
	return len(open)
}

// errOpen says that some messages of a request are worth sending again.
var errOpen = errors.New("not all messages of the batch were accepted")

// send sends the messages with these indexes in one request, and again those that may succeed later.
func (b *batch) send(ctx context.Context, open []int) {
	turn := func(ctx context.Context) error { return b.client.pace.turn(ctx, len(open)) }
	attempts, err := b.client.retry.run(ctx, turn, func(ctx context.Context) error {
		left, err := b.attempt(ctx, open)
		open = left
		return err
	})
	// What is still open failed: with an error of its own, or with the whole request's.
	for _, i := range open {
		r := &b.results[i]
		var p *Problem
		if !errors.As(r.Err, &p) || !errors.Is(err, errOpen) {
			r.Err = err
		}
		r.Err = b.fail(i, attempts, r.Err)
	}
}

func (b *batch) fail(i, attempts int, err error) error {
	key := b.results[i].Receipt.IdempotencyKey
	b.results[i].Receipt = Receipt{}
	return &SendError{IdempotencyKey: key, Attempts: attempts, Unknown: b.unknown[i], Err: err}
}

// attempt makes one request. It returns the messages that are open after it, with the error that
// decides about the next attempt: nil when none is open.
func (b *batch) attempt(ctx context.Context, open []int) ([]int, error) {
	bodies := make([]json.RawMessage, len(open))
	for n, i := range open {
		bodies[n] = b.bodies[i]
	}
	body, err := json.Marshal(map[string]any{"messages": bodies})
	if err != nil {
		return open, err
	}
	var answer struct {
		Results []wireResult `json:"results"`
	}
	header, err := b.client.once(ctx, request{
		method: http.MethodPost, path: "/v1/messages/batch", body: body, limit: maxResults,
	}, &answer)
	if err == nil && len(answer.Results) != len(open) {
		err = fmt.Errorf("the answer has %d results for %d messages", len(answer.Results), len(open))
	}
	if err != nil {
		if mayHaveHappened(err) {
			for _, i := range open {
				b.unknown[i] = true
			}
		}
		return open, err
	}
	var left []int
	// The longest wait that any of them asks for stands in the header.
	retry := &Problem{Status: http.StatusServiceUnavailable, RetryAfter: retryAfter(header.Get("Retry-After"), time.Now())}
	for n, i := range open {
		a, r := &answer.Results[n], &b.results[i]
		switch {
		case a.Problem == nil && a.ID != "":
			r.Receipt = Receipt{ID: a.ID, Status: StatusAccepted, To: a.To, AcceptedAt: a.AcceptedAt, IdempotencyKey: r.Receipt.IdempotencyKey}
			r.Err = nil
		case a.Problem == nil:
			b.unknown[i] = true
			r.Err = b.fail(i, 1, errors.New("the answer has neither an id nor a problem for the message"))
		case a.Problem.Temporary():
			b.unknown[i] = b.unknown[i] || a.Problem.Code == CodeOutcomeUnknown
			r.Err = a.Problem
			left = append(left, i)
		default:
			r.Err = b.fail(i, 1, a.Problem)
		}
	}
	if left == nil {
		return nil, nil
	}
	return left, fmt.Errorf("%w: %w", errOpen, retry)
}

// RecipientToken is what a device signs in with.
type RecipientToken struct {
	Token     string    `json:"token"`
	ExpiresAt time.Time `json:"expires_at"`
}

// RecipientToken mints a token for the recipient sub that lasts for ttl, in whole seconds; 0 leaves
// the lifetime to the server. The client needs the right to mint tokens.
func (c *Client) RecipientToken(ctx context.Context, sub string, ttl time.Duration) (RecipientToken, error) {
	body, err := json.Marshal(struct {
		Sub string `json:"sub"`
		TTL int64  `json:"ttl,omitempty"`
	}{sub, int64((ttl + time.Second - 1) / time.Second)})
	if err != nil {
		return RecipientToken{}, err
	}
	var t RecipientToken
	_, _, err = c.call(ctx, request{
		method: http.MethodPost, path: "/v1/recipient-tokens", body: body, limit: maxReceipt,
	}, &t)
	if err != nil {
		return RecipientToken{}, fmt.Errorf("client: minting a recipient token: %w", err)
	}
	return t, nil
}

// wireResult is one result of a batch as the API spells it: a receipt or a problem.
type wireResult struct {
	ID         string    `json:"id"`
	To         string    `json:"to"`
	AcceptedAt time.Time `json:"accepted_at"`
	Problem    *Problem  `json:"problem"`
}
