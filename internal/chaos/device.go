//go:build unix

package chaos

import (
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/esh3artech/esh3ar/client"
	signalr "github.com/esh3artech/esh3ar/signalr/client"
)

// away reports whether the recipient never has a device.
func (l *lab) away(recipient uint32) bool { return int(recipient) >= l.opts.Recipients-l.opts.Away }

// device is one phone of a recipient: it connects, receives, acknowledges most of it, leaves or
// vanishes, and comes back, until ctx ends. While the laboratory settles it stays and acknowledges
// everything.
func (l *lab) device(ctx context.Context, recipient uint32, number int, dice *rand.Rand) {
	d := &device{lab: l, recipient: recipient, number: number, dice: dice, silent: recipient%2 == 0, steady: int(recipient) >= l.opts.Recipients}
	// Every fourth recipient is rarely there.
	absence := 500 * time.Millisecond
	switch {
	case d.steady:
		d.silent, absence = false, 50*time.Millisecond
	case recipient%4 == 3:
		absence = 6 * time.Second
	}
	for ctx.Err() == nil {
		d.connection(ctx)
		most := absence
		if l.settling.Load() {
			most = 50 * time.Millisecond
		}
		wait, cancel := context.WithCancel(ctx)
		stop := context.AfterFunc(l.settleCtx, cancel) // whoever is away comes when it is time to settle
		if !l.settling.Load() {
			pause(wait, rand64(dice, most))
		} else {
			pause(ctx, rand64(dice, most))
		}
		stop()
		cancel()
	}
}

type device struct {
	*lab
	recipient uint32
	number    int
	dice      *rand.Rand
	silent    bool // one of those that can be made not to acknowledge
	steady    bool // a probe's: it does not leave by itself and acknowledges everything

	mu   sync.Mutex
	conn net.Conn // of the present connection, to vanish with
	past []string // a few of what was acknowledged
}

// incoming bounds what waits for its acknowledgement. Beyond it acknowledgements are left out, and the
// server sends again.
const incoming = 4096

// connection is the life of one connection.
func (d *device) connection(ctx context.Context) {
	ids := make(chan string, incoming)
	token, _, err := d.tokens.Mint(recipientName(d.recipient), 24*time.Hour)
	if err != nil {
		d.book.fault("minting a token: %v", err)
		return
	}
	c, err := signalr.New(d.proxy.url()+"/hubs/mobile", signalr.Options{
		SkipNegotiation: true, Reconnect: signalr.NoReconnect, HandshakeTimeout: 5 * time.Second, ServerTimeout: 12 * time.Second,
		KeepAliveInterval: 5 * time.Second, WriteTimeout: 2 * time.Second,
		AccessToken: func(context.Context) (string, error) { return token, nil },
		Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
			d.mu.Lock()
			d.conn = conn
			d.mu.Unlock()
			return conn, err
		},
	})
	if err != nil {
		d.book.fault("a device: %v", err)
		return
	}
	signalr.On1(c, "ReceiveMessage", func(_ context.Context, m client.Delivery) {
		d.book.received(d.recipient, d.number, m.ID, m.Content)
		select {
		case ids <- m.ID:
		default:
		}
	})
	if d.steady {
		d.book.connecting(d.recipient)
	}
	if c.Start(ctx) != nil {
		return // there is no server, or the connection was cut already
	}
	if d.steady {
		d.book.connected(d.recipient)
	}
	defer func() {
		if !d.settling.Load() && !d.steady && d.dice.IntN(2) == 0 {
			d.mu.Lock()
			d.conn.Close() // without a word
			d.mu.Unlock()
		}
		_ = c.Close() // how the goodbye went does not matter
		<-c.Done()
	}()
	d.converse(ctx, c, ids)
}

// converse acknowledges what comes in, for a random while or until the connection or ctx ends.
func (d *device) converse(ctx context.Context, c *signalr.Client, ids <-chan string) {
	stay := time.NewTimer(500*time.Millisecond + rand64(d.dice, 4*time.Second))
	defer stay.Stop()
	for {
		select {
		case id := <-ids:
			batch := []string{id}
			for more := d.dice.IntN(8); more > 0 && len(ids) > 0; more-- {
				batch = append(batch, <-ids)
			}
			if d.acknowledge(ctx, c, batch) != nil {
				return
			}
		case <-stay.C:
			if !d.settling.Load() && !d.steady {
				return
			}
		case <-c.Done():
			return
		case <-ctx.Done():
			return
		}
	}
}

// acknowledge tells the server that the messages are shown, unless it is this device's turn not to.
func (d *device) acknowledge(ctx context.Context, c *signalr.Client, ids []string) error {
	calm := d.settling.Load() || d.steady
	if !calm && (d.silent && d.silence.Load() || d.dice.IntN(20) == 0) {
		return nil
	}
	send := func(ids []string) error {
		if len(ids) == 1 {
			return c.Send(ctx, "AcknowledgeMessage", ids[0])
		}
		return c.Send(ctx, "AcknowledgeMessages", ids)
	}
	if err := send(ids); err != nil {
		return err
	}
	if !calm && d.doubled.Load() {
		// Again, with something long done and something that never was.
		again := append([]string{uuid.NewString()}, ids...)
		if len(d.past) > 0 {
			again = append(again, d.past[d.dice.IntN(len(d.past))])
		}
		if err := send(again); err != nil {
			return err
		}
	}
	if len(d.past) < 100 {
		d.past = append(d.past, ids[0])
	} else {
		d.past[d.dice.IntN(len(d.past))] = ids[0]
	}
	return nil
}
