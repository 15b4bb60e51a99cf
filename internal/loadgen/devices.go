package loadgen

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/client"
	"github.com/esh3artech/esh3ar/internal/devicetoken"
)

// DeviceStats are the counts of Devices so far.
type DeviceStats struct {
	// Connected is how many devices have a connection now.
	Connected int64 `json:"connected"`
	// Receipts counts every receipt, Received each message once.
	Receipts int64 `json:"receipts"`
	Received int64 `json:"received"`
	// Foreign counts messages that are not this run's.
	Foreign int64 `json:"foreign"`
	// Reconnects counts connections made again after one was lost.
	Reconnects int64 `json:"reconnects"`
	// Errors counts failures by what they were.
	Errors map[string]int64 `json:"errors,omitempty"`
}

// Audience says which devices there are.
type Audience struct {
	// First and N are the range of recipients.
	First uint32 `json:"first"`
	N     uint32 `json:"n"`
	// Devices is how many devices each recipient has; 0 means 1.
	Devices uint32 `json:"devices"`
	// Measure is from when latencies are recorded, by the time of sending.
	Measure time.Time `json:"measure"`
}

// Devices are mobile users, each with a connection to the mobile hub. They acknowledge what they
// receive, and connect again when they lose their connection.
type Devices struct {
	end     *endpoint
	minter  *devicetoken.HS256 // nil when the secret is not known; then api mints
	api     *client.Client     // nil when minter does
	runID   uint32
	ledger  *Ledger
	all     []*device
	measure atomic.Int64 // in nanoseconds since 1970

	accepted *latency // from accepted_at to the receipt
	sent     *latency // from when the message was due to be sent to the receipt
	errors   errorCounts
	counters struct{ connected, receipts, received, foreign, reconnects atomic.Int64 }
	// Messages of a recipient with several devices arrive several times, which is no repetition.
	seen []flows

	ctx    context.Context // ends all devices
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// NewDevices returns the devices of the recipients of an Audience. They do not connect yet.
func NewDevices(t Target, run uint32, a Audience, ledger *Ledger) (*Devices, error) {
	end, err := t.endpoint()
	if err != nil {
		return nil, err
	}
	d := &Devices{end: end, runID: run, ledger: ledger, accepted: newLatency(), sent: newLatency(), seen: make([]flows, a.N)}
	if t.JWTSecret != "" {
		d.minter, err = devicetoken.NewHS256([]byte(t.JWTSecret), nil)
	} else {
		d.api, err = client.New(t.URL, t.APIKey)
	}
	if err != nil {
		return nil, err
	}
	d.SetMeasure(a.Measure)
	d.ctx, d.cancel = context.WithCancel(context.Background())
	per := max(a.Devices, 1)
	for i := range a.N {
		for k := range per {
			recipient := a.First + i
			d.all = append(d.all, &device{Devices: d, recipient: recipient, number: recipient*per + k, seen: &d.seen[i]})
		}
	}
	return d, nil
}

// SetMeasure sets from when latencies are recorded.
func (d *Devices) SetMeasure(at time.Time) { d.measure.Store(at.UnixNano()) }

// Connect connects the devices from number first to below end, counted within these Devices, and
// returns when all are connected. Its error is one that cannot be helped by trying again, or ctx's.
func (d *Devices) Connect(ctx context.Context, first, end int) error {
	return each(ctx, end-first, connecting, func(ctx context.Context, i int) error {
		dev := d.all[first+i]
		if err := dev.connect(ctx); err != nil {
			return err
		}
		d.wg.Go(dev.run)
		return nil
	})
}

// Len is the number of devices.
func (d *Devices) Len() int { return len(d.all) }

// Stats returns the counts so far.
func (d *Devices) Stats() DeviceStats {
	n := &d.counters
	return DeviceStats{
		Connected: n.connected.Load(), Receipts: n.receipts.Load(), Received: n.received.Load(),
		Foreign: n.foreign.Load(), Reconnects: n.reconnects.Load(), Errors: d.errors.counts(),
	}
}

// KeepAlive pings on idle connections until ctx ends; without it the server takes devices for gone
// after a while. It may run before, beside and after Connect.
func (d *Devices) KeepAlive(ctx context.Context) {
	// Spread over the interval, so that the pings are no burst.
	const interval, steps = 10 * time.Second, 100
	tick := time.NewTicker(interval / steps)
	defer tick.Stop()
	for step := 0; ; step = (step + 1) % steps {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		for i := step; i < len(d.all); i += steps {
			d.all[i].ping()
		}
	}
}

// Close disconnects all devices and returns when they have ended.
func (d *Devices) Close() {
	d.cancel()
	for _, dev := range d.all {
		dev.mu.Lock()
		if dev.sock != nil {
			// The goodbye tells the server that the connection did not break. Acknowledgements
			// written before it are read before it.
			_ = dev.sock.write(opText, goodbye)
			_ = dev.sock.write(opClose, normalClosure)
			dev.sock.conn.SetReadDeadline(time.Now().Add(closeTimeout))
		}
		dev.mu.Unlock()
	}
	d.wg.Wait()
	if d.api != nil {
		d.api.Close()
	}
}

// closeTimeout is how long the server may take to answer a goodbye.
const closeTimeout = 5 * time.Second

// flows notes which messages of one recipient have arrived: by client, a bit for each sequence number.
type flows struct {
	mu sync.Mutex
	of map[uint32][]uint64
}

// first reports whether the message had not arrived before.
func (f *flows) first(client, seq uint32) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.of == nil {
		f.of = make(map[uint32][]uint64)
	}
	bits := f.of[client]
	for int(seq/64) >= len(bits) {
		bits = append(bits, 0)
	}
	f.of[client] = bits
	word, bit := &bits[seq/64], uint64(1)<<(seq%64)
	if *word&bit != 0 {
		return false
	}
	*word |= bit
	return true
}

