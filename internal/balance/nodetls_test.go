package balance

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lxzan/gws"

	"github.com/esh3artech/esh3ar/internal/certificate"
	"github.com/esh3artech/esh3ar/internal/certificate/certificatetest"
)

// tlsNode is a node that speaks TLS.
type tlsNode struct {
	*httptest.Server
	opened atomic.Int64 // connections
}

// newTLSNode starts one.
func newTLSNode(t *testing.T, f certificatetest.Files, tune func(*tls.Config), h http.HandlerFunc) *tlsNode {
	t.Helper()
	pair, err := certificate.Pair(f.Cert, f.Key)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"status":"ok","checks":{}}`) })
	mux.HandleFunc("/", h)
	n := &tlsNode{Server: httptest.NewUnstartedServer(mux)}
	n.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			n.opened.Add(1)
		}
	}
	n.Config.ErrorLog = log.New(io.Discard, "", 0) // of handshakes that are meant to fail
	config := certificate.Server(pair, "http/1.1")
	if tune != nil {
		tune(config)
	}
	n.Listener = tls.NewListener(n.Listener, config)
	n.Start()
	n.URL = "https://" + n.Listener.Addr().String()
	t.Cleanup(n.Close)
	return n
}

func nodeTLS(t *testing.T, o NodeTLSOptions) func(*Options) {
	t.Helper()
	over, err := NewNodeTLS(o)
	if err != nil {
		t.Fatal(err)
	}
	return func(o *Options) { o.NodeTLS = over }
}

// All ways to a node work over TLS, and connections are kept.
func TestNodesOverTLS(t *testing.T) {
	files, _ := certificatetest.Write(t, t.TempDir(), "node")
	up := gws.NewUpgrader(echoing{}, nil)
	node := newTLSNode(t, files, nil, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/hubs/business":
			if c, err := up.Upgrade(w, r); err == nil {
				go c.ReadLoop()
			}
		case "/v1/events":
			w.Header().Set("Content-Type", "text/event-stream")
			io.WriteString(w, "data: one\n\n")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		default:
			body, err := io.ReadAll(r.Body)
			if err != nil {
				panic(http.ErrAbortHandler)
			}
			w.WriteHeader(http.StatusAccepted)
			w.Write(body)
		}
	})
	b := start(t, newSetNodes(node.URL), nodeTLS(t, NodeTLSOptions{CAFile: files.Cert}))
	eventually(t, "the node is ready", func() bool { return nodesOf(t, b)[node.URL].State == "ready" })
	c := httpClient(t)
	before := node.opened.Load()
	for i := range 50 {
		// From what fits one record to what needs many of them.
		body := strings.Repeat("x", i*3000)
		if a := ask(t, c, "POST", b.url+"/v1/messages", body); a.status != 202 || a.body != body || a.err != nil {
			t.Fatalf("%d bytes: %d, %d bytes, %v", len(body), a.status, len(a.body), a.err)
		}
	}
	if n := node.opened.Load() - before; n != 1 {
		t.Errorf("one client's requests, one after the other, took %d connections to the node", n)
	}
	r, err := http.NewRequest("POST", b.url+"/v1/messages", io.MultiReader(strings.NewReader("of unknown "), strings.NewReader("length")))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(resp.Body); string(got) != "of unknown length" || err != nil {
		t.Errorf("an upload of unknown length: %q, %v", got, err)
	}
	resp.Body.Close()

	r, err = http.NewRequest("GET", b.url+"/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", "text/event-stream")
	if resp, err = c.Do(r); err != nil {
		t.Fatal(err)
	}
	event := make([]byte, len("data: one\n\n"))
	if _, err := io.ReadFull(resp.Body, event); err != nil {
		t.Errorf("an event stream: %v", err)
	}
	resp.Body.Close()

	h := &collecting{got: make(chan string, 1), closed: make(chan struct{})}
	ws, _, err := gws.NewClient(h, &gws.ClientOption{Addr: "ws://" + b.Addr().String() + "/hubs/business?access_token=k"})
	if err != nil {
		t.Fatal(err)
	}
	go ws.ReadLoop()
	if err := ws.WriteMessage(gws.OpcodeText, bytes.Repeat([]byte("y"), 50_000)); err != nil {
		t.Fatal(err)
	}
	if got := <-h.got; len(got) != 50_000 {
		t.Errorf("a WebSocket brought %d bytes", len(got))
	}
	b.stop()
	<-b.ended
	<-h.closed
}

// A node whose certificate cannot be checked gets nothing.
func TestNodesWithWrongCertificates(t *testing.T) {
	files, _ := certificatetest.Write(t, t.TempDir(), "node")
	others, _ := certificatetest.Write(t, t.TempDir(), "others")
	client, clientPool := certificatetest.Write(t, t.TempDir(), "balancer")
	var served atomic.Int64
	h := func(w http.ResponseWriter, _ *http.Request) { served.Add(1) }
	asks := func(c *tls.Config) { c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, clientPool }
	for _, c := range []struct {
		name string
		tune func(*tls.Config) // the node
		o    NodeTLSOptions
		ok   bool
	}{
		{"known", nil, NodeTLSOptions{CAFile: files.Cert}, true},
		{"of another authority", nil, NodeTLSOptions{CAFile: others.Cert}, false},
		{"of an authority that the system does not know", nil, NodeTLSOptions{}, false},
		{"for another name", nil, NodeTLSOptions{CAFile: files.Cert, ServerName: "node.internal"}, false},
		{"asks for a certificate and gets one", asks, NodeTLSOptions{CAFile: files.Cert, CertFile: client.Cert, KeyFile: client.Key}, true},
		{"asks for a certificate and gets none", asks, NodeTLSOptions{CAFile: files.Cert}, false},
		{"asks for a certificate and gets another", asks, NodeTLSOptions{CAFile: files.Cert, CertFile: others.Cert, KeyFile: others.Key}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			node := newTLSNode(t, files, c.tune, h)
			b := start(t, newSetNodes(node.URL), nodeTLS(t, c.o))
			want, status := "ready", 200
			if !c.ok {
				want, status = "unready", 502
			}
			eventually(t, "the node is "+want, func() bool { return nodesOf(t, b)[node.URL].State == want })
			before := served.Load()
			a := ask(t, httpClient(t), "POST", b.url+"/v1/messages", "{}", "Idempotency-Key", "k")
			if a.status != status || served.Load()-before != map[bool]int64{true: 1}[c.ok] {
				t.Errorf("answered %d %s, and the node served %d", a.status, a.body, served.Load()-before)
			}
		})
	}
}

// The files are read again when they change: nodes and balancers get new certificates without a restart.
func TestNodeTLSIsReadAgain(t *testing.T) {
	files, _ := certificatetest.Write(t, t.TempDir(), "node")
	clientDir := t.TempDir()
	client, clientPool := certificatetest.Write(t, clientDir, "balancer")
	var serving atomic.Pointer[tls.Config]
	use := func(f certificatetest.Files, clients *x509.CertPool) {
		pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
		if err != nil {
			t.Fatal(err)
		}
		serving.Store(&tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert})
	}
	use(files, clientPool)
	node := newTLSNode(t, files, func(c *tls.Config) {
		c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return serving.Load(), nil }
	}, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Connection", "close") })
	authorities := filepath.Join(t.TempDir(), "ca.pem")
	copyFile(t, files.Cert, authorities)
	b := start(t, newSetNodes(node.URL), nodeTLS(t, NodeTLSOptions{CAFile: authorities, CertFile: client.Cert, KeyFile: client.Key}))
	works := func() bool { return ask(t, httpClient(t), "POST", b.url+"/v1/messages", "{}").status == 200 }
	eventually(t, "requests are served", works)

	// Another authority for the node, and another certificate of the balancer.
	files, _ = certificatetest.Write(t, t.TempDir(), "node again")
	_, clientPool = certificatetest.Write(t, clientDir, "balancer again")
	use(files, clientPool)
	copyFile(t, files.Cert, authorities)
	eventually(t, "they are served again", works)
	eventually(t, "both files were read", func() bool { return metric(t, b, `esh3ar_balance_certificate_loads_total{result="loaded"}`) >= 2 })
	// What cannot be used changes nothing.
	write(t, authorities, []byte("nothing"))
	eventually(t, "the bad file was looked at", func() bool { return metric(t, b, `esh3ar_balance_certificate_loads_total{result="failed"}`) > 0 })
	if !works() {
		t.Error("a file that cannot be used ends it")
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	content, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	write(t, to, content)
}

// corked is a connection that can keep what is written, to send it in one piece.
type corked struct {
	net.Conn
	keeps bool
	kept  []byte
}

func (c *corked) Write(p []byte) (int, error) {
	if !c.keeps {
		return c.Conn.Write(p)
	}
	c.kept = append(c.kept, p...)
	return len(p), nil
}

func (c *corked) cork() { c.keeps = true }

func (c *corked) uncork() {
	c.Conn.Write(c.kept)
	c.keeps, c.kept = false, nil
}

type corkedListener struct{ net.Listener }

func (l corkedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return &corked{Conn: c}, err
}

// A node that sends more than it was asked for gets no second request on that connection, in whatever records TLS
// brings it: nobody may be given what belongs to another.
func TestTLSNodeThatSaysTooMuch(t *testing.T) {
	files, _ := certificatetest.Write(t, t.TempDir(), "node")
	pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		t.Fatal(err)
	}
	for _, records := range []int{1, 2} {
		t.Run(fmt.Sprint(records), func(t *testing.T) {
			var last atomic.Int64
			node := rawOver(t, func(l net.Listener) net.Listener {
				return tls.NewListener(corkedListener{l}, &tls.Config{Certificates: []tls.Certificate{pair}})
			}, func(c net.Conn, r *http.Request, _ []byte) bool {
				below := c.(*tls.Conn).NetConn().(*corked)
				below.cork()
				defer below.uncork()
				n := last.Add(1)
				own := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: 8000\r\n\r\n%8000d", n)
				more := "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen"
				if records == 1 {
					io.WriteString(c, own+more)
				} else {
					io.WriteString(c, own)
					io.WriteString(c, more)
				}
				return true
			})
			node.url = strings.Replace(node.url, "http:", "https:", 1)
			b := start(t, newSetNodes(node.url), nodeTLS(t, NodeTLSOptions{CAFile: files.Cert}))
			c := httpClient(t)
			for i := range 20 {
				if a := ask(t, c, "GET", b.url+"/v1/x", ""); strings.Contains(a.body, "stolen") || a.status != 200 {
					t.Fatalf("request %d: %d, %d bytes", i, a.status, len(a.body))
				}
			}
		})
	}
}

// The PROXY header goes before TLS.
func TestPROXYProtocolBeforeTLS(t *testing.T) {
	files, _ := certificatetest.Write(t, t.TempDir(), "node")
	pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		t.Fatal(err)
	}
	node := rawOver(t, func(l net.Listener) net.Listener {
		return tls.NewListener(mustTrust(t, "127.0.0.1").Listener(l, 10*time.Second), &tls.Config{Certificates: []tls.Certificate{pair}})
	}, func(c net.Conn, _ *http.Request, _ []byte) bool { return respond(c, 200, "", c.RemoteAddr().String()) })
	node.url = strings.Replace(node.url, "http:", "https:", 1)
	tune := nodeTLS(t, NodeTLSOptions{CAFile: files.Cert})
	b := start(t, newSetNodes(node.url), func(o *Options) {
		tune(o)
		o.ProxyProtocol = true
	})
	client, err := net.Dial("tcp", b.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for range 3 {
		io.WriteString(client, "GET /v1/x HTTP/1.1\r\nHost: a\r\n\r\n")
		got := make([]byte, 4096)
		n, err := client.Read(got)
		if err != nil || !strings.Contains(string(got[:n]), client.LocalAddr().String()) {
			t.Fatalf("the node sees %q, %v; want %s", got[:n], err, client.LocalAddr())
		}
	}
}

// A node that takes connections and says nothing costs one for the limit, and not for as long as it hangs.
func TestSilentTLSNode(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client := &http.Client{Transport: new(NodeTLS).transport(100 * time.Millisecond), Timeout: 20 * time.Millisecond}
	if resp, err := client.Get("https://" + l.Addr().String() + "/readyz"); err == nil {
		resp.Body.Close()
		t.Fatal("a silent node answers")
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection is left open")
	}
}
