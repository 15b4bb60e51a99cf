// Package hub is the mobile hub: the SignalR connections of this node's devices. It knows who a device
// is, hands messages out and acknowledgements in, and says goodbye in order. What a recipient's
// messages are is not its business: it attaches every device to the owner of its recipient.
package hub

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/signalr"
)

// Owner is who routes for recipients.
type Owner interface {
	// Attach ties a connected device to its recipient, named by its normalised form. Messages flow to
	// the device from then on, perhaps before Attach returns, until the attachment is detached.
	Attach(recipient string, d *Device) Attachment
}

// Attachment is a device's tie to its recipient. Its methods do not block for long.
type Attachment interface {
	// Acknowledge says that the device has these messages; the slice is given away.
	Acknowledge(ids []esh3ar.ID)
	// MarkRead says that the device's user read them; the slice is given away.
	MarkRead(ids []esh3ar.ID)
	// Detach says that the device is gone. Free says that it is not the device's fault.
	Detach(free bool)
}

// Verifier checks device tokens.
type Verifier interface {
	// Verify returns whose token it is, normalised, and when it ends. The text of an *esh3ar.Error is
	// shown to the device.
	Verify(token string) (recipient string, expires time.Time, err error)
}

// Options configures a Hub. Server, Owner and Tokens are required.
type Options struct {
	Server *signalr.Server
	Owner  Owner
	Tokens Verifier

	// Refusal says how an error of Tokens is told to a device. By default it is a 401 with the error's
	// text.
	Refusal func(error) *signalr.HTTPError

	// Elsewhere, if set, says to which hub a device that negotiates is to go, as that hub's URL, or "" if it is to stay. Host is
	// what it asked, with a port if it said one, and first says that no hub has sent it there. It must not block.
	Elsewhere func(host string, first bool) string

	// Admit, if set, says why no new device may connect, nil if it may. It must not block.
	Admit func() error

	// AllowedOrigins are the web origins whose pages may connect; "*" allows all.
	AllowedOrigins []string
	// OutboxMessages and OutboxBytes bound what waits to be written to one device. A device that is
	// slower is closed, told to reconnect, and loses nothing. Zero means the server's defaults.
	OutboxMessages, OutboxBytes int

	Logger  *slog.Logger
	Metrics prometheus.Registerer
}

// Hub is the mobile hub: an http.Handler for its path and everything below.
type Hub struct {
	*signalr.Hub
	owner    Owner
	log      *slog.Logger
	draining atomic.Bool

	// Devices that are connected and not told to go; those of them that negotiated.
	present, negotiated atomic.Int64

	connected    prometheus.Gauge
	connections  prometheus.Counter
	handed       prometheus.Counter
	acknowledged prometheus.Counter
	refused      prometheus.Counter
	redirected   prometheus.Counter
	shed         *prometheus.CounterVec
}

// New returns a hub of the server.
func New(o Options) (*Hub, error) {
	h := &Hub{
		owner:        o.Owner,
		log:          o.Logger,
		connected:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "esh3ar_devices_connected", Help: "Connected devices."}),
		connections:  prometheus.NewCounter(prometheus.CounterOpts{Name: "esh3ar_device_connections_total", Help: "Connections of devices, from their handshake on."}),
		handed:       prometheus.NewCounter(prometheus.CounterOpts{Name: "esh3ar_device_sends_total", Help: "Messages queued to connections of devices, repeats included."}),
		acknowledged: prometheus.NewCounter(prometheus.CounterOpts{Name: "esh3ar_device_acknowledgements_total", Help: "Identifiers acknowledged or marked read by devices."}),
		refused:      prometheus.NewCounter(prometheus.CounterOpts{Name: "esh3ar_device_tokens_refused_total", Help: "Requests of devices refused for their token."}),
		redirected:   prometheus.NewCounter(prometheus.CounterOpts{Name: "esh3ar_devices_redirected_total", Help: "Devices sent to a node at its own address when they negotiated."}),
		shed:         prometheus.NewCounterVec(prometheus.CounterOpts{Name: "esh3ar_devices_shed_total", Help: "Devices told to reconnect to another node, by reason: balance, overload, stop or cut_off."}, []string{"reason"}),
	}
	for _, why := range []Reason{ForBalance, ForOverload, ForStop, ForCutOff} {
		h.shed.WithLabelValues(string(why))
	}
	fixed := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "esh3ar_devices_fixed", Help: "Connected devices that did not negotiate: they stay where they come."}, func() float64 {
		all, negotiated := h.Devices()
		return float64(max(all-negotiated, 0))
	})
	o.Metrics.MustRegister(h.connected, h.connections, h.handed, h.acknowledged, h.refused, h.redirected, h.shed, fixed)
	refusal := o.Refusal
	if refusal == nil {
		refusal = func(err error) *signalr.HTTPError {
			return &signalr.HTTPError{Status: http.StatusUnauthorized, Message: err.Error()}
		}
	}
	sh, err := o.Server.NewHub(signalr.HubOptions{
		Authenticate: func(r *http.Request) (signalr.Identity, error) {
			recipient, expires, err := o.Tokens.Verify(signalr.AccessToken(r))
			if err != nil {
				h.refused.Inc()
				return signalr.Identity{}, refusal(err)
			}
			return signalr.Identity{UserID: recipient, Expires: expires}, nil
		},
		Redirect:          h.redirect(o.Elsewhere),
		Admit:             admit(o.Admit, refusal),
		OnConnected:       h.arrived,
		OnDisconnected:    func(c *signalr.Conn, _ error) { h.left(c) },
		OnDetached:        func(c *signalr.Conn) { deviceOf(c).detach(true) },
		OnReattached:      func(c *signalr.Conn) { deviceOf(c).attach() },
		AllowedOrigins:    o.AllowedOrigins,
		OutboxMessages:    o.OutboxMessages,
		OutboxBytes:       o.OutboxBytes,
		StatefulReconnect: true,
	})
	if err != nil {
		return nil, err
	}
	sh.Handle("AcknowledgeMessage", signalr.Action1(func(_ context.Context, c *signalr.Conn, id string) error {
		return h.receipt(c, []string{id}, false)
	}))
	sh.Handle("AcknowledgeMessages", signalr.Action1(func(_ context.Context, c *signalr.Conn, ids []string) error {
		return h.receipt(c, ids, false)
	}))
	sh.Handle("MarkAsRead", signalr.Action1(func(_ context.Context, c *signalr.Conn, ids []string) error {
		return h.receipt(c, ids, true)
	}))
	h.Hub = sh
	return h, nil
}

