package balance

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lxzan/gws"

	"github.com/esh3artech/esh3ar/internal/certificate/certificatetest"
)

// metric returns a metric's value from the admin listener, 0 if it is not there.
func metric(t testing.TB, b *running, series string) float64 {
	t.Helper()
	a := ask(t, httpClient(t), "GET", b.admin+"/metrics", "")
	for line := range strings.Lines(a.body) {
		if rest, ok := strings.CutPrefix(line, series+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	return 0
}

func TestEventStreamFlowsAndEndsWithItsClient(t *testing.T) {
	next, gone := make(chan string), make(chan struct{})
	node := server(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.(http.Flusher).Flush()
		for {
			select {
			case s := <-next:
				fmt.Fprintf(w, "data: %s\n\n", s)
				w.(http.Flusher).Flush()
			case <-r.Context().Done():
				close(gone)
				return
			}
		}
	})
	b := start(t, newSetNodes(node.URL), nil)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, "GET", b.url+"/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", "text/event-stream")
	resp, err := httpClient(t).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	br := bufio.NewReader(resp.Body)
	for i := range 5 {
		next <- fmt.Sprint(i) // the node has not ended, nor has it written more
		line, err := br.ReadString('\n')
		if err != nil || line != fmt.Sprintf("data: %d\n", i) {
			t.Fatalf("read %q, %v", line, err)
		}
		br.ReadString('\n')
	}
	if n := nodesOf(t, b)[node.URL]; n.Streams != 1 || n.InFlight != 0 {
		t.Errorf("an open stream shows as %+v", n)
	}
	cancel()
	<-gone
	eventually(t, "the stream is no longer counted", func() bool { return nodesOf(t, b)[node.URL].Streams == 0 })
}

// A stream on a connection that has served other requests before is not bound by their time-outs.
func TestStreamOutlivesTimeouts(t *testing.T) {
	node := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/x" {
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for range 8 {
			io.WriteString(w, "data: x\n\n")
			w.(http.Flusher).Flush()
			<-tick.C
		}
		io.WriteString(w, "data: end\n\n")
	})
	b := start(t, newSetNodes(node.URL), func(o *Options) {
		o.IdleTimeout, o.BodyTimeout, o.HeaderTimeout = 200*time.Millisecond, 200*time.Millisecond, 200*time.Millisecond
	})
	got := rawAsk(t, b.Addr().String(), "POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}GET /v1/events HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n")
	if !strings.Contains(got, "data: end") {
		t.Errorf("read %q", got)
	}
}

// echoing is a WebSocket that sends back what it gets.
type echoing struct{ gws.BuiltinEventHandler }

func (echoing) OnMessage(c *gws.Conn, m *gws.Message) {
	c.WriteMessage(m.Opcode, m.Bytes())
	m.Close()
}

// collecting hands on what a WebSocket gets.
type collecting struct {
	gws.BuiltinEventHandler
	got    chan string
	closed chan struct{}
}

func (c *collecting) OnMessage(_ *gws.Conn, m *gws.Message) {
	c.got <- m.Data.String()
	m.Close()
}

func (c *collecting) OnClose(*gws.Conn, error) { close(c.closed) }

func TestWebSockets(t *testing.T) {
	up := gws.NewUpgrader(echoing{}, nil)
	var served atomic.Int64
	handler := func(w http.ResponseWriter, r *http.Request) {
		c, err := up.Upgrade(w, r)
		if err != nil {
			return
		}
		served.Add(1)
		go c.ReadLoop()
	}
	one, two := server(t, handler), server(t, handler)
	b := start(t, newSetNodes(one.URL, two.URL), nil)
	eventually(t, "both nodes are there", func() bool {
		n := nodesOf(t, b)
		return n[one.URL].Usable && n[two.URL].Usable
	})
	var open []*collecting
	for i := range 6 {
		h := &collecting{got: make(chan string, 1), closed: make(chan struct{})}
		c, _, err := gws.NewClient(h, &gws.ClientOption{Addr: "ws://" + b.Addr().String() + "/hubs/business?access_token=k"})
		if err != nil {
			t.Fatal(err)
		}
		go c.ReadLoop()
		want := strings.Repeat("x", i*50_000)
		if err := c.WriteMessage(gws.OpcodeText, []byte(want)); err != nil {
			t.Fatal(err)
		}
		if got := <-h.got; got != want {
			t.Errorf("%d bytes came back as %d", len(want), len(got))
		}
		open = append(open, h)
	}
	n := nodesOf(t, b)
	if s1, s2 := n[one.URL].Streams, n[two.URL].Streams; s1+s2 != 6 || s1*s2 != 0 {
		t.Errorf("the connections of one caller lie at both nodes: %d and %d", s1, s2)
	}
	b.stop()
	<-b.ended // does not wait for WebSockets, which would never end
	for _, h := range open {
		<-h.closed
	}
}

