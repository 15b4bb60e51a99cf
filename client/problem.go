package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Problem is an answer that refuses the request: the problem details of RFC 9457.
type Problem struct {
	// Type is a URI that names the kind of problem and leads to its description.
	Type string `json:"type,omitempty"`
	// Title is the kind of problem in words, Detail this occurrence with what to do about it.
	Title  string `json:"title,omitempty"`
	Detail string `json:"detail,omitempty"`
	// Status is the HTTP status.
	Status int `json:"status,omitempty"`
	// Instance names the occurrence, for a support request.
	Instance string `json:"instance,omitempty"`
	// Code is a stable word such as "recipient_too_long".
	Code string `json:"code,omitempty"`
	// Permanent says that the same request can never succeed.
	Permanent bool `json:"permanent"`
	// Errors lists the fields at fault.
	Errors []FieldError `json:"errors,omitempty"`
	// OldestCursor is where to go on when events that follow a cursor are not kept any more.
	OldestCursor string `json:"oldest_cursor,omitempty"`

	// RetryAfter is how long the server asks to wait, 0 where it does not say.
	RetryAfter time.Duration `json:"-"`

	// told is whether the answer said permanent at all: an answer of a proxy in between does not.
	told bool
}

// FieldError is the fault of one field of the body or of one query parameter.
type FieldError struct {
	// Pointer is the field's JSON pointer (RFC 6901), "" for a parameter.
	Pointer string `json:"pointer,omitempty"`
	// Parameter is the query parameter's name, "" for a field.
	Parameter string `json:"parameter,omitempty"`
	Code      string `json:"code,omitempty"`
	Detail    string `json:"detail"`
}

// CodeOutcomeUnknown is the code of the problem that leaves open whether the message was accepted.
const CodeOutcomeUnknown = "outcome_unknown"

// Error returns the problem in one line.
func (p *Problem) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d", p.Status)
	switch {
	case p.Code != "":
		b.WriteString(" " + p.Code)
	case p.Title != "":
		b.WriteString(" " + p.Title)
	}
	if p.Detail != "" {
		b.WriteString(": " + p.Detail)
	}
	for _, f := range p.Errors {
		if f.Detail != p.Detail {
			fmt.Fprintf(&b, "; %s%s: %s", f.Pointer, f.Parameter, f.Detail)
		}
	}
	return b.String()
}

// Temporary reports whether the same request may succeed later.
func (p *Problem) Temporary() bool {
	switch p.Status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusBadGateway,
		http.StatusServiceUnavailable, http.StatusGatewayTimeout, http.StatusInsufficientStorage:
		return !p.Permanent
	}
	return p.Status >= 500 && p.told && !p.Permanent
}

// UnmarshalJSON decodes problem details and notes whether they say permanent.
func (p *Problem) UnmarshalJSON(data []byte) error {
	type plain Problem
	aux := struct {
		*plain
		Permanent *bool `json:"permanent"`
	}{plain: (*plain)(p)}
	if err := json.Unmarshal(data, &aux); err != nil {
		return err
	}
	p.told = aux.Permanent != nil
	p.Permanent = p.told && *aux.Permanent
	return nil
}

// SendError says that a message was not confirmed as accepted.
type SendError struct {
	// IdempotencyKey is the key that the message was sent with: sending it again with this key cannot
	// make a second message.
	IdempotencyKey string
	// Attempts counts the requests made.
	Attempts int
	// Unknown says that the message may have been accepted all the same, as after a connection that
	// broke before the answer. When false the message surely was not accepted.
	Unknown bool
	// Err is the last attempt's error: a *Problem when the server answered.
	Err error
}

// Error says how the sending ended.
func (e *SendError) Error() string {
	what := "not accepted"
	if e.Unknown {
		what = "not known to be accepted"
	}
	if e.Attempts > 1 {
		return fmt.Sprintf("client: message %s after %d attempts: %v", what, e.Attempts, e.Err)
	}
	return fmt.Sprintf("client: message %s: %v", what, e.Err)
}

// Unwrap returns the last attempt's error.
func (e *SendError) Unwrap() error { return e.Err }

// maxProblem bounds what is read of a refusal.
const maxProblem = 64 << 10

// problemOf reads the problem that a response with an error status tells. A response without problem
// details, as a proxy makes it, becomes one with the status alone.
func problemOf(resp *http.Response, now time.Time) *Problem {
	p := &Problem{}
	media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if media == "application/problem+json" || media == "application/json" {
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxProblem))
		if err != nil || json.Unmarshal(body, p) != nil {
			*p = Problem{}
		}
	}
	p.Status = resp.StatusCode
	if p.Title == "" {
		p.Title = http.StatusText(resp.StatusCode)
	}
	p.RetryAfter = retryAfter(resp.Header.Get("Retry-After"), now)
	return p
}

// retryAfter reads a Retry-After field: seconds or an HTTP date. Anything else is 0.
func retryAfter(v string, now time.Time) time.Duration {
	if v == "" {
		return 0
	}
	if s, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(s) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil && at.After(now) {
		return at.Sub(now)
	}
	return 0
}

// asProblem returns the *Problem in err's chain, nil when there is none.
func asProblem(err error) *Problem {
	var p *Problem
	if errors.As(err, &p) {
		return p
	}
	return nil
}