// Drain says that connections end by the server's will from now on: what is in flight to them is
// handed back uncharged. The server's own shutdown closes them.
func (h *Hub) Drain() { h.draining.Store(true) }

func (h *Hub) arrived(_ context.Context, c *signalr.Conn) error {
	d := &Device{hub: h, conn: c, byResult: c.Query().Get("ack") == "result"}
	c.SetValue(d)
	h.connections.Inc()
	h.connected.Inc()
	h.count(c, 1)
	d.attach()
	return nil
}

func (h *Hub) left(c *signalr.Conn) {
	h.connected.Dec()
	d := deviceOf(c)
	d.leave()
	d.detach(h.draining.Load() || d.moved.Load())
}

// receipt passes the device's word on. All identifiers must be well-formed, else none counts.
func (h *Hub) receipt(c *signalr.Conn, ids []string, read bool) error {
	parsed := make([]esh3ar.ID, len(ids))
	for i, s := range ids {
		id, err := esh3ar.ParseID(s)
		if err != nil {
			return &signalr.HubError{Message: err.Error()}
		}
		parsed[i] = id
	}
	h.acknowledged.Add(float64(len(parsed)))
	deviceOf(c).receipt(parsed, read)
	return nil
}

// Device is one connected device.
type Device struct {
	hub  *Hub
	conn *signalr.Conn
	// byResult says that the return of the device's handler is the acknowledgement (?ack=result).
	byResult bool

	gone  atomic.Bool // it does not count any more
	moved atomic.Bool // it was told to reconnect: what is in flight costs no attempt
	// unanswered is about how many messages it has not acknowledged: it acknowledges what it likes.
	unanswered atomic.Int32

	mu       sync.Mutex
	attached Attachment // nil while detached
}

func deviceOf(c *signalr.Conn) *Device { return c.Value().(*Device) }

// Send queues a frame. It never blocks; a device that cannot take it is closed and detached.
func (d *Device) Send(f *Frame) {
	var err error
	if d.byResult {
		err = d.invoke(f)
	} else {
		err = d.conn.Send(f.message)
	}
	if err == nil {
		d.hub.handed.Inc()
		d.unanswered.Add(1)
	}
}

// invoke sends a frame and takes the result of the device's handler for the acknowledgement. An error
// is none: official clients answer with one when the handler fails, but also when there is no handler or
// it returns nothing, which cannot be told apart.
func (d *Device) invoke(f *Frame) error {
	_, err := d.conn.InvokeAsync(f.message, func(_ signalr.Result, err error) {
		if err == nil {
			d.hub.acknowledged.Inc()
			d.receipt([]esh3ar.ID{f.id}, false)
		}
	})
	if errors.Is(err, signalr.ErrTooManyCalls) {
		// Nothing may be left out: the device starts over, from what it has not acknowledged.
		d.conn.Close("too many messages without a result", true)
	}
	return err
}

func (d *Device) attach() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.attached == nil {
		d.attached = d.hub.owner.Attach(d.conn.UserID(), d)
	}
}

func (d *Device) detach(free bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.attached != nil {
		d.attached.Detach(free)
		d.attached = nil
	}
}

// receipt passes receipts on while the device is attached. Those that come after are not needed: what
// was in flight is sent again.
func (d *Device) receipt(ids []esh3ar.ID, read bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.attached == nil:
	case read:
		d.attached.MarkRead(ids)
	default:
		if d.unanswered.Add(-int32(len(ids))) < 0 {
			d.unanswered.Store(0)
		}
		d.attached.Acknowledge(ids)
	}
}