// device is one device of a recipient.
type device struct {
	*Devices
	recipient uint32
	number    uint32
	seen      *flows

	mu     sync.Mutex  // guards sock's change and its writing
	sock   *socket     // nil while there is no connection
	active atomic.Bool // whether something was written since the last ping

	// What follows belongs to whoever connects or reads.
	since   time.Time   // when it first connected
	rest    []byte      // what came with the handshake's answer
	lastAt  int64       // of the last receipt, in nanoseconds since 1970
	ids     []esh3ar.ID // received and not acknowledged yet
	frame   []byte      // for acknowledgements
	checked bool        // whether a message was decoded in full
}

const (
	recordSeparator = 0x1e
	// hubPath is the mobile hub, below the base URL.
	hubPath = "/hubs/mobile"
)

var (
	handshake       = []byte("{\"protocol\":\"json\",\"version\":1}\x1e")
	handshakeAnswer = []byte("{}\x1e")
	pingMessage     = []byte("{\"type\":6}\x1e")
	goodbye         = []byte("{\"type\":7}\x1e")
	normalClosure   = []byte{1000 >> 8, 1000 & 0xff}
)

// token returns a token for the device's recipient.
func (d *device) token(ctx context.Context) (string, error) {
	name := RecipientName(d.runID, d.recipient)
	const lifetime = 24 * time.Hour
	if d.api != nil {
		t, err := d.api.RecipientToken(ctx, name, lifetime)
		return t.Token, err
	}
	t, _, err := d.minter.Mint(name, lifetime)
	return t, err
}

// connect makes a connection, trying again unless that is hopeless.
func (d *device) connect(ctx context.Context) error {
	for attempt := 0; ; attempt++ {
		err := d.open(ctx)
		if err == nil {
			d.counters.connected.Add(1)
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		d.errors.add("connect: " + describe(err))
		var refused *upgradeError
		var problem *client.Problem
		switch {
		case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.EADDRNOTAVAIL),
			errors.As(err, &refused) && refused.status < 500 && refused.status != 429,
			errors.As(err, &problem) && !problem.Temporary():
			return fmt.Errorf("connecting a device of recipient %d: %w", d.recipient, err)
		}
		if !pause(ctx, retryWait(attempt)) {
			return context.Cause(ctx)
		}
	}
}

// open makes one attempt at a connection.
func (d *device) open(ctx context.Context) error {
	token, err := d.token(ctx)
	if err != nil {
		return err
	}
	sock, err := openSocket(ctx, d.end, hubPath, token)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { sock.conn.Close() })
	defer stop()
	sock.conn.SetDeadline(time.Now().Add(dialTimeout))
	var answer []byte
	if err = sock.write(opText, handshake); err == nil {
		_, answer, err = sock.next()
	}
	rest, ok := bytes.CutPrefix(answer, handshakeAnswer)
	if err == nil && !ok {
		err = fmt.Errorf("the SignalR handshake was answered with %q", answer)
	}
	if err != nil {
		sock.conn.Close()
		return err
	}
	sock.conn.SetDeadline(time.Time{})
	// Messages may follow the answer in its frame; run takes them.
	d.rest = bytes.Clone(rest)
	d.mu.Lock()
	d.sock = sock
	d.mu.Unlock()
	return nil
}

// run receives until the Devices are closed.
func (d *device) run() {
	d.since = time.Now()
	for {
		err := d.receive()
		d.mu.Lock()
		d.sock.conn.Close()
		d.sock = nil
		d.mu.Unlock()
		d.counters.connected.Add(-1)
		if d.ctx.Err() != nil {
			return
		}
		d.errors.add(describe(err))
		if d.connect(d.ctx) != nil {
			return
		}
		d.counters.reconnects.Add(1)
	}
}

// receive takes what the present connection brings, and returns why it ended.
func (d *device) receive() error {
	sock := d.sock
	err := d.messages(d.rest)
	d.rest = nil
	for err == nil {
		// Acknowledge together what arrived together.
		if !sock.buffered() && len(d.ids) > 0 {
			if err := d.acknowledge(); err != nil {
				return err
			}
		}
		op, payload, e := sock.next()
		switch err = e; {
		case err != nil:
		case op == opText || op == opBinary:
			err = d.messages(payload)
		case op == opPing:
			err = d.write(opPong, payload)
		case op == opClose:
			err = io.EOF
		case op != opPong:
			err = fmt.Errorf("a frame with opcode %d", op)
		}
	}
	return err
}

