package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Client speaks to the platform in the name of one business client. Make one for each API key and
// share it: it keeps connections.
type Client struct {
	base  *url.URL
	auth  string
	agent string
	http  *http.Client
	retry RetryPolicy
	pace  *pace
}

// Option changes how a Client works.
type Option func(*Client) error

// WithHTTPClient makes the Client use h instead of a connection pool of its own. Its Timeout, if any,
// bounds each attempt beside [RetryPolicy].Attempt.
func WithHTTPClient(h *http.Client) Option {
	return func(c *Client) error {
		if h == nil {
			return errors.New("client: the HTTP client is nil")
		}
		c.http = h
		return nil
	}
}

// WithRetry sets how requests are repeated. Without it the policy is [DefaultRetry].
func WithRetry(p RetryPolicy) Option {
	return func(c *Client) error {
		if p.Attempts < 0 || p.Elapsed < 0 || p.Base < 0 || p.Max < 0 || p.Attempt < 0 {
			return errors.New("client: the retry policy has a negative bound")
		}
		c.retry = p
		return nil
	}
}

// WithUserAgent names the calling program in requests, in front of the SDK's own name.
func WithUserAgent(name string) Option {
	return func(c *Client) error {
		c.agent = name + " " + userAgent
		return nil
	}
}

const userAgent = "esh3ar-go"

// New returns a Client for the server at baseURL, such as "https://esh3ar.example", and an API key. It
// makes no connection. Its errors are about the URL, the key or an option.
func New(baseURL, apiKey string, opts ...Option) (*Client, error) {
	base, err := parseBase(baseURL)
	if err != nil {
		return nil, err
	}
	if apiKey == "" || strings.ContainsAny(apiKey, " \t\r\n\x00") {
		return nil, errors.New("client: the API key is empty or holds white space")
	}
	c := &Client{base: base, auth: "Bearer " + apiKey, agent: userAgent, retry: DefaultRetry(), pace: newPace()}
	for _, o := range opts {
		if err := o(c); err != nil {
			return nil, err
		}
	}
	if c.http == nil {
		c.http = &http.Client{Transport: newTransport()}
	}
	return c, nil
}

// Close closes the connections that the Client keeps for later requests. Requests under way go on.
func (c *Client) Close() { c.http.CloseIdleConnections() }

func parseBase(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		return nil, fmt.Errorf("client: the base URL does not parse: %w", err)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("client: the base URL %q is not of the form https://host[:port]", s)
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("client: the base URL %q has a query or a fragment", s)
	}
	return u, nil
}

// newTransport returns a pool for one server: the default of two idle connections for each host would
// close and reopen most connections of a program that sends concurrently.
func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		ForceAttemptHTTP2:     true,
		MaxIdleConns:          512,
		MaxIdleConnsPerHost:   512,
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   5 * time.Second,
		ExpectContinueTimeout: time.Second,
	}
}

// request is one call of the API, to be made once or more.
type request struct {
	method string
	path   string
	query  url.Values
	body   []byte
	key    string // the Idempotency-Key, "" for none
	match  string // the If-Match, "" for none
	// limit bounds the answer's body, in bytes.
	limit int64
	// messages is how many messages it sends, which keep to the client's rate.
	messages int
}

// call makes the request, repeats it where that helps, and decodes the answer into out. It returns the
// number of attempts, and whether one of the failed ones may have been carried out all the same.
func (c *Client) call(ctx context.Context, r request, out any) (attempts int, unknown bool, err error) {
	var turn func(context.Context) error
	if r.messages > 0 {
		turn = func(ctx context.Context) error { return c.pace.turn(ctx, r.messages) }
	}
	attempts, err = c.retry.run(ctx, turn, func(ctx context.Context) error {
		_, err := c.once(ctx, r, out)
		if err != nil && mayHaveHappened(err) {
			unknown = true
		}
		return err
	})
	if err != nil && asProblem(err) == nil {
		err = fmt.Errorf("%s %s: %w", r.method, r.path, err)
	}
	return attempts, unknown, err
}

// once makes one attempt and decodes the answer into out, unless that is nil. It returns the header of an
// answer that is no refusal.
func (c *Client) once(ctx context.Context, r request, out any) (http.Header, error) {
	u := c.base.JoinPath(r.path)
	u.RawQuery = r.query.Encode()
	var body io.Reader
	if r.body != nil {
		body = bytes.NewReader(r.body)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, u.String(), body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", c.auth)
	req.Header.Set("User-Agent", c.agent)
	req.Header.Set("Accept", "application/json, application/problem+json")
	if r.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if r.key != "" {
		req.Header.Set("Idempotency-Key", r.key)
	}
	if r.match != "" {
		req.Header.Set("If-Match", r.match)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, &connError{err}
	}
	defer func() {
		// A short rest is read so that the connection can be used again.
		_, _ = io.CopyN(io.Discard, resp.Body, 4<<10)
		resp.Body.Close()
	}()
	c.pace.heed(resp.Header)
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return nil, problemOf(resp, time.Now())
	}
	if out == nil {
		return resp.Header, nil
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, r.limit+1))
	if err != nil {
		return nil, &connError{err}
	}
	if int64(len(data)) > r.limit {
		return nil, fmt.Errorf("the answer is longer than %d bytes", r.limit)
	}
	if err := json.Unmarshal(data, out); err != nil {
		return nil, fmt.Errorf("the answer (%s) is not the expected JSON: %w", resp.Status, err)
	}
	if h, ok := out.(interface{ readHeader(http.Header) }); ok {
		h.readHeader(resp.Header)
	}
	return resp.Header, nil
}

// mayHaveHappened reports whether a failed request may have been carried out: unless the server
// refused it, or it never reached one.
func mayHaveHappened(err error) bool {
	if p := asProblem(err); p != nil {
		switch p.Status {
		case http.StatusBadGateway, http.StatusGatewayTimeout, http.StatusInternalServerError:
			return true // the refusal may be a proxy's, or the fault came after the work
		}
		return p.Code == CodeOutcomeUnknown
	}
	var op *net.OpError
	return !(errors.As(err, &op) && op.Op == "dial")
}
