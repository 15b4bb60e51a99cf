package client_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar/client"
	"github.com/esh3artech/esh3ar/signalr"
)

// hub is a mobile hub whose connections a test drives.
type hub struct {
	url       string
	connected chan *signalr.Conn
	acked     chan []string
	read      chan []string
}

// patience is how long a test waits at most for what must come.
const patience = 10 * time.Second

func next[T any](t *testing.T, what string, from <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-from:
	case <-time.After(patience):
		t.Fatalf("no %s within %v", what, patience)
	}
	return v
}

// startHub serves a hub that knows the device with the token "good".
func startHub(t *testing.T) *hub {
	t.Helper()
	srv, err := signalr.NewServer(signalr.Options{})
	if err != nil {
		t.Fatal(err)
	}
	h := &hub{connected: make(chan *signalr.Conn, 10), acked: make(chan []string, 100), read: make(chan []string, 100)}
	sh, err := srv.NewHub(signalr.HubOptions{
		Authenticate: func(r *http.Request) (signalr.Identity, error) {
			if signalr.AccessToken(r) != "good" {
				return signalr.Identity{}, errors.New("who?")
			}
			return signalr.Identity{UserID: "amina"}, nil
		},
		OnConnected: func(_ context.Context, c *signalr.Conn) error {
			h.connected <- c
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	take := func(ch chan []string) signalr.Method {
		return signalr.Action1(func(_ context.Context, _ *signalr.Conn, ids []string) error {
			ch <- ids
			return nil
		})
	}
	sh.Handle("AcknowledgeMessages", take(h.acked))
	sh.Handle("MarkAsRead", take(h.read))
	mux := http.NewServeMux()
	sh.Mount(mux, "/hubs/mobile")
	mux.HandleFunc("POST /v1/recipient-tokens", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]string{"token": "good", "expires_at": "2026-11-25T00:00:00Z"})
	})
	web := httptest.NewServer(mux)
	h.url = web.URL
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := srv.Shutdown(ctx); err != nil {
			t.Errorf("shutting the hub down: %v", err)
		}
		web.Close()
	})
	return h
}

// deliver sends messages with these ids.
func deliver(t *testing.T, c *signalr.Conn, ids ...string) {
	t.Helper()
	for _, id := range ids {
		m := signalr.NewMessage("ReceiveMessage", signalr.RawJSON(`{"id":"`+id+`","from":"shop","content":"hello",`+
			`"metadata":{"k":"v"},"accepted_at":"2026-11-24T20:00:00.5Z","attempt":1}`))
		if err := c.Send(m); err != nil {
			t.Fatal(err)
		}
	}
}

// listen runs a listener until the test ends, and returns where its deliveries go.
func listen(t *testing.T, h *hub, handle client.Handler, opts client.ListenOptions) (*client.Listener, func()) {
	t.Helper()
	l, err := client.NewListener(h.url, client.StaticToken("good"), handle, opts)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	stopped := false
	stop := func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := next(t, "end of the listener", done); err != nil {
			t.Errorf("the listener ended with %v", err)
		}
	}
	t.Cleanup(stop)
	return l, stop
}

// ackedIDs collects acknowledged ids until there are n.
func (h *hub) ackedIDs(t *testing.T, n int) (ids []string) {
	t.Helper()
	for len(ids) < n {
		ids = append(ids, next(t, "acknowledgement", h.acked)...)
	}
	return ids
}

// A device whose negotiation is answered with the address of another server connects there, and asks at its own address again
// when it comes back.
func TestListenerIsSentToAnotherServer(t *testing.T) {
	h := startHub(t)
	asked := make(chan string, 10)
	balancer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Method + " " + r.URL.Path
		answer(w, http.StatusOK, map[string]string{"url": h.url + "/hubs/mobile?moved=1", "accessToken": "good"})
	}))
	t.Cleanup(balancer.Close)
	behind := *h
	behind.url = balancer.URL
	got := make(chan client.Delivery, 10)
	listen(t, &behind, func(_ context.Context, d client.Delivery) error {
		got <- d
		return nil
	}, client.ListenOptions{})
	for _, id := range []string{"a", "b"} {
		c := next(t, "connection", h.connected)
		deliver(t, c, id)
		if d := next(t, "delivery", got); d.ID != id {
			t.Errorf("delivery %+v", d)
		}
		if what := next(t, "negotiation", asked); what != "POST /hubs/mobile/negotiate" || len(asked) != 0 {
			t.Errorf("the balancer was asked %s, and %d times more", what, len(asked))
		}
		h.ackedIDs(t, 1)
		c.Close("", true)
	}
}

func TestListenerAcknowledgesWhatItHandled(t *testing.T) {
	h := startHub(t)
	got := make(chan client.Delivery, 10)
	l, _ := listen(t, h, func(_ context.Context, d client.Delivery) error {
		got <- d
		return nil
	}, client.ListenOptions{})
	c := next(t, "connection", h.connected)
	deliver(t, c, "a", "b", "c")
	d := next(t, "delivery", got)
	if d.ID != "a" || d.From != "shop" || d.Content != "hello" || d.Metadata["k"] != "v" || d.Attempt != 1 ||
		!d.AcceptedAt.Equal(time.Date(2026, 11, 24, 20, 0, 0, 5e8, time.UTC)) || time.Since(d.ReceivedAt) > patience {
		t.Errorf("delivery %+v", d)
	}
	if ids := h.ackedIDs(t, 3); !slices.Equal(ids, []string{"a", "b", "c"}) {
		t.Errorf("acknowledged %v", ids)
	}
	if err := l.MarkAsRead(t.Context(), "a", "c"); err != nil {
		t.Fatal(err)
	}
	if ids := next(t, "read receipt", h.read); !slices.Equal(ids, []string{"a", "c"}) {
		t.Errorf("marked %v as read", ids)
	}
}