func TestOtherUpgradesAreNotPassedOn(t *testing.T) {
	node := server(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "upgrade="+r.Header.Get("Upgrade")) })
	b := start(t, newSetNodes(node.URL), nil)
	got := rawAsk(t, b.Addr().String(), "GET /v1/x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 200") || !strings.HasSuffix(got, "upgrade=") {
		t.Errorf("answered %q", got)
	}
}

func TestStopFinishesWhatIsUnderWay(t *testing.T) {
	arrived, release := make(chan struct{}, 2), make(chan struct{})
	node := server(t, func(w http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		<-release
		io.WriteString(w, "late")
	})
	b := start(t, newSetNodes(node.URL), nil)
	idle, err := net.Dial("tcp", b.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	answers := make(chan answered, 2)
	for _, kind := range []string{"with a length", "without"} {
		go func() {
			body := io.Reader(strings.NewReader("{}"))
			if kind == "without" {
				body = io.MultiReader(body)
			}
			r, _ := http.NewRequest("POST", b.url+"/v1/x", body)
			resp, err := httpClient(t).Do(r)
			if err != nil {
				answers <- answered{err: err}
				return
			}
			got, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			answers <- answered{resp.StatusCode, resp.Header, string(got), err}
		}()
		<-arrived
	}
	b.stop()
	if _, err := idle.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("an idle connection at the stop: %v", err)
	}
	eventually(t, "no new connection is taken", func() bool {
		c, err := net.Dial("tcp", b.Addr().String())
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	if a := ask(t, httpClient(t), "GET", b.admin+"/readyz", ""); a.status != 503 {
		t.Errorf("/readyz while stopping: %+v", a)
	}
	close(release)
	for range 2 {
		if a := <-answers; a.status != 200 || a.body != "late" || a.err != nil {
			t.Errorf("a request that was under way at the stop: %+v", a)
		}
	}
	<-b.ended
}

func TestStopDoesNotWaitForEver(t *testing.T) {
	arrived, release := make(chan struct{}, 2), make(chan struct{})
	node := server(t, func(http.ResponseWriter, *http.Request) { arrived <- struct{}{}; <-release })
	defer close(release)
	b := start(t, newSetNodes(node.URL), func(o *Options) { o.DrainTimeout = 50 * time.Millisecond })
	failed := make(chan error, 2)
	for _, accept := range []string{"*/*", "text/event-stream"} {
		go func() {
			r, _ := http.NewRequest("GET", b.url+"/v1/x", nil)
			r.Header.Set("Accept", accept)
			resp, err := httpClient(t).Do(r)
			if err == nil {
				resp.Body.Close()
			}
			failed <- err
		}()
		<-arrived
	}
	b.stop()
	<-b.ended
	for range 2 {
		<-failed // an error or a problem; what counts is that it ended
	}
}

func TestMetricsAreDocumented(t *testing.T) {
	node := raw(t, hangsUp)
	cert, pool := certificatetest.Write(t, t.TempDir(), "one")
	b := start(t, newSetNodes(node.url), func(o *Options) { o.CertFile, o.KeyFile = cert.Cert, cert.Key })
	c := tlsClient(t, pool, false)
	ask(t, c, "GET", b.url+"/v1/x", "")
	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	families, err := b.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	ours := 0
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), "esh3ar_") {
			ours++
			if !strings.Contains(string(page), "| `"+f.GetName()+"` |") {
				t.Errorf("docs/operations.md does not explain %s", f.GetName())
			}
		}
	}
	if ours < 9 {
		t.Errorf("only %d metrics", ours)
	}
}
