package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/esh3artech/esh3ar/internal/store"
)

const (
	// maxRead is how much of an answer's body is read, so that its connection can be used again; the
	// connection of a longer one is closed. maxExcerpt is how much of it is kept for the log.
	maxRead    = 64 << 10
	maxExcerpt = 512
	// maxAnswerHeader bounds the header of an answer.
	maxAnswerHeader = 32 << 10
	// maxRetryAfter bounds how long an endpoint can ask to be left alone.
	maxRetryAfter = 24 * time.Hour
	userAgent     = "Esh3ar-Webhooks/1"
)

// The outcomes of a request.
const (
	outcomeDelivered = "delivered" // 2xx
	outcomeFailed    = "failed"    // anything else, or no answer
	outcomeDeferred  = "deferred"  // 429 or 503 with a Retry-After
	outcomeGone      = "gone"      // 410
	outcomeGivenUp   = "given_up"  // failed, and not tried again
	outcomeStopped   = "stopped"   // we broke it off; it says nothing and is not logged
)

// request is one POST to be made.
type request struct {
	id          string
	body        []byte
	contentType string
	traceParent string
}

// answer is what came of a request.
type answer struct {
	at       time.Time // when it was begun
	took     time.Duration
	outcome  string
	status   int
	wait     time.Duration // of outcomeDeferred
	err      string        // what went wrong, "" for nothing
	response string        // the beginning of the answer's body
}

// sender makes requests. It is safe for concurrent use.
type sender struct {
	timeout time.Duration
	now     func() time.Time
	policy  *policy
	// resolver finds the addresses of names.
	resolver *net.Resolver
	// secure is for https, plain for http, which goes to loopback addresses alone.
	secure, plain *http.Client
}

func newSender(o *Options) *sender {
	s := &sender{timeout: o.Timeout, now: o.Now, policy: newPolicy(o.Addresses), resolver: o.Resolver}
	if s.resolver == nil {
		s.resolver = net.DefaultResolver
	}
	s.secure, s.plain = s.client(o, false), s.client(o, true)
	return s
}

// client returns a client that connects to allowed addresses alone, follows nothing and keeps nothing of
// what an answer says about cookies or the like. No proxy is used: it would connect in our place, unchecked.
func (s *sender) client(o *Options, plain bool) *http.Client {
	dialer := &net.Dialer{
		Timeout: s.timeout, KeepAlive: 15 * time.Second, Resolver: s.resolver,
		ControlContext: func(_ context.Context, _, address string, _ syscall.RawConn) error {
			return s.policy.check(address, plain)
		},
	}
	dial := dialer.DialContext
	if o.dial != nil {
		dial = o.dial
	}
	return &http.Client{
		Transport: &http.Transport{
			DialContext:            dial,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: o.RootCAs},
			TLSHandshakeTimeout:    s.timeout,
			ForceAttemptHTTP2:      true,
			MaxIdleConns:           o.Requests,
			MaxIdleConnsPerHost:    maxWindow,
			IdleConnTimeout:        90 * time.Second,
			MaxResponseHeaderBytes: maxAnswerHeader,
			DisableCompression:     true, // a small answer may be a bomb
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func (s *sender) close() {
	s.secure.CloseIdleConnections()
	s.plain.CloseIdleConnections()
}

// post makes a request. It takes at most the time limit, to the last byte that is read of the answer.
func (s *sender) post(ctx context.Context, hook *store.Webhook, r *request) answer {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	began := time.Now()
	a := answer{at: s.now(), outcome: outcomeFailed}
	if err := s.exchange(ctx, hook, r, &a); err != nil {
		a.err = s.explain(ctx, err)
	}
	a.took = time.Since(began)
	return a
}

func (s *sender) exchange(ctx context.Context, hook *store.Webhook, r *request, a *answer) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, hook.URL, bytes.NewReader(r.body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", r.contentType)
	req.Header.Set("User-Agent", userAgent)
	if r.traceParent != "" {
		req.Header.Set("Traceparent", r.traceParent)
	}
	sign(req.Header, hook, r.id, a.at, r.body)
	client := s.secure
	if req.URL.Scheme == "http" {
		client = s.plain
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	a.status = resp.StatusCode
	body, readErr := io.ReadAll(io.LimitReader(resp.Body, maxRead))
	a.response = excerpt(body)
	a.judge(resp)
	if a.outcome == outcomeDelivered && readErr != nil {
		// The receiver has said that it has the events; what else it wanted to say is of no importance.
		return fmt.Errorf("the answer's body did not end: %w", readErr)
	}
	return nil
}

// judge decides what the answer's status means.
func (a *answer) judge(resp *http.Response) {
	switch code := resp.StatusCode; {
	case code >= 200 && code <= 299:
		a.outcome = outcomeDelivered
		return
	case code == http.StatusGone:
		a.outcome = outcomeGone
	case code == http.StatusTooManyRequests, code == http.StatusServiceUnavailable:
		if wait := retryAfter(resp.Header.Get("Retry-After"), a.at); wait > 0 {
			a.outcome, a.wait = outcomeDeferred, wait
		}
	case code >= 300 && code <= 399:
		a.err = "redirects are not followed; give the webhook the address that it leads to"
		return
	}
	a.err = "the answer was " + resp.Status
	if len(resp.Status) > maxExcerpt {
		a.err = "the answer was " + strconv.Itoa(resp.StatusCode)
	}
	a.err = clean(a.err)
}

// retryAfter reads a Retry-After header: seconds or a date. It returns 0 for none.
func retryAfter(v string, now time.Time) time.Duration {
	var wait time.Duration
	if n, err := strconv.ParseUint(v, 10, 32); err == nil {
		wait = time.Duration(n) * time.Second
	} else if t, err := http.ParseTime(v); err == nil {
		wait = t.Sub(now)
	}
	return min(max(wait, 0), maxRetryAfter)
}

// explain says what went wrong in words for the endpoint's owner, which show nothing of our network but
// what the owner's own name stands for.
func (s *sender) explain(ctx context.Context, err error) string {
	var address *addressError
	var dns *net.DNSError
	switch {
	case errors.As(err, &address):
		return address.Error()
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fmt.Sprintf("no complete answer within %s", s.timeout)
	case ctx.Err() != nil:
		return "the request was broken off"
	case errors.As(err, &dns):
		return clean("the host's name cannot be resolved: " + dns.Err)
	}
	// Without the URL, which whoever reads this knows.
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return clean(err.Error())
}

// excerpt is the beginning of a body, fit to be stored and shown.
func excerpt(body []byte) string { return clean(string(body[:min(len(body), maxExcerpt)])) }

// clean makes text of what may be anything: UTF-8, without control characters, and not long.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return r
		case r < ' ' || r == 0x7f:
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "\ufffd"))
	for len(s) > maxExcerpt {
		s = strings.ToValidUTF8(s[:maxExcerpt], "")
	}
	return s
}