func TestListenerAcknowledgesInBatches(t *testing.T) {
	h := startHub(t)
	listen(t, h, func(context.Context, client.Delivery) error { return nil }, client.ListenOptions{AckDelay: time.Second})
	c := next(t, "connection", h.connected)
	deliver(t, c, "a", "b", "c", "d", "e")
	if ids := next(t, "acknowledgement", h.acked); len(ids) != 5 {
		t.Errorf("the first acknowledgement is of %v, want all five", ids)
	}
}

func TestListenerDropsRepeatsAndAcknowledgesThemAgain(t *testing.T) {
	h := startHub(t)
	var handled []string
	listen(t, h, func(_ context.Context, d client.Delivery) error {
		handled = append(handled, d.ID)
		return nil
	}, client.ListenOptions{Memory: 2})
	c := next(t, "connection", h.connected)
	deliver(t, c, "a", "a", "b", "a", "c", "b", "a") // at the last one, a is forgotten
	if ids := h.ackedIDs(t, 7); !slices.Equal(ids, []string{"a", "a", "b", "a", "c", "b", "a"}) {
		t.Errorf("acknowledged %v", ids)
	}
	if !slices.Equal(handled, []string{"a", "b", "c", "a"}) {
		t.Errorf("handled %v", handled)
	}
}

func TestListenerDoesNotAcknowledgeWhatItsHandlerRefused(t *testing.T) {
	h := startHub(t)
	refuse := true
	listen(t, h, func(_ context.Context, d client.Delivery) error {
		if d.ID == "a" && refuse {
			refuse = false
			return errors.New("not now")
		}
		return nil
	}, client.ListenOptions{})
	c := next(t, "connection", h.connected)
	deliver(t, c, "a", "b")
	if ids := h.ackedIDs(t, 1); !slices.Equal(ids, []string{"b"}) {
		t.Errorf("acknowledged %v, want b alone", ids)
	}
	deliver(t, c, "a")
	if ids := h.ackedIDs(t, 1); !slices.Equal(ids, []string{"a"}) {
		t.Errorf("acknowledged %v, want a on its second coming", ids)
	}
}

func TestListenerConnectsAgain(t *testing.T) {
	h := startHub(t)
	handled := make(chan string, 10)
	lost := make(chan error, 10)
	listen(t, h, func(_ context.Context, d client.Delivery) error {
		handled <- d.ID
		return nil
	}, client.ListenOptions{OnDisconnect: func(err error, wait time.Duration) {
		if wait > time.Second {
			t.Errorf("waits %v before the first attempt", wait)
		}
		lost <- err
	}})
	c := next(t, "connection", h.connected)
	deliver(t, c, "a")
	next(t, "delivery", handled)
	h.ackedIDs(t, 1)
	c.Close("maintenance", true)
	next(t, "word of the loss", lost)
	c = next(t, "second connection", h.connected)
	deliver(t, c, "a", "b")
	if id := next(t, "delivery", handled); id != "b" {
		t.Errorf("handled %s again, want b", id)
	}
	if ids := h.ackedIDs(t, 2); !slices.Equal(ids, []string{"a", "b"}) {
		t.Errorf("acknowledged %v", ids)
	}
}

func TestListenerAcknowledgesAtTheEnd(t *testing.T) {
	h := startHub(t)
	started, release := make(chan struct{}), make(chan struct{})
	_, stop := listen(t, h, func(context.Context, client.Delivery) error {
		close(started)
		<-release
		return nil
	}, client.ListenOptions{AckDelay: time.Minute})
	c := next(t, "connection", h.connected)
	deliver(t, c, "a")
	next(t, "start of the handler", started)
	close(release)
	stop()
	if ids := h.ackedIDs(t, 1); !slices.Equal(ids, []string{"a"}) {
		t.Errorf("acknowledged %v", ids)
	}
}

func TestListenerGivesUpWhatIsHopeless(t *testing.T) {
	h := startHub(t)
	handle := func(context.Context, client.Delivery) error { return nil }
	l, err := client.NewListener(h.url, client.StaticToken("bad"), handle, client.ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Run(t.Context()); err == nil {
		t.Error("a refused token is tried for ever")
	}
	l, err = client.NewListener(h.url, func(context.Context) (string, error) {
		return "", &client.Problem{Status: 403, Code: "may_not_mint_tokens", Permanent: true}
	}, handle, client.ListenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var p *client.Problem
	if err := l.Run(t.Context()); !errors.As(err, &p) || p.Status != 403 {
		t.Errorf("error %v, want the source's", err)
	}
	if err := l.MarkAsRead(t.Context(), "a"); !errors.Is(err, client.ErrNotConnected) {
		t.Errorf("error %v, want ErrNotConnected", err)
	}
}

func TestClientListens(t *testing.T) {
	h := startHub(t)
	c, err := client.New(h.url, "esh_key")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- c.Listen(ctx, "amina", func(context.Context, client.Delivery) error { return nil }, client.ListenOptions{})
	}()
	deliver(t, next(t, "connection", h.connected), "a")
	h.ackedIDs(t, 1)
	cancel()
	if err := next(t, "end", done); err != nil {
		t.Error(err)
	}
}
