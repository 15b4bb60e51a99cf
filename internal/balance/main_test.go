package balance

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/esh3artech/esh3ar/internal/balance/picker"
	"github.com/esh3artech/esh3ar/internal/freeport"
	"github.com/esh3artech/esh3ar/internal/peer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func mustTrust(t testing.TB, list ...string) peer.Trusted {
	t.Helper()
	trusted, err := peer.ParseTrusted(list)
	if err != nil {
		t.Fatal(err)
	}
	return trusted
}

// setNodes is a source of nodes that the test changes.
type setNodes struct {
	change chan []string
}

func newSetNodes(urls ...string) *setNodes {
	s := &setNodes{change: make(chan []string, 1)}
	s.change <- urls
	return s
}

// Watch implements Nodes.
func (s *setNodes) Watch(ctx context.Context, set func([]string), _ func(error)) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case urls := <-s.change:
			set(urls)
		}
	}
}

// running is a Balancer that runs.
type running struct {
	*Balancer
	url, admin string
	stop       context.CancelFunc
	ended      chan struct{}
}

// start runs a Balancer until the test ends.
func start(t testing.TB, nodes Nodes, tune func(*Options)) *running {
	t.Helper()
	o := DefaultOptions()
	o.Listen, o.Admin, o.Nodes = "127.0.0.1:0", "127.0.0.1:0", nodes
	o.PollEvery = 20 * time.Millisecond
	o.DrainTimeout = 5 * time.Second
	o.Logger = slog.New(slog.NewTextHandler(logger{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	if tune != nil {
		tune(&o)
	}
	b, err := New(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{Balancer: b, url: "http://" + b.Addr().String(), admin: "http://" + b.AdminAddr().String(), stop: cancel, ended: make(chan struct{})}
	if o.CertFile != "" {
		r.url = "https://" + b.Addr().String()
	}
	go func() {
		defer close(r.ended)
		if err := b.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-r.ended
	})
	eventually(t, "the nodes are known", func() bool { return len(b.views()) > 0 })
	return r
}

// logger writes the log to the test's.
type logger struct{ t testing.TB }

// Write implements io.Writer.
func (l logger) Write(p []byte) (int, error) {
	l.t.Logf("%s", strings.TrimSpace(string(p)))
	return len(p), nil
}

// eventually waits until something is so.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !is() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("it never came to be that %s", what)
		}
	}
}

// allReady waits until that many nodes are all that the balancer has, and ready.
func allReady(t testing.TB, b *running, nodes int) {
	t.Helper()
	eventually(t, "the nodes are ready", func() bool {
		views := b.views()
		return len(views) == nodes && !slices.ContainsFunc(views, func(v picker.View) bool { return v.State != picker.Ready })
	})
}

// server is a node made of a handler. It answers /readyz by itself.
func server(t testing.TB, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"status":"ok","checks":{}}`) })
	mux.HandleFunc("/", h)
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

// rawNode is a node that the test writes to the byte: each connection's requests are given to serve one by
// one, which answers and reports whether the connection goes on. It answers /readyz by itself.
type rawNode struct {
	url string
	mu  sync.Mutex
	got []*http.Request
}

func raw(t testing.TB, serve func(c net.Conn, r *http.Request, body []byte) bool) *rawNode {
	t.Helper()
	return rawOver(t, func(l net.Listener) net.Listener { return l }, serve)
}

// rawOver is raw over something that goes round its listener.
func rawOver(t testing.TB, over func(net.Listener) net.Listener, serve func(c net.Conn, r *http.Request, body []byte) bool) *rawNode {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l = over(l)
	n := &rawNode{url: "http://" + l.Addr().String()}
	var under sync.WaitGroup
	conns := make(map[net.Conn]bool)
	under.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			n.mu.Lock()
			conns[c] = true
			n.mu.Unlock()
			under.Go(func() {
				defer c.Close()
				br := bufio.NewReader(c)
				for {
					r, err := http.ReadRequest(br)
					if err != nil {
						return
					}
					body, err := io.ReadAll(r.Body)
					if r.URL.Path == "/readyz" {
						io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{\"status\":\"ok\"}")
						continue
					}
					n.mu.Lock()
					n.got = append(n.got, r)
					n.mu.Unlock()
					if err != nil || !serve(c, r, body) {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		n.mu.Lock()
		for c := range conns {
			c.Close()
		}
		n.mu.Unlock()
		under.Wait()
	})
	return n
}

func (n *rawNode) requests() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.got)
}

// respond writes an answer with a length.
func respond(c net.Conn, status int, fields, body string) bool {
	_, err := fmt.Fprintf(c, "HTTP/1.1 %d %s\r\n%sContent-Length: %d\r\n\r\n%s", status, http.StatusText(status), fields, len(body), body)
	return err == nil
}

// accepts answers everything with 202.
func accepts(c net.Conn, _ *http.Request, _ []byte) bool { return respond(c, 202, "", "ok") }

// refuses answers everything with a problem of that status and code.
func refuses(status int, code string) func(net.Conn, *http.Request, []byte) bool {
	return func(c net.Conn, _ *http.Request, _ []byte) bool {
		return respond(c, status, "Content-Type: application/problem+json\r\nRetry-After: 1\r\n", `{"type":"/problems/x","code":"`+code+`","permanent":false}`)
	}
}

// hangsUp reads a request and closes.
func hangsUp(net.Conn, *http.Request, []byte) bool { return false }

// nobody is an address that refuses connections.
func nobody(t testing.TB) string {
	t.Helper()
	free, err := freeport.Take(t.Context(), "127.0.0.1", 1)
	if err != nil {
		t.Fatal(err)
	}
	return "http://" + free[0]
}

// client is an HTTP client of the test's own.
func httpClient(t testing.TB) *http.Client {
	t.Helper()
	tr := &http.Transport{MaxIdleConnsPerHost: 64}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 30 * time.Second}
}

// answered is an answer, read to its end.
type answered struct {
	status int
	header http.Header
	body   string
	err    error // of the body
}

func (a answered) code() string { return problemCode([]byte(a.body)) }

func ask(t testing.TB, c *http.Client, method, url, body string, fields ...string) answered {
	t.Helper()
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(fields); i += 2 {
		r.Header.Set(fields[i], fields[i+1])
	}
	resp, err := c.Do(r)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answered{resp.StatusCode, resp.Header, string(b), err}
}
