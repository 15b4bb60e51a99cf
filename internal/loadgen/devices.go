package loadgen

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
	// Client is what the devices connect with; "" means GoClient.
	Client DeviceClient `json:"client,omitempty"`
	// Measure is from when latencies are recorded, by the time of sending.
	Measure time.Time `json:"measure"`
}

// Devices are mobile users, each with a connection to the mobile hub. They acknowledge what they
// receive, and connect again when they lose their connection.
type Devices struct {
	hub     *hub
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
	hub, err := newHub(t, a.Client)
	if err != nil {
		return nil, err
	}
	d := &Devices{hub: hub, runID: run, ledger: ledger, accepted: newLatency(), sent: newLatency(), seen: make([]flows, a.N)}
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

// Close disconnects all devices and returns when they have ended. Connect must not be running.
func (d *Devices) Close() {
	d.cancel()
	_ = each(context.Background(), len(d.all), connecting, func(_ context.Context, i int) error {
		d.all[i].hangUp()
		return nil
	})
	d.wg.Wait()
	d.hub.close()
	if d.api != nil {
		d.api.Close()
	}
}

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

	mu   sync.Mutex // guards link's change
	link link       // nil while there is no connection

	// What follows belongs to whoever connects or receives.
	since   time.Time   // when it first connected
	lastAt  int64       // of the last receipt, in nanoseconds since 1970
	ids     []esh3ar.ID // received and not acknowledged yet
	checked bool        // whether a message was decoded in full
}

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
	if d.since.IsZero() {
		d.since = time.Now()
	}
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
		var refused *refusedError
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
	l, err := d.hub.link(token, d)
	if err != nil {
		return err
	}
	d.ids = d.ids[:0] // what came over an earlier connection will come again
	// Known before it stands: messages may arrive before connect returns.
	d.mu.Lock()
	d.link = l
	d.mu.Unlock()
	if err := l.connect(ctx); err != nil {
		d.mu.Lock()
		d.link = nil
		d.mu.Unlock()
		return err
	}
	return nil
}

// hangUp says goodbye on the present connection, if there is one.
func (d *device) hangUp() {
	d.mu.Lock()
	l := d.link
	d.mu.Unlock()
	if l != nil {
		l.close()
	}
}

// run receives until the Devices are closed.
func (d *device) run() {
	for {
		err := d.link.receive()
		d.mu.Lock()
		d.link = nil
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

// message takes what came as a ReceiveMessage.
func (d *device) message(body []byte, now time.Time) error {
	id, err := esh3ar.ParseID(string(field(body, `"id":"`)))
	if err != nil {
		return fmt.Errorf("a message without an id: %.80q", body)
	}
	if !d.checked {
		if err := check(body, id); err != nil {
			return err
		}
		d.checked = true
	}
	d.ids = append(d.ids, id)
	m, ok := parseMark(body[max(bytes.Index(body, []byte(`"content":"`)), 0)+len(`"content":"`):])
	if !ok || m.run != d.runID || m.recipient != d.recipient {
		d.counters.foreign.Add(1)
		return nil
	}
	// Receipts of a device have distinct times, which keep their order.
	d.lastAt = max(now.UnixNano(), d.lastAt+1)
	attempt, _ := strconv.Atoi(string(number(body, `"attempt":`))) // 0 without one
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
	if at, err := time.Parse(time.RFC3339Nano, string(field(body, `"accepted_at":"`))); err == nil {
		d.accepted.record(d.number, now.Sub(at))
	} else {
		d.errors.add("a message without accepted_at")
	}
	return nil
}

// settle acknowledges what has arrived.
func (d *device) settle() error {
	if len(d.ids) == 0 {
		return nil
	}
	err := d.link.acknowledge(d.ids)
	d.ids = d.ids[:0]
	return err
}

// check decodes a message in full. The fast way of message is for a shape of JSON that is known, so
// each device makes sure once that this is what it gets.
func check(body []byte, id esh3ar.ID) error {
	var in client.Delivery
	if err := json.Unmarshal(body, &in); err != nil {
		return fmt.Errorf("a message that does not decode: %w", err)
	}
	if in.ID != id.String() {
		return fmt.Errorf("an unexpected message: %.80q", body)
	}
	return nil
}

// number returns the digits that follow the first occurrence of label.
func number(body []byte, label string) []byte {
	i := bytes.Index(body, []byte(label))
	if i < 0 {
		return nil
	}
	digits := body[i+len(label):]
	n := 0
	for n < len(digits) && digits[n] >= '0' && digits[n] <= '9' {
		n++
	}
	return digits[:n]
}
