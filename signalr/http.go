package signalr

import (
	"crypto/rand"
	"errors"
	"io"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// ServeHTTP serves negotiation and all transports.
func (h *Hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := h.route(w, r); err != nil {
		h.refuse(w, err)
	}
}

// route serves a request or returns why it does not. Nothing has been written
// then.
func (h *Hub) route(w http.ResponseWriter, r *http.Request) error {
	if err := h.checkOrigin(w, r); err != nil {
		return err
	}
	if r.Method == http.MethodOptions {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	if strings.HasSuffix(r.URL.Path, "/negotiate") {
		if r.Method != http.MethodPost {
			return errMethod
		}
		return h.negotiate(w, r)
	}
	identity, err := h.authenticate(r)
	if err != nil {
		return err
	}
	switch r.Method {
	case http.MethodGet:
		return h.connect(w, r, identity)
	case http.MethodPost:
		return h.post(w, r, identity)
	case http.MethodDelete:
		return h.delete(w, r, identity)
	}
	return errMethod
}

// refuse answers a request with an error.
func (h *Hub) refuse(w http.ResponseWriter, err error) {
	refusal := (*HTTPError)(nil)
	if !errors.As(err, &refusal) {
		h.server.log.Error("signalr: request failed", "error", err)
		refusal = &HTTPError{Status: http.StatusInternalServerError, Message: "internal error"}
	}
	h.server.opts.Metrics.refused(refusal)
	wait := refusal.RetryAfter
	if wait == 0 && refusal.Status == http.StatusServiceUnavailable {
		wait = busyPause
	}
	if wait > 0 {
		w.Header().Set("Retry-After", strconv.FormatInt(int64(math.Ceil(wait.Seconds())), 10))
	}
	if refusal.Status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	if refusal.ContentType == "" {
		noCache(w)
		http.Error(w, refusal.Message, refusal.Status)
		return
	}
	w.Header().Set("Content-Type", refusal.ContentType)
	w.WriteHeader(refusal.Status)
	_, _ = io.WriteString(w, refusal.Message) // a client that has gone has no use for it
}

// busyPause is how long clients are asked to wait while the server cannot serve them.
const busyPause = time.Second

func (h *Hub) authenticate(r *http.Request) (Identity, error) {
	if h.opts.Authenticate == nil {
		return Identity{}, nil
	}
	id, err := h.opts.Authenticate(r)
	if err != nil && !errors.As(err, new(*HTTPError)) {
		err = errUnauthorized
	}
	return id, err
}

// checkOrigin refuses the pages of foreign origins, and answers the allowed
// ones with what their browsers want to see.
func (h *Hub) checkOrigin(w http.ResponseWriter, r *http.Request) error {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return nil
	}
	header := w.Header()
	header.Add("Vary", "Origin")
	if sameOrigin(origin, r) {
		return nil
	}
	if !h.originAllowed(origin) {
		return errOrigin
	}
	header.Set("Access-Control-Allow-Origin", origin)
	header.Set("Access-Control-Allow-Credentials", "true")
	if r.Method == http.MethodOptions {
		header.Set("Access-Control-Allow-Methods", "GET, POST, DELETE")
		allowed := r.Header.Get("Access-Control-Request-Headers")
		if allowed == "" {
			allowed = "authorization, content-type, x-requested-with, x-signalr-user-agent"
		}
		header.Set("Access-Control-Allow-Headers", allowed)
		header.Set("Access-Control-Max-Age", "7200")
	}
	return nil
}

func sameOrigin(origin string, r *http.Request) bool {
	u, err := url.Parse(origin)
	return err == nil && strings.EqualFold(u.Host, r.Host)
}

func (h *Hub) originAllowed(origin string) bool {
	for _, allowed := range h.opts.AllowedOrigins {
		if allowed == "*" || strings.EqualFold(allowed, origin) {
			return true
		}
	}
	return false
}

// connect serves GET {hub}: a WebSocket, a stream of server-sent events, or a
// poll.
func (h *Hub) connect(w http.ResponseWriter, r *http.Request, identity Identity) error {
	kind := transportOf(r)
	if h.opts.Transports&kind == 0 {
		return errTransportOff
	}
	token := query(r, "id")
	if token == "" {
		if kind != WebSockets {
			return errIDRequired
		}
		if err := h.admit(r); err != nil {
			return err
		}
		id := rand.Text()
		return h.open(w, r, h.newConn(id, id, identity, WebSockets))
	}
	if n := h.takeNegotiation(token); n != nil {
		if n.identity.UserID != identity.UserID {
			return errOtherUser
		}
		c := h.newConn(n.id, n.token, identity, kind)
		c.negotiated, c.stateful = true, n.stateful && kind == WebSockets
		return h.open(w, r, c)
	}
	c := h.find(token)
	switch {
	case c == nil:
		return errUnknownID
	case c.userID != identity.UserID:
		return errOtherUser
	case c.kind != kind:
		return errOtherTransport
	case kind == LongPolling:
		return c.poll(w, r)
	case kind == WebSockets && c.stateful:
		if c.isEnding() {
			return errUnknownID
		}
		return h.serveWebSocket(w, r, c, true)
	}
	return errTransportActive
}

// open gives a new connection its place and its transport.
func (h *Hub) open(w http.ResponseWriter, r *http.Request, c *Conn) error {
	c.query = storedQuery(r.URL)
	c.remoteAddr = strings.Clone(r.RemoteAddr)
	if refusal := h.server.reserve(); refusal != nil {
		return refusal
	}
	switch c.kind {
	case ServerSentEvents:
		return h.serveEvents(w, r, c)
	case LongPolling:
		return h.startPolling(w, c)
	}
	return h.serveWebSocket(w, r, c, false)
}

func (h *Hub) find(token string) *Conn {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.byToken[token]
}

// connection returns the connection that a request of the user is about.
func (h *Hub) connection(r *http.Request, identity Identity) (*Conn, error) {
	token := query(r, "id")
	if token == "" {
		return nil, errIDRequired
	}
	c := h.find(token)
	if c == nil {
		return nil, errUnknownID
	}
	if c.userID != identity.UserID {
		return nil, errOtherUser
	}
	return c, nil
}

// transportOf tells which transport a GET request wants.
func transportOf(r *http.Request) Transport {
	switch {
	case headerContains(r.Header, "Connection", "upgrade") && headerContains(r.Header, "Upgrade", "websocket"):
		return WebSockets
	case headerContains(r.Header, "Accept", "text/event-stream"):
		return ServerSentEvents
	}
	return LongPolling
}

// headerContains tells whether a header holds a token in its list.
func headerContains(header http.Header, name, token string) bool {
	for _, line := range header.Values(name) {
		for part := range strings.SplitSeq(line, ",") {
			part, _, _ = strings.Cut(part, ";")
			if strings.EqualFold(strings.TrimSpace(part), token) {
				return true
			}
		}
	}
	return false
}

// query returns a query parameter whose name may be written in any case.
func query(r *http.Request, name string) string {
	for part := range strings.SplitSeq(r.URL.RawQuery, "&") {
		key, value, _ := strings.Cut(part, "=")
		if strings.EqualFold(key, name) {
			if v, err := url.QueryUnescape(value); err == nil {
				return v
			}
		}
	}
	return ""
}

func noCache(w http.ResponseWriter) {
	header := w.Header()
	header.Set("Cache-Control", "no-cache, no-store")
	header.Set("Pragma", "no-cache")
	header.Set("Expires", "Thu, 01 Jan 1970 00:00:00 GMT")
}
