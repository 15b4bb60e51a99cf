package loadgen

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/esh3artech/esh3ar"
)

// DeviceClient says what code devices connect with.
type DeviceClient string

const (
	// GoClient is the Go SignalR client of this project, as the SDK uses it: it negotiates, opens a
	// WebSocket and speaks JSON.
	GoClient DeviceClient = "go"
	// MinimalClient is a reader of this package's own, which opens a WebSocket without negotiation. It
	// costs least and shares no code with the server, so that it also checks what the server writes.
	MinimalClient DeviceClient = "minimal"
)

// A link is one connection of a device to the mobile hub. The methods are called in this order: connect
// once, and receive once after it succeeded; acknowledge by the inbox, within its methods. Only close
// may be called at any time and from any goroutine.
type link interface {
	// connect opens the connection. What arrives from then on goes to the inbox. ctx bounds it alone.
	// A refusal by the server is a *refusedError.
	connect(ctx context.Context) error
	// receive returns when the connection has ended, and why. The inbox is not called any more then.
	receive() error
	// acknowledge tells the server that the device has these messages. It does not keep ids.
	acknowledge(ids []esh3ar.ID) error
	// close says goodbye, so that the server knows that the connection did not break. Acknowledgements
	// that were sent before are read before it.
	close()
}

// An inbox takes what arrives at a link. Its methods are called one at a time; an error ends the
// connection.
type inbox interface {
	// message takes the argument of a ReceiveMessage, which it must not keep, and the time of its arrival.
	message(body []byte, at time.Time) error
	// settle is called when what arrived together has been handed over.
	settle() error
}

// hubPath is the mobile hub, below the base URL.
const hubPath = "/hubs/mobile"

// methods of the mobile protocol.
const (
	receiveMessage      = "ReceiveMessage"
	acknowledgeMessages = "AcknowledgeMessages"
)

// hub is the mobile hub as the devices of one process reach it.
type hub struct {
	end  *endpoint
	kind DeviceClient
	// The Go client negotiates with it; idle connections are shared by all devices.
	http *http.Client
}

func newHub(t Target, kind DeviceClient) (*hub, error) {
	end, err := t.endpoint()
	if err != nil {
		return nil, err
	}
	h := &hub{end: end, kind: kind}
	switch kind {
	case "", GoClient:
		h.kind = GoClient
		h.http = &http.Client{Transport: &http.Transport{
			DialContext: end.dialer.DialContext, TLSClientConfig: end.tls, MaxIdleConnsPerHost: connecting, IdleConnTimeout: idleTimeout,
		}}
	case MinimalClient:
	default:
		return nil, fmt.Errorf("unknown device client %q; there are %q and %q", kind, GoClient, MinimalClient)
	}
	return h, nil
}

// idleTimeout is how long a connection of negotiations is kept for the next one.
const idleTimeout = 5 * time.Second

// link returns a link for the owner of a token. It does not connect yet.
func (h *hub) link(token string, in inbox) (link, error) {
	if h.kind == MinimalClient {
		return &minimalLink{hub: h, token: token, in: in}, nil
	}
	return newGoLink(h, token, in)
}

// close closes what the links share.
func (h *hub) close() {
	if h.http != nil {
		h.http.CloseIdleConnections()
	}
}

// refusedError is a server's refusal to connect a device.
type refusedError struct {
	status int
	code   string // of the problem, if there is one
}

func (e *refusedError) Error() string {
	return strings.TrimSpace(fmt.Sprintf("connection refused: %d %s", e.status, e.code))
}
