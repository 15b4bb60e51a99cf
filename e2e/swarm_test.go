package e2e

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	signalr "github.com/esh3artech/esh3ar/signalr/client"
)

// swarm is devices that negotiate and reconnect at once, and senders that write to them. A ledger has what was sent and what
// arrived.
type swarm struct {
	t      *testing.T
	ledger *ledger

	mu   sync.Mutex
	back []time.Time // when a device had reconnected
	size int
	urls []string // of the servers that take messages

	cancel  context.CancelFunc
	senders sync.WaitGroup
}

func newSwarm(t *testing.T) *swarm { return &swarm{t: t, ledger: newLedger()} }

// nobody is the recipients without a device.
func nobody(string) bool { return false }

func swarmRecipient(i int) string { return fmt.Sprint("swarm", i) }

// settler has the first negotiation stay where it goes, as of a device that another node has sent there; later ones are the
// device's own.
type settler struct {
	once sync.Once
	web  http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (s *settler) RoundTrip(r *http.Request) (*http.Response, error) {
	s.once.Do(func() {
		r = r.Clone(r.Context())
		query := r.URL.Query()
		query.Set("moved", "1")
		r.URL.RawQuery = query.Encode()
	})
	return s.web.RoundTrip(r)
}

// connect connects so many more devices whose address is that of the server, and stay there until they are told to go.
func (w *swarm) connect(s *server, n int) {
	w.t.Helper()
	web := &http.Transport{DisableKeepAlives: true}
	var dialing sync.WaitGroup
	slots := make(chan struct{}, 16)
	for range n {
		to := swarmRecipient(w.size)
		w.size++
		// One for all its life: a balancer keeps together what comes with the same.
		bearer := token(w.t, to, time.Hour)
		var mu sync.Mutex
		connection := 0
		device, err := signalr.New(s.url+"/hubs/mobile", signalr.Options{
			AccessToken: func(context.Context) (string, error) { return bearer, nil },
			HTTPClient:  &http.Client{Transport: &settler{web: web}},
			Reconnect: func(attempt int, _ error) (time.Duration, bool) {
				if attempt == 1 {
					return 0, true // as official clients do
				}
				return 200 * time.Millisecond, true
			},
			OnReconnecting: func(error) {
				mu.Lock()
				connection++
				mu.Unlock()
			},
			OnReconnected: func(string) {
				w.mu.Lock()
				w.back = append(w.back, time.Now())
				w.mu.Unlock()
			},
		})
		if err != nil {
			w.t.Fatal(err)
		}
		device.On("ReceiveMessage", func(ctx context.Context, call *signalr.Call) (any, error) {
			var m delivery
			if err := call.Decode(0, &m); err != nil {
				return nil, err
			}
			mu.Lock()
			now := connection
			mu.Unlock()
			w.ledger.received(to, now, m.ID, m.Content)
			return nil, device.Send(ctx, "AcknowledgeMessage", m.ID) // without it the message comes again
		})
		w.t.Cleanup(func() {
			_ = device.Close()
			<-device.Done()
		})
		slots <- struct{}{}
		dialing.Go(func() {
			defer func() { <-slots }()
			if err := device.Start(w.t.Context()); err != nil {
				w.t.Errorf("connecting %s: %v", to, err)
			}
		})
	}
	dialing.Wait()
}

// reconnections returns how often devices came back, and how often at most within a second.
func (w *swarm) reconnections() (n, peak int) {
	w.mu.Lock()
	back := slices.Clone(w.back)
	w.mu.Unlock()
	slices.SortFunc(back, time.Time.Compare)
	first := 0
	for i, at := range back {
		for at.Sub(back[first]) > time.Second {
			first++
		}
		peak = max(peak, i-first+1)
	}
	return len(back), peak
}

// serve says which servers take messages from now on.
func (w *swarm) serve(servers ...*server) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.urls = nil
	for _, s := range servers {
		if s != nil {
			w.urls = append(w.urls, s.url)
		}
	}
}

// write has messages sent to all devices in turn, until finish or the end of the test.
func (w *swarm) write() {
	ctx, cancel := context.WithCancel(w.t.Context())
	w.cancel = cancel
	w.t.Cleanup(func() {
		cancel()
		w.senders.Wait()
	})
	w.senders.Go(func() {
		pace := time.NewTicker(8 * time.Millisecond)
		defer pace.Stop()
		for i := 0; ; i++ {
			w.send(swarmRecipient(i%w.size), fmt.Sprint("message ", i))
			select {
			case <-pace.C:
			case <-ctx.Done():
				return
			}
		}
	})
}

// send sends a message to one server after the other until it is accepted.
func (w *swarm) send(to, content string) {
	w.ledger.begin(to, content)
	for try := 0; ; try++ {
		w.mu.Lock()
		url := w.urls[try%len(w.urls)]
		w.mu.Unlock()
		a := newAPI(url)
		r, err := a.send(w.t.Context(), outgoing{To: to, Content: content, Key: content})
		a.close()
		if err == nil {
			w.ledger.accepted(content, r.ID)
			return
		}
		if w.t.Context().Err() != nil {
			return
		}
		if try == 100 {
			w.t.Errorf("%q is not accepted: %v", content, err)
			return
		}
		select {
		case <-time.After(50 * time.Millisecond): // until the next try
		case <-w.t.Context().Done():
			return
		}
	}
}

// finish ends the sending and checks that every message was received and is delivered, as the server sees it.
func (w *swarm) finish(s *server) *account {
	w.t.Helper()
	w.cancel()
	w.senders.Wait()
	s.await("all messages to arrive", func() bool { return w.ledger.settled(nobody) })
	a := w.ledger.close(nobody)
	for _, fault := range a.faults {
		w.t.Error(fault)
	}
	asked := s.api()
	defer asked.close()
	for id := range a.ids {
		s.awaitStatus(asked, id, "delivered")
	}
	return a
}
