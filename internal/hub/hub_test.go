package hub_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/hub"
	"github.com/esh3artech/esh3ar/signalr"
	"github.com/esh3artech/esh3ar/signalr/client"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// owner notes what the hub tells it.
type owner struct {
	devices chan *hub.Device
	said    chan string
}

func (o *owner) Attach(recipient string, d *hub.Device) hub.Attachment {
	o.said <- "attached " + recipient
	o.devices <- d
	return o
}

func (o *owner) Acknowledge(ids []esh3ar.ID) { o.said <- "acknowledged " + join(ids) }
func (o *owner) MarkRead(ids []esh3ar.ID)    { o.said <- "read " + join(ids) }
func (o *owner) Detach(free bool) {
	if free {
		o.said <- "detached free"
	} else {
		o.said <- "detached"
	}
}

func join(ids []esh3ar.ID) string {
	var all []string
	for _, id := range ids {
		all = append(all, id.String())
	}
	return strings.Join(all, " ")
}

// verifier takes every token but "bad" for the name of its recipient.
type verifier struct{}

func (verifier) Verify(token string) (string, time.Time, error) {
	if token == "bad" {
		return "", time.Time{}, esh3ar.Errorf(esh3ar.KindUnauthorized, "token_expired", "the token has expired")
	}
	return token, time.Time{}, nil
}

type world struct {
	*owner
	hub *hub.Hub
	srv *signalr.Server
	url string

	circle atomic.Pointer[hub.Hub] // another one at a path below
}

func newWorld(t *testing.T) *world {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	srv, err := signalr.NewServer(signalr.Options{Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{owner: &owner{devices: make(chan *hub.Device, 10), said: make(chan string, 100)}, srv: srv}
	if w.hub, err = hub.New(hub.Options{Server: srv, Owner: w.owner, Tokens: verifier{}, Logger: log, Metrics: prometheus.NewRegistry()}); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	w.hub.Mount(mux, "/hubs/mobile")
	mux.HandleFunc("/hubs/mobile/circle/", func(rw http.ResponseWriter, r *http.Request) { w.circle.Load().ServeHTTP(rw, r) })
	web := httptest.NewServer(mux)
	w.url = web.URL + "/hubs/mobile"
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := srv.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		web.Close()
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	})
	return w
}

func (w *world) expect(t *testing.T, want string) {
	t.Helper()
	select {
	case got := <-w.said:
		if got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	case <-time.After(20 * time.Second):
		t.Fatalf("waited in vain for %q", want)
	}
}

func dial(t *testing.T, url, token string, o client.Options) (*client.Client, error) {
	t.Helper()
	o.AccessToken = func(context.Context) (string, error) { return token, nil }
	o.Reconnect = client.NoReconnect
	c, err := client.New(url, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.On("ReceiveMessage", func(_ context.Context, call *client.Call) (any, error) {
		if strings.Contains(string(call.Raw(0)), "refuse") {
			return nil, errors.New("not now")
		}
		return true, nil
	})
	return c, c.Start(t.Context())
}

func id(n byte) esh3ar.ID { return esh3ar.ID{6: 0x70, 8: 0x80, 13: n} }

func TestDevice(t *testing.T) {
	w := newWorld(t)
	c, err := dial(t, w.url, "rana", client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	w.expect(t, "attached rana")
	a, b := id(1), id(2)
	if err := c.Invoke(t.Context(), nil, "AcknowledgeMessage", a.String()); err != nil {
		t.Error(err)
	}
	w.expect(t, "acknowledged "+a.String())
	if err := c.Invoke(t.Context(), nil, "AcknowledgeMessages", []string{a.String(), b.String()}); err != nil {
		t.Error(err)
	}
	w.expect(t, "acknowledged "+a.String()+" "+b.String())
	if err := c.Invoke(t.Context(), nil, "MarkAsRead", []string{b.String()}); err != nil {
		t.Error(err)
	}
	w.expect(t, "read "+b.String())
	var told *client.HubError
	if err := c.Invoke(t.Context(), nil, "AcknowledgeMessages", []string{a.String(), "nonsense"}); !errors.As(err, &told) || !strings.Contains(told.Error(), "UUID") {
		t.Errorf("a malformed identifier: %v", err)
	}
	c.Close()
	w.expect(t, "detached")
}

func TestResultIsTheAcknowledgement(t *testing.T) {
	w := newWorld(t)
	if _, err := dial(t, w.url+"?ack=result", "rana", client.Options{}); err != nil {
		t.Fatal(err)
	}
	w.expect(t, "attached rana")
	d := <-w.devices
	d.Send(hub.NewFrame(&esh3ar.Message{ID: id(1), Content: "refuse"}, 1))
	d.Send(hub.NewFrame(&esh3ar.Message{ID: id(2), Content: "take"}, 1))
	w.expect(t, "acknowledged "+id(2).String())
}

func TestRefusedToken(t *testing.T) {
	w := newWorld(t)
	var refused *client.HTTPError
	if _, err := dial(t, w.url, "bad", client.Options{}); !errors.As(err, &refused) || refused.Status != http.StatusUnauthorized {
		t.Errorf("got %v", err)
	}
}

func TestDrainIsFree(t *testing.T) {
	w := newWorld(t)
	if _, err := dial(t, w.url, "rana", client.Options{}); err != nil {
		t.Fatal(err)
	}
	w.expect(t, "attached rana")
	w.hub.Drain()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := w.srv.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	w.expect(t, "detached free")
}
