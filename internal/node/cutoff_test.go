package node

import (
	"context"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar/internal/cluster"
	"github.com/esh3artech/esh3ar/internal/health"
	"github.com/esh3artech/esh3ar/internal/placement"
)

// What another node says of the majority: that it reaches it, that it does not, or nothing, which leaves it open.
func TestMajority(t *testing.T) {
	over := func(start func(http.Handler) *httptest.Server, status int, body string) string {
		s := start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/readyz" {
				t.Errorf("asked for %s", r.URL.Path)
			}
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	answers := func(status int, body string) string { return over(httptest.NewServer, status, body) }
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // it takes connections and says nothing
	dead := httptest.NewServer(http.NotFoundHandler())
	dead.Close()
	for name, test := range map[string]struct {
		address   string
		says, may bool
	}{
		"it reaches the majority":     {answers(200, `{"status":"ok","checks":{"cluster":{"status":"ok"}}}`), true, true},
		"by a certificate of its own": {over(httptest.NewTLSServer, 200, `{"status":"ok","checks":{"cluster":{"status":"ok"}}}`), true, true},
		"though its store is away":    {answers(200, `{"status":"degraded","checks":{"cluster":{"status":"ok"},"store":{"status":"degraded"}}}`), true, true},
		"it is cut off, too":          {answers(200, `{"status":"degraded","checks":{"cluster":{"status":"degraded"}}}`), false, false},
		"it is about to stop":         {answers(503, `{"status":"unavailable","checks":{"cluster":{"status":"ok"},"drain":{"status":"unavailable"}}}`), false, false},
		"it is dead":                  {dead.URL, false, false},
		"it says nothing":             {"http://" + l.Addr().String(), false, true},
		"something else answers":      {answers(502, `<html>bad gateway</html>`), false, true},
		"its address is no address":   {"http://[", false, false},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			web := prober()
			defer web.CloseIdleConnections()
			says, may := majority(ctx, web, cluster.Member{Address: test.address})
			if says != test.says || may != test.may {
				t.Errorf("says %t, may %t, want %t and %t", says, may, test.says, test.may)
			}
		})
	}
}

// Other nodes that hang hold up nobody, and are not asked again before they have answered or their time is up.
func TestProbesInTheBackground(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // it takes connections and says nothing
	serving := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"status":"ok","checks":{"cluster":{"status":"ok"}}}`)
	}))
	defer serving.Close()
	dead := httptest.NewServer(http.NotFoundHandler())
	dead.Close()
	nodes := []cluster.Member{{Name: "hangs", Address: "http://" + l.Addr().String()}, {Name: "serves", Address: serving.URL}, {Name: "dead", Address: dead.URL}}

	q := newProbes()
	ctx, cancel := context.WithCancel(t.Context())
	began := time.Now()
	if !q.begin(ctx, nodes) || q.begin(ctx, nodes) {
		t.Fatal("they are not asked once")
	}
	if took := time.Since(began); took > probeTime/2 {
		t.Errorf("to begin took %v", took)
	}
	a := <-q.answered
	if want := map[string]bool{"hangs": true, "serves": true}; !maps.Equal(a.others, want) || !a.known {
		t.Errorf("answered %+v, want that %v may serve, of which one says so", a, want)
	}
	if q.begin(ctx, nodes) {
		t.Error("they are asked before their answer was taken")
	}
	q.done()
	if !q.begin(ctx, nodes) {
		t.Error("they are not asked again")
	}
	cancel() // ends the asking, whose answer nobody takes
	q.wait()
}

// A node that is on its way out does not come back, whatever else happens to it.
func TestPlaceStates(t *testing.T) {
	for _, steps := range [][]placeState{
		{placeCutOff, placeServing, placeCutOff, placeServing},
		{placeLeaving, placeClosing},
		{placeCutOff, placeLeaving, placeClosing},
	} {
		p := new(places)
		for _, s := range steps {
			if p.set(s); p.state != s {
				t.Errorf("%v: the state is %d", steps, p.state)
			}
		}
	}
	p := &places{state: placeClosing}
	for _, s := range []placeState{placeServing, placeCutOff, placeLeaving} {
		if p.set(s); p.state != placeClosing {
			t.Errorf("a node that closes is in state %d", p.state)
		}
	}
	for s, admits := range map[placeState]bool{placeServing: true, placeLeaving: true, placeClosing: false, placeCutOff: false} {
		p.state = s
		if err := p.admit(); (err == nil) != admits {
			t.Errorf("in state %d: %v", s, err)
		}
	}
}

func TestPlacementNode(t *testing.T) {
	told := health.Told{
		Checks:   map[string]health.Result{"memory": {Status: health.Degraded}},
		Figures:  health.Figures{Devices: 7, Connections: 9, CPU: 1.5},
		Capacity: health.Capacity{Processors: 2, Connections: 100},
	}
	want := placement.Node{Name: "a", Run: 3, Devices: 7, Connections: 9, MaxConnections: 100, CPU: 1.5, Processors: 2, MemoryTight: true}
	if got := placementNode("a", 3, told); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	told.Checks["memory"] = health.Result{Status: health.OK}
	if placementNode("a", 3, told).MemoryTight {
		t.Error("memory that is ok is tight")
	}
	delete(told.Checks, "memory")
	if placementNode("a", 3, told).MemoryTight {
		t.Error("memory that is not checked is tight")
	}
}
