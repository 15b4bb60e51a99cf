package signalr

import (
	"net/http"
	"strings"
	"time"
)

// Transport is a set of ways to carry a connection.
type Transport uint8

// The transports.
const (
	WebSockets Transport = 1 << iota
	ServerSentEvents
	LongPolling
)

// String returns the name that clients know the transport by.
func (t Transport) String() string {
	switch t {
	case WebSockets:
		return "WebSockets"
	case ServerSentEvents:
		return "ServerSentEvents"
	case LongPolling:
		return "LongPolling"
	}
	return joinNames(t, WebSockets, ServerSentEvents, LongPolling)
}

// Protocol is a set of encodings of hub messages.
type Protocol uint8

// The hub protocols.
const (
	JSON Protocol = 1 << iota
	MessagePack
)

// String returns the name that clients know the protocol by.
func (p Protocol) String() string {
	switch p {
	case JSON:
		return "json"
	case MessagePack:
		return "messagepack"
	}
	return joinNames(p, JSON, MessagePack)
}

func joinNames[S interface {
	~uint8
	String() string
}](set S, all ...S) string {
	var names []string
	for _, one := range all {
		if set&one != 0 {
			names = append(names, one.String())
		}
	}
	return strings.Join(names, ",")
}

// Identity is what is known of the sender of a request.
type Identity struct {
	// UserID addresses all connections of one user. Empty means anonymous.
	UserID string
	// Claims are kept with the connection for the application.
	Claims any
	// Expires, if set, is when a connection that was opened with this
	// identity is closed, with allowReconnect.
	Expires time.Time
}

// Redirect tells a client to negotiate elsewhere.
type Redirect struct {
	URL         string
	AccessToken string // sent by the client from then on; optional
}

// AccessToken returns the bearer token of the Authorization header or, as
// browsers send it for WebSockets and server-sent events, of the access_token
// query parameter.
func AccessToken(r *http.Request) string {
	if scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(token)
	}
	return r.URL.Query().Get("access_token")
}
