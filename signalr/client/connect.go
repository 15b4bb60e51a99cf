package client

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/esh3artech/esh3ar/signalr/internal/protocol"
	"github.com/esh3artech/esh3ar/signalr/internal/replay"
)

const maxRedirects = 100

// negotiateResponse is the answer to a negotiation.
type negotiateResponse struct {
	ConnectionID        string `json:"connectionId"`
	ConnectionToken     string `json:"connectionToken"`
	NegotiateVersion    int    `json:"negotiateVersion"`
	AvailableTransports []struct {
		Transport       string   `json:"transport"`
		TransferFormats []string `json:"transferFormats"`
	} `json:"availableTransports"`
	UseStatefulReconnect bool   `json:"useStatefulReconnect"`
	URL                  string `json:"url"`
	AccessToken          string `json:"accessToken"`
	Error                string `json:"error"`
}

// connect opens a new connection up to the point where the handshake request
// is written.
func (c *Client) connect(ctx context.Context) (*link, error) {
	s := session{url: c.url}
	if !c.opts.SkipNegotiation {
		if err := c.negotiate(ctx, &s); err != nil {
			return nil, err
		}
	}
	version := int64(1)
	if s.stateful {
		version = protocol.MaxVersion
		s.sender = replay.NewSender(c.opts.StatefulBuffer)
		s.receiver = replay.NewReceiver()
	}
	l, err := c.open(ctx, &s)
	if err != nil {
		return nil, err
	}
	hello := protocol.AppendHandshakeRequest(nil, protocol.HandshakeRequest{Protocol: c.codec.Name(), Version: version})
	if err := l.write(hello); err != nil {
		l.cut(err)
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == stateClosed {
		l.cut(ErrClosed)
		return nil, ErrClosed
	}
	c.session = s
	c.link = l
	return l, nil
}

// resumeSession replaces the socket of the session. It returns nil when the
// server does not know the session any more, or does not answer for a while.
func (c *Client) resumeSession() *link {
	c.mu.Lock()
	s := c.session
	c.mu.Unlock()
	deadline := time.Now().Add(resumeFor)
	for wait := time.Duration(0); time.Now().Before(deadline); wait = min(2*wait+resumeStep, resumeMax) {
		if !c.sleep(wait) {
			return nil
		}
		ctx, cancel := context.WithDeadline(c.ctx, deadline)
		l, err := c.open(ctx, &s)
		cancel()
		if err == nil {
			if err := c.replay(l); err == nil {
				return l
			}
			l.cut(ErrConnectionLost)
			continue
		}
		if errors.As(err, new(*HTTPError)) {
			return nil
		}
	}
	return nil
}

// A socket is sought for resumeFor, which is what servers allow by default,
// after waits from resumeStep to resumeMax.
const (
	resumeFor  = 15 * time.Second
	resumeStep = 50 * time.Millisecond
	resumeMax  = 2 * time.Second
)

// replay makes l the session's socket, says where its messages begin and
// repeats what the server has not acknowledged.
func (c *Client) replay(l *link) error {
	c.sendMu.Lock()
	defer c.sendMu.Unlock()
	c.mu.Lock()
	if c.state != stateResuming {
		c.mu.Unlock()
		return ErrClosed
	}
	c.session.receiver.Reconnected()
	data := c.codec.AppendSequence(nil, c.session.sender.First())
	messages := slices.Clone(c.session.sender.Unacked())
	c.mu.Unlock()
	if err := l.write(data); err != nil {
		return err
	}
	for _, m := range messages {
		if err := l.write(m); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != stateResuming {
		return ErrClosed
	}
	c.state = stateConnected
	c.link = l
	l.greet()
	return nil
}

// negotiate fills in the session, following redirects.
func (c *Client) negotiate(ctx context.Context, s *session) error {
	for range maxRedirects {
		resp, err := c.negotiateOnce(ctx, s)
		switch {
		case err != nil:
			return err
		case resp.Error != "":
			return fmt.Errorf("signalr: negotiation refused: %s", resp.Error)
		case resp.URL != "":
			if s.url, err = parseHubURL(resp.URL); err != nil {
				return err
			}
			if resp.AccessToken != "" {
				s.token = resp.AccessToken
			}
			continue
		}
		if !c.acceptable(resp) {
			return errors.New("signalr: the server does not offer WebSockets with the protocol's transfer format")
		}
		s.id = resp.ConnectionID
		token := resp.ConnectionToken
		if resp.NegotiateVersion < 1 {
			token = resp.ConnectionID
		}
		u := *s.url
		q := u.Query()
		q.Set("id", token)
		u.RawQuery = q.Encode()
		s.url = &u
		s.stateful = resp.UseStatefulReconnect && c.opts.StatefulReconnect
		return nil
	}
	return errors.New("signalr: too many redirects")
}

func (c *Client) acceptable(resp *negotiateResponse) bool {
	format := "Text"
	if c.codec.Binary() {
		format = "Binary"
	}
	for _, t := range resp.AvailableTransports {
		if t.Transport == "WebSockets" && slices.Contains(t.TransferFormats, format) {
			return true
		}
	}
	return false
}

// maxNegotiateBody bounds the answer to a negotiation.
const maxNegotiateBody = 64 << 10

func (c *Client) negotiateOnce(ctx context.Context, s *session) (*negotiateResponse, error) {
	u := *s.url
	u.Path = strings.TrimSuffix(u.Path, "/") + "/negotiate"
	q := u.Query()
	q.Set("negotiateVersion", "1")
	if c.opts.StatefulReconnect {
		q.Set("useStatefulReconnect", "true")
	}
	u.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("signalr: %w", err)
	}
	if req.Header, err = c.header(ctx, s); err != nil {
		return nil, err
	}
	resp, err := c.opts.HTTPClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("signalr: negotiation: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxNegotiateBody))
	if resp.StatusCode != http.StatusOK {
		return nil, &HTTPError{Status: resp.StatusCode, Body: excerpt(body)}
	}
	if err != nil {
		return nil, fmt.Errorf("signalr: negotiation: %w", err)
	}
	var answer negotiateResponse
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("signalr: negotiation: %w", err)
	}
	return &answer, nil
}

func excerpt(body []byte) string {
	const limit = 200
	return strings.TrimSpace(string(body[:min(len(body), limit)]))
}

// header returns the headers of an HTTP request.
func (c *Client) header(ctx context.Context, s *session) (http.Header, error) {
	h := c.opts.Header.Clone()
	if h == nil {
		h = make(http.Header)
	}
	h.Set("X-SignalR-User-Agent", "esh3ar-signalr (Go)")
	token := s.token
	if token == "" && c.opts.AccessToken != nil {
		var err error
		if token, err = c.opts.AccessToken(ctx); err != nil {
			return nil, fmt.Errorf("signalr: access token: %w", err)
		}
	}
	if token != "" {
		h.Set("Authorization", "Bearer "+token)
	}
	return h, nil
}

// open connects a WebSocket for the session.
func (c *Client) open(ctx context.Context, s *session) (*link, error) {
	header, err := c.header(ctx, s)
	if err != nil {
		return nil, err
	}
	secure := s.url.Scheme == "https"
	raw, err := c.opts.Dial(ctx, "tcp", hostPort(s.url, secure))
	if err != nil {
		return nil, fmt.Errorf("signalr: connecting: %w", err)
	}
	conn := raw
	if secure {
		conn = tls.Client(raw, c.tlsConfig(s.url.Hostname()))
	}
	// The library bounds the handshake by a time, not by a context.
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	l, err := newLink(c, conn, s.url, header, c.opts.HandshakeTimeout)
	if !stop() && err == nil {
		l.cut(context.Cause(ctx))
		err = context.Cause(ctx)
	}
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("signalr: connecting: %w", context.Cause(ctx))
	}
	return l, err
}

// tlsConfig is that of the HTTP client, so that both verify alike.
func (c *Client) tlsConfig(host string) *tls.Config {
	config := &tls.Config{}
	if t, ok := c.opts.HTTPClient.Transport.(*http.Transport); ok && t.TLSClientConfig != nil {
		config = t.TLSClientConfig.Clone()
	}
	config.NextProtos = []string{"http/1.1"}
	if config.ServerName == "" {
		config.ServerName = host
	}
	return config
}

func hostPort(u *url.URL, secure bool) string {
	port := u.Port()
	if port == "" {
		port = "80"
		if secure {
			port = "443"
		}
	}
	return net.JoinHostPort(u.Hostname(), port)
}