// write sends a frame on the present connection.
func (d *device) write(op byte, payload []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.active.Store(true)
	return d.sock.write(op, payload)
}

// ping sends a ping if the connection stands and was idle since the last one.
func (d *device) ping() {
	if d.active.Swap(false) {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sock != nil {
		// An error means that the connection is lost, which its reader notices.
		_ = d.sock.write(opText, pingMessage)
	}
}

// messages takes hub messages, each ended by a record separator.
func (d *device) messages(b []byte) error {
	now := time.Now()
	for len(b) > 0 {
		msg, rest, ok := bytes.Cut(b, []byte{recordSeparator})
		if !ok {
			return fmt.Errorf("a hub message of %d bytes has no end", len(b))
		}
		b = rest
		// The type comes first in what the server writes; the JSON decoder is for all else.
		switch {
		case bytes.HasPrefix(msg, []byte(`{"type":1,`)):
			if err := d.message(msg, now); err != nil {
				return err
			}
		case bytes.HasPrefix(msg, []byte(`{"type":6`)):
		case bytes.HasPrefix(msg, []byte(`{"type":7`)):
			var end struct{ Error string }
			if err := json.Unmarshal(msg, &end); err != nil {
				return fmt.Errorf("the server's goodbye: %w", err)
			}
			return fmt.Errorf("closed by the server: %s", end.Error)
		default:
			return fmt.Errorf("an unexpected hub message: %.80q", msg)
		}
	}
	return nil
}

// message takes an invocation of ReceiveMessage.
func (d *device) message(msg []byte, now time.Time) error {
	id, err := esh3ar.ParseID(string(field(msg, `"id":"`)))
	if err != nil {
		return fmt.Errorf("an invocation without a message: %.80q", msg)
	}
	if !d.checked {
		if err := check(msg, id); err != nil {
			return err
		}
		d.checked = true
	}
	d.ids = append(d.ids, id)
	m, ok := parseMark(msg[max(bytes.Index(msg, []byte(`"content":"`)), 0)+len(`"content":"`):])
	if !ok || m.run != d.runID || m.recipient != d.recipient {
		d.counters.foreign.Add(1)
		return nil
	}
	// Receipts of a device have distinct times, which keep their order.
	d.lastAt = max(now.UnixNano(), d.lastAt+1)
	attempt, _ := strconv.Atoi(string(number(msg, `"attempt":`))) // 0 without one
	d.ledger.Append(&Record{
		Kind: Received, Attempt: uint8(min(attempt, 255)), Client: m.client, Recipient: m.recipient, Seq: m.seq,
		Device: d.number, ID: id, At: d.lastAt, Sent: m.sent,
	})
	d.counters.receipts.Add(1)
	if !d.seen.first(m.client, m.seq) {
		return nil
	}
	d.counters.received.Add(1)
	if m.sent < d.measure.Load() || m.sent < d.since.UnixNano() {
		return nil // of the warm-up, or waiting for the device before it came
	}
	d.sent.record(d.number, time.Duration(now.UnixNano()-m.sent))
	if at, err := time.Parse(time.RFC3339Nano, string(field(msg, `"accepted_at":"`))); err == nil {
		d.accepted.record(d.number, now.Sub(at))
	} else {
		d.errors.add("a message without accepted_at")
	}
	return nil
}

// check decodes an invocation in full. The fast way of message is for a shape of JSON that is known,
// so each device makes sure once that this is what it gets.
func check(msg []byte, id esh3ar.ID) error {
	var in struct {
		Target    string
		Arguments []client.Delivery
	}
	if err := json.Unmarshal(msg, &in); err != nil {
		return fmt.Errorf("an invocation that is not JSON: %w", err)
	}
	if in.Target != "ReceiveMessage" || len(in.Arguments) != 1 || in.Arguments[0].ID != id.String() {
		return fmt.Errorf("an unexpected invocation: %.80q", msg)
	}
	return nil
}

// number returns the digits that follow the first occurrence of label.
func number(msg []byte, label string) []byte {
	i := bytes.Index(msg, []byte(label))
	if i < 0 {
		return nil
	}
	digits := msg[i+len(label):]
	n := 0
	for n < len(digits) && digits[n] >= '0' && digits[n] <= '9' {
		n++
	}
	return digits[:n]
}

// acknowledge tells the server of everything received since the last time.
func (d *device) acknowledge() error {
	b := append(d.frame[:0], `{"type":1,"target":"AcknowledgeMessages","arguments":[[`...)
	for i, id := range d.ids {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = id.Append(b)
		b = append(b, '"')
	}
	d.frame = append(b, "]]}\x1e"...)
	d.ids = d.ids[:0]
	return d.write(opText, d.frame)
}
