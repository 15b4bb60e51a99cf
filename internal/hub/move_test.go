package hub_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/hub"
	"github.com/esh3artech/esh3ar/signalr"
	"github.com/esh3artech/esh3ar/signalr/client"
)

// connect connects a device that does not acknowledge, and returns its end.
func (w *world) connect(t *testing.T, name string, skipNegotiation bool) (*client.Client, *hub.Device) {
	t.Helper()
	c, err := dial(t, w.url, name, client.Options{SkipNegotiation: skipNegotiation})
	if err != nil {
		t.Fatal(err)
	}
	w.expect(t, "attached "+name)
	return c, <-w.devices
}

// ended waits for the end of a connection and returns what the server said.
func ended(t *testing.T, c *client.Client) error {
	t.Helper()
	select {
	case <-c.Done():
		return c.Err()
	case <-time.After(20 * time.Second):
		t.Fatal("the connection has not ended")
		return nil
	}
}

func TestMove(t *testing.T) {
	w := newWorld(t)
	oldest, busy := w.connect(t, "oldest", false)
	fixed, _ := w.connect(t, "fixed", true)
	second, _ := w.connect(t, "second", false)
	third, _ := w.connect(t, "third", false)
	busy.Send(hub.NewFrame(&esh3ar.Message{ID: id(1), To: "oldest", Content: "x"}, 1))
	if all, negotiated := w.hub.Devices(); all != 4 || negotiated != 3 {
		t.Fatalf("%d devices, %d negotiated", all, negotiated)
	}
	for _, want := range []struct {
		name string
		c    *client.Client
	}{
		{"the one that has been there longest of those with nothing in flight", second},
		{"then the next", third},
		{"then who has something in flight", oldest},
	} {
		if n := w.hub.Move(1, hub.ForBalance); n != 1 {
			t.Fatalf("%s: %d were told", want.name, n)
		}
		if err := ended(t, want.c); err == nil {
			t.Errorf("%s: the end is no call to reconnect", want.name)
		}
		w.expect(t, "detached free")
	}
	if n := w.hub.Move(10, hub.ForOverload); n != 0 {
		t.Errorf("%d were told that would come back", n)
	}
	if all, negotiated := w.hub.Devices(); all != 1 || negotiated != 0 {
		t.Errorf("%d devices, %d negotiated", all, negotiated)
	}
	if n := w.hub.Move(10, hub.ForCutOff); n != 1 {
		t.Errorf("%d were told, and one is left", n)
	}
	if n := w.hub.Move(10, hub.ForCutOff); n != 0 {
		t.Errorf("%d were told twice", n)
	}
	_ = ended(t, fixed)
	w.expect(t, "detached free")
}

// Acknowledged messages are not in flight, and too many acknowledgements are not less than none.
func TestMoveAfterAcknowledgement(t *testing.T) {
	w := newWorld(t)
	first, d1 := w.connect(t, "first", false)
	second, d2 := w.connect(t, "second", false)
	for _, d := range []*hub.Device{d1, d2} {
		d.Send(hub.NewFrame(&esh3ar.Message{ID: id(1), To: "x", Content: "x"}, 1))
	}
	for range 3 {
		if err := second.Invoke(t.Context(), nil, "AcknowledgeMessage", id(1).String()); err != nil {
			t.Fatal(err)
		}
		w.expect(t, "acknowledged "+join([]esh3ar.ID{id(1)}))
	}
	w.hub.Move(1, hub.ForBalance)
	_ = ended(t, second)
	w.expect(t, "detached free")
	d1.Send(hub.NewFrame(&esh3ar.Message{ID: id(2), To: "x", Content: "x"}, 1))
	w.hub.Move(1, hub.ForBalance)
	_ = ended(t, first)
	w.expect(t, "detached free")
}

// All go, at a pace.
func TestEmpty(t *testing.T) {
	w := newWorld(t)
	const many = 12
	var all []*client.Client
	for i := range many {
		c, _ := w.connect(t, fmt.Sprint("device", i), i%2 == 0)
		all = append(all, c)
	}
	began := time.Now()
	if n := w.hub.Empty(t.Context(), time.Minute, hub.ForStop); n != many {
		t.Errorf("%d were told", n)
	}
	if took := time.Since(began); took < 200*time.Millisecond {
		t.Errorf("%d went within %s: all at once", many, took)
	}
	for _, c := range all {
		_ = ended(t, c)
		w.expect(t, "detached free")
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	w.connect(t, "late", false)
	if n := w.hub.Empty(over, time.Minute, hub.ForStop); n != 1 {
		t.Errorf("%d were told when the time was over, want one portion", n)
	}
	w.expect(t, "detached free")
}

func TestPortion(t *testing.T) {
	for _, c := range []struct {
		devices int64
		over    time.Duration
		want    int
	}{
		{0, time.Second, 5}, {3, 10 * time.Second, 5}, {500, 10 * time.Second, 5}, {501, 10 * time.Second, 6}, {20_000, 8 * time.Second, 250}, {100, 0, 100},
	} {
		if n := hub.Portion(c.devices, c.over, 100*time.Millisecond); n != c.want {
			t.Errorf("%d devices in %s: %d at a time, want %d", c.devices, c.over, n, c.want)
		}
	}
	if n := hub.Portion(1, time.Hour, time.Millisecond); n != 1 {
		t.Errorf("%d at a time, want 1 at least", n)
	}
}

// Who is sent on takes along how often it was, so that nodes do not send it in a circle.
func TestRedirectEnds(t *testing.T) {
	w := newWorld(t)
	var asked []string
	h, err := hub.New(hub.Options{
		Server: w.srv, Owner: w.owner, Tokens: verifier{}, Metrics: prometheus.NewRegistry(),
		Elsewhere: func(host string, first bool) string {
			asked = append(asked, fmt.Sprint(host, " ", first))
			return w.url + "/circle"
		},
		Admit: func() error { return esh3ar.Errorf(esh3ar.KindUnavailable, "stopping", "about to stop") },
		Refusal: func(err error) *signalr.HTTPError {
			return &signalr.HTTPError{Status: http.StatusServiceUnavailable, Message: err.Error()}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.circle.Store(h)
	_, err = dial(t, w.url+"/circle?ack=result", "rana", client.Options{})
	if err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("the circle ended with %v", err)
	}
	host, _, _ := strings.Cut(strings.TrimPrefix(w.url, "http://"), "/")
	if want := []string{host + " true", host + " false", host + " false"}; !slices.Equal(asked, want) {
		t.Errorf("asked %v, want %v", asked, want)
	}
}
