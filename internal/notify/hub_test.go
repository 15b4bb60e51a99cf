package notify

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/signalr"
	"github.com/esh3artech/esh3ar/signalr/client"
)

// serveHub serves the world's business hub. The key of a client is its name and "-key", while revoked is
// not set.
func serveHub(w *world) (url string, revoked *atomic.Bool) {
	w.Helper()
	revoked = new(atomic.Bool)
	server, err := signalr.NewServer(signalr.Options{})
	if err != nil {
		w.Fatal(err)
	}
	refused := esh3ar.Errorf(esh3ar.KindUnauthorized, "api_key_unknown", "no such key")
	h, err := w.NewHub(HubOptions{
		Server: server,
		Caller: func(_ *http.Request, key string) (Caller, error) {
			name, ok := strings.CutSuffix(key, "-key")
			if !ok {
				return Caller{}, refused
			}
			return Caller{Client: name, Check: func(context.Context) error {
				if revoked.Load() {
					return refused
				}
				return nil
			}}, nil
		},
		Refusal: func(err error) *signalr.HTTPError {
			return &signalr.HTTPError{Status: http.StatusUnauthorized, Message: err.Error()}
		},
	})
	if err != nil {
		w.Fatal(err)
	}
	mux := http.NewServeMux()
	h.Mount(mux, "/hubs/business")
	web := httptest.NewServer(mux)
	w.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil {
			w.Error(err)
		}
		web.Close()
	})
	return web.URL + "/hubs/business", revoked
}

// business is a business client's connection.
type business struct {
	*client.Client
	t      testing.TB
	events chan wireEvent
	ended  chan string // the problem of SubscriptionEnded
	hold   chan struct{}
}

func connect(t testing.TB, url, key string, p client.Protocol) *business {
	t.Helper()
	b := &business{t: t, events: make(chan wireEvent, 10_000), ended: make(chan string, 1), hold: make(chan struct{})}
	close(b.hold)
	var err error
	if b.Client, err = client.New(url, client.Options{
		Protocol: p, Reconnect: client.NoReconnect,
		AccessToken: func(context.Context) (string, error) { return key, nil },
	}); err != nil {
		t.Fatal(err)
	}
	b.On("MessageStatusChanged", func(_ context.Context, call *client.Call) (any, error) {
		<-b.hold
		var e wireEvent
		if err := call.Decode(0, &e); err != nil {
			t.Error(err)
		}
		b.events <- e
		return nil, nil
	})
	b.On("SubscriptionEnded", func(_ context.Context, call *client.Call) (any, error) {
		b.ended <- string(call.Raw(0))
		return nil, nil
	})
	return b
}

func (b *business) start() *business {
	b.t.Helper()
	if err := b.Start(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		_ = b.Close() // some are closed already
		<-b.Done()
	})
	return b
}

func (b *business) subscribe(cursor any) string {
	b.t.Helper()
	var begins string
	if err := b.Invoke(b.t.Context(), &begins, "Subscribe", cursor); err != nil {
		b.t.Fatal(err)
	}
	return begins
}

func (b *business) next() wireEvent {
	b.t.Helper()
	select {
	case e := <-b.events:
		return e
	case <-b.Done():
		b.t.Fatalf("the connection ended: %v", b.Err())
	case <-time.After(patience):
		b.t.Fatal("nothing came")
	}
	return wireEvent{}
}

func TestHub(t *testing.T) {
	for name, p := range map[string]client.Protocol{"JSON": client.JSON, "MessagePack": client.MessagePack} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			url, _ := serveHub(w)
			w.commit(0, delivered, "alice")
			alice, bob := connect(t, url, "alice-key", p).start(), connect(t, url, "bob-key", p).start()
			begins := alice.subscribe(nil)
			bob.subscribe("")
			w.commit(1, delivered, "bob", "alice")
			for i, want := range []string{"queued", "sent", "delivered"} {
				for _, b := range []*business{alice, bob} {
					if e := b.next(); e.Data.Status != want || e.Data.Seq != i+2 || e.Type != "message."+want || e.Time != w.now.Format("2006-01-02T15:04:05.000000Z") || e.ID == "" {
						t.Errorf("%+v", e)
					}
				}
			}
			again := connect(t, url, "alice-key", p).start()
			again.subscribe(begins)
			if e := again.next(); e.Data.Status != "queued" || e.Data.Seq != 2 {
				t.Errorf("%+v", e)
			}
			all := connect(t, url, "alice-key", p).start()
			all.subscribe("start")
			for range 6 {
				all.next()
			}
			// What is wrong is said, and the connection goes on.
			err := alice.Invoke(t.Context(), nil, "Subscribe", "")
			if err == nil || !strings.Contains(err.Error(), "has a subscription") {
				t.Errorf("a second subscription: %v", err)
			}
			late := connect(t, url, "bob-key", p).start()
			if err := late.Invoke(t.Context(), nil, "Subscribe", "nonsense"); err == nil || !strings.Contains(err.Error(), "not one that was given out") {
				t.Errorf("a cursor from elsewhere: %v", err)
			}
			late.subscribe("start")
			late.next()
		})
	}
}

func TestHubRefusesUnknownKeys(t *testing.T) {
	w := newWorld(t)
	url, _ := serveHub(w)
	b := connect(t, url, "nobody", client.JSON)
	var refused *client.HTTPError
	if err := b.Start(t.Context()); !errors.As(err, &refused) || refused.Status != http.StatusUnauthorized {
		t.Errorf("%v", err)
	}
	_ = b.Close() // it never stood
}

func TestHubEndsWithTheKey(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.CheckEvery = 20 * time.Millisecond })
	url, revoked := serveHub(w)
	b := connect(t, url, "alice-key", client.JSON).start()
	b.subscribe(nil)
	revoked.Store(true)
	select {
	case <-b.Done():
		if err := b.Err(); err == nil || !strings.Contains(err.Error(), "no such key") {
			t.Errorf("%v", err)
		}
	case <-time.After(patience):
		t.Error("goes on")
	}
}

func TestHubTellsWhatIsLost(t *testing.T) {
	w := newWorld(t)
	url, _ := serveHub(w)
	b := connect(t, url, "alice-key", client.JSON).start()
	b.subscribe(nil)
	w.commit(0, delivered, "alice")
	for range 3 {
		b.next()
	}
	w.faults.restored.Store(true)
	select {
	case problem := <-b.ended:
		if !strings.Contains(problem, "ahead of all events") {
			t.Errorf("%s", problem)
		}
	case <-time.After(patience):
		t.Fatal("no word of it")
	}
	w.faults.restored.Store(false)
	b.subscribe("start")
	for range 3 {
		b.next()
	}
}

// TestHubSlowClient gets more than the connection's outbox holds, at once, and is not cut off for it.
func TestHubSlowClient(t *testing.T) {
	w := newWorld(t)
	url, _ := serveHub(w)
	many := make([]string, 500)
	for i := range many {
		many[i] = "alice"
	}
	for range 4 {
		w.commit(0, delivered, many...)
	}
	slow := connect(t, url, "alice-key", client.JSON)
	slow.hold = make(chan struct{})
	slow.start()
	slow.subscribe("start")
	quick := connect(t, url, "alice-key", client.JSON).start()
	quick.subscribe("start")
	for range 4 * 3 * len(many) {
		quick.next()
	}
	close(slow.hold)
	for range 4 * 3 * len(many) {
		slow.next()
	}
}
