package webhook

import (
	"bufio"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
)

// raw is a listener that answers each connection's first request as the test likes. It ends with the test.
func raw(t *testing.T, serve func(net.Conn)) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var conns []net.Conn
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			serving.Go(func() {
				defer c.Close()
				if req, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
					_, _ = io.Copy(io.Discard, req.Body)
					serve(c)
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		serving.Wait()
	})
	return "http://" + l.Addr().String()
}

// dribble writes s again and again, a byte every few milliseconds, until the connection ends.
func dribble(c net.Conn, s string) {
	tick := time.NewTicker(3 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		<-tick.C
		if _, err := c.Write([]byte{s[i%len(s)]}); err != nil {
			return
		}
	}
}

// TestReceiversThatMisbehave: each ends in time, is logged for what it is, and does not disturb another
// endpoint of the same client.
func TestReceiversThatMisbehave(t *testing.T) {
	const timeout = 600 * time.Millisecond
	huge := make(chan int64, 1)
	for _, test := range []struct {
		name    string
		serve   func(net.Conn)
		outcome string
		status  int
		says    string // in the log's error
	}{
		{"hangs", func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }, outcomeFailed, 0, "no complete answer within 600ms"},
		{"hangs up", func(net.Conn) {}, outcomeFailed, 0, "EOF"},
		{"answers byte by byte", func(c net.Conn) { dribble(c, "HTTP/1.1 200 OK\r\nX-Filler: "+strings.Repeat("x", 4096)) }, outcomeFailed, 0, "no complete answer within 600ms"},
		{"answers 200, then byte by byte", func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
			dribble(c, "x")
		}, outcomeDelivered, 200, "no complete answer within 600ms"},
		{"answers 500, then byte by byte", func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 500 No\r\nContent-Length: 100000\r\n\r\n")
			dribble(c, "x")
		}, outcomeFailed, 500, "the answer was 500 No"},
		{"answers 200 with garbage", func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n{\x00\xff\xfe\x1b[0")
		}, outcomeDelivered, 200, ""},
		{"answers 200 without end", func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
			chunk := []byte("1000\r\n" + strings.Repeat("x", 0x1000) + "\r\n")
			var n int64
			for {
				wrote, err := c.Write(chunk)
				if n += int64(wrote); err != nil {
					select {
					case huge <- n:
					default:
					}
					return
				}
			}
		}, outcomeDelivered, 200, ""},
		{"answers with an endless header", func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n")
			for {
				if _, err := io.WriteString(c, "X-Filler: "+strings.Repeat("x", 4096)+"\r\n"); err != nil {
					return
				}
			}
		}, outcomeFailed, 0, ""},
		{"answers with what is not HTTP", func(c net.Conn) { _, _ = io.WriteString(c, "220 smtp.example.com ESMTP\r\n") }, outcomeFailed, 0, "malformed"},
		{"answers with interim answers only", func(c net.Conn) {
			for {
				if _, err := io.WriteString(c, "HTTP/1.1 103 Early Hints\r\n\r\n"); err != nil {
					return
				}
			}
		}, outcomeFailed, 0, ""},
		{"answers 204", func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n") }, outcomeDelivered, 204, ""},
		{"answers 304", func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 304 Not Modified\r\n\r\n") }, outcomeFailed, 304, "redirects"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, func(o *Options) { o.Timeout = timeout; o.Backoff.Base = time.Hour; o.Backoff.Cap = time.Hour })
			h := w.create(raw(t, test.serve), "")
			r := newReceiver(t, nil)
			good := w.create(r.url, "")
			r.knows(good.Secret)
			w.message("c", esh3ar.StatusQueued)
			r.await(1)
			w.eventually("the request is logged", func() bool { return len(w.log(h.ID)) == 1 })
			d := w.log(h.ID)[0]
			if d.Outcome != test.outcome || d.StatusCode != test.status || !strings.Contains(d.Error, test.says) || (test.says == "") != (d.Error == "") && test.status != 0 {
				t.Errorf("log: %+v", d)
			}
			if d.DurationMS > 50*float64(timeout/time.Millisecond) {
				t.Errorf("it took %v ms", d.DurationMS)
			}
			if len(d.Response) > maxExcerpt || !utf8.ValidString(d.Response) || strings.ContainsAny(d.Response, "\x00\x1b") {
				t.Errorf("response: %q", d.Response)
			}
			if test.outcome == outcomeDelivered {
				w.eventually("it is settled", func() bool { v := w.show(h.ID); return v.SucceededAt != "" && v.Parked == 0 })
			}
		})
	}
	// What the kernel's buffers hold comes on top of what was read.
	if n := <-huge; n > 16<<20 {
		t.Errorf("%d bytes of an answer were taken", n)
	}
}

func TestGoneDisables(t *testing.T) {
	w := newWorld(t)
	var back atomic.Bool
	r := newReceiver(t, func(_ int, rw http.ResponseWriter, _ *http.Request, _ got) {
		if !back.Load() {
			rw.WriteHeader(http.StatusGone)
		}
	})
	h := w.create(r.url, "")
	r.knows(h.Secret)
	w.message("c", life()...)
	w.eventually("it is disabled", func() bool { return w.show(h.ID).Status == "disabled" })
	if v := w.show(h.ID); v.DisabledReason != reasonGone || v.DisabledAt == "" {
		t.Errorf("webhook: %+v", v)
	}
	if d := w.log(h.ID)[0]; d.Outcome != outcomeGone || d.StatusCode != http.StatusGone {
		t.Errorf("log: %+v", d)
	}
	entries, err := w.store.Audited(t.Context(), store.AuditQuery{Action: "webhook.disable", Limit: 10})
	if err != nil || len(entries) != 1 || entries[0].Actor != system || entries[0].Object != h.ID || !strings.Contains(string(entries[0].Detail), `"gone"`) {
		t.Errorf("audit log: %+v, %v", entries, err)
	}
	w.restart()
	asked := len(r.requests())
	w.message("c", life()...)
	back.Store(true)
	w.ask(http.MethodPost, "/v1/webhooks/"+h.ID+"/enable", "", nil)
	w.eventually("everything came", func() bool {
		seen := map[string]bool{}
		for _, g := range r.requests()[asked:] {
			seen[g.events[0].ID] = true
		}
		return len(seen) == 6
	})
	inOrder(t, r)
	if v := w.show(h.ID); v.Status != "enabled" || v.DisabledReason != "" || v.FailingSince != "" {
		t.Errorf("webhook: %+v", v)
	}
}

func TestRedirectIsNotFollowed(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Backoff.Base = time.Hour; o.Backoff.Cap = time.Hour })
	var followed atomic.Bool
	target := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { followed.Store(true) }))
	defer target.Close()
	for _, code := range []int{301, 302, 303, 307, 308} {
		r := newReceiver(t, func(_ int, rw http.ResponseWriter, req *http.Request, _ got) {
			http.Redirect(rw, req, target.URL, code)
		})
		h := w.create(r.url, "")
		w.message("c", esh3ar.StatusQueued)
		r.await(1)
		w.eventually("the request is logged", func() bool { return len(w.log(h.ID)) >= 1 })
		if d := w.log(h.ID)[0]; d.Outcome != outcomeFailed || d.StatusCode != code || !strings.Contains(d.Error, "redirects are not followed") {
			t.Errorf("log: %+v", d)
		}
	}
	if followed.Load() {
		t.Error("a redirect was followed")
	}
}

func TestCertificatesAreVerified(t *testing.T) {
	server := func() *httptest.Server {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
		s.Config.ErrorLog = log.New(io.Discard, "", 0)
		s.StartTLS()
		t.Cleanup(s.Close)
		return s
	}
	trusted := server()
	w := newWorld(t, func(o *Options) {
		o.RootCAs = x509.NewCertPool()
		o.RootCAs.AddCert(trusted.Certificate())
	})
	h := w.create(trusted.URL, "")
	var d delivery
	w.ask(http.MethodPost, "/v1/webhooks/"+h.ID+"/test", "", &d)
	if d.Outcome != outcomeDelivered {
		t.Errorf("a trusted certificate: %+v", d)
	}
	w.stop()
	w.opts.RootCAs = x509.NewCertPool()
	w.start()
	w.ask(http.MethodPost, "/v1/webhooks/"+h.ID+"/test", "", &d)
	if d.Outcome != outcomeFailed || !strings.Contains(d.Error, "certificate") {
		t.Errorf("an unknown certificate: %+v", d)
	}
}

// names is a real DNS server, whose answers come from a function.
func names(t *testing.T, answer func(name string) netip.Addr) *net.Resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if err := m.Unpack(buf[:n]); err != nil || len(m.Questions) != 1 {
				t.Errorf("question %x: %v", buf[:n], err)
				continue
			}
			m.Header = dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true}
			q := m.Questions[0]
			m.Additionals = nil
			if q.Type == dnsmessage.TypeA {
				m.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class},
					Body:   &dnsmessage.AResource{A: answer(q.Name.String()).As4()},
				}}
			}
			out, err := m.Pack()
			if err == nil {
				_, err = conn.WriteTo(out, from)
			}
			if err != nil {
				t.Error(err)
			}
		}
	})
	t.Cleanup(func() {
		conn.Close()
		serving.Wait()
	})
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

// TestNameThatChanges: a name that stands for a public address when it is checked, and for a loopback
// address when it is called, is not called. What decides is the address of the very connection.
func TestNameThatChanges(t *testing.T) {
	var called atomic.Bool
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { called.Store(true) }))
	defer inside.Close()
	port := inside.Listener.Addr().(*net.TCPAddr).Port
	public, private := netip.MustParseAddr("198.41.0.4"), netip.MustParseAddr("127.0.0.1")
	var changed atomic.Bool
	var asked atomic.Int32
	w := newWorld(t, func(o *Options) {
		o.Addresses = Addresses{} // as in production
		o.Backoff.Base, o.Backoff.Cap = time.Hour, time.Hour
		o.Resolver = names(t, func(string) netip.Addr {
			asked.Add(1)
			if changed.Load() {
				return private
			}
			return public
		})
	})
	h := w.create(fmt.Sprintf("https://rebind.example.com:%d/hook", port), "")
	if asked.Load() == 0 {
		t.Fatal("the name was not looked up when the webhook was created")
	}
	changed.Store(true)
	before := asked.Load()
	w.message("c", esh3ar.StatusQueued)
	w.eventually("the request is logged", func() bool { return len(w.log(h.ID)) == 1 })
	d := w.log(h.ID)[0]
	if d.Outcome != outcomeFailed || d.Error != "the address 127.0.0.1 is not public" || asked.Load() == before || called.Load() {
		t.Errorf("log: %+v; looked up again: %v, called: %v", d, asked.Load() > before, called.Load())
	}
	var test delivery
	w.ask(http.MethodPost, "/v1/webhooks/"+h.ID+"/test", "", &test)
	if test.Error != d.Error || called.Load() {
		t.Errorf("test: %+v", test)
	}
	// And a name that is private from the beginning is refused at once.
	if _, err := w.call("c", http.MethodPost, "/v1/webhooks", `{"url":"https://inside.example.com/"}`); codeOf(err) != "address_not_allowed" {
		t.Errorf("a private name: %v", err)
	}
}

// TestPlainGoesToLoopbackAlone: http:// is for development on one machine, whatever a name stands for.
func TestPlainGoesToLoopbackAlone(t *testing.T) {
	w := newWorld(t, func(o *Options) {
		o.Addresses.Allow = append(o.Addresses.Allow, netip.MustParsePrefix("198.41.0.0/24"))
		o.Backoff.Base, o.Backoff.Cap = time.Hour, time.Hour
		o.Resolver = names(t, func(string) netip.Addr { return netip.MustParseAddr("198.41.0.4") })
	})
	h := w.create("http://dev.localhost:9/", "")
	var d delivery
	w.ask(http.MethodPost, "/v1/webhooks/"+h.ID+"/test", "", &d)
	if d.Error != "198.41.0.4 is not called without TLS" {
		t.Errorf("test: %+v", d)
	}
}

func TestNoProxyFromTheEnvironment(t *testing.T) {
	var used atomic.Bool
	proxy := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { used.Store(true) }))
	defer proxy.Close()
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"} {
		t.Setenv(name, proxy.URL)
	}
	w := newWorld(t)
	if w.sender.secure.Transport.(*http.Transport).Proxy != nil || w.sender.plain.Transport.(*http.Transport).Proxy != nil {
		t.Error("a proxy may be used")
	}
	r := newReceiver(t, nil)
	w.create(r.url, "")
	w.message("c", esh3ar.StatusQueued)
	r.await(1)
	if used.Load() {
		t.Error("the proxy was used")
	}
}

func TestAddresses(t *testing.T) {
	p := newPolicy(Addresses{Allow: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00:1::/32")}})
	for s, want := range map[string]bool{
		"8.8.8.8": true, "198.41.0.4": true, "2606:4700::1111": true, "2a00:1450::1": true,
		"10.1.2.3": true, "fd00:1::5": true, "::ffff:10.1.2.3": true, "::ffff:8.8.8.8": true,
		"10.2.0.1": false, "172.16.0.1": false, "172.31.255.255": false, "192.168.1.1": false,
		"127.0.0.1": false, "127.8.8.8": false, "::1": false, "0.0.0.0": false, "0.1.2.3": false, "::": false,
		"169.254.169.254": false, "fe80::1": false, "fe80::1%eth0": false, "fec0::1": false,
		"100.64.0.1": false, "100.100.100.200": false, "100.127.255.255": false, "100.128.0.1": true,
		"224.0.0.1": false, "239.255.255.255": false, "ff02::1": false, "255.255.255.255": false, "240.0.0.1": false,
		"192.0.0.192": false, "192.0.2.1": false, "198.18.0.1": false, "198.51.100.1": false, "203.0.113.1": false, "192.88.99.1": false,
		"fc00::1": false, "fd00::1": false, "fd00:ec2::254": false,
		"::ffff:127.0.0.1": false, "::ffff:169.254.169.254": false, "::127.0.0.1": false, "::ffff:0:127.0.0.1": false,
		"64:ff9b::7f00:1": false, "64:ff9b::808:808": false, "64:ff9b:1::1": false, "2002:7f00:1::": false, "2001::1": false,
		"2001:db8::1": false, "3fff::1": false, "100::1": false, "5f00::1": false, "4000::1": false,
	} {
		if got := p.allows(netip.MustParseAddr(s)); got != want {
			t.Errorf("%s: %v", s, got)
		}
	}
	if p.allows(netip.Addr{}) {
		t.Error("no address is allowed")
	}
}

func codeOf(err error) string {
	var e *esh3ar.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return fmt.Sprint(err)
}

func TestBadRequests(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.MaxEndpoints = 2 })
	r := newReceiver(t, nil)
	h := w.create(r.url, "")
	one := "/v1/webhooks/" + h.ID
	long := strings.Repeat("x", 5000)
	for _, test := range []struct {
		name, method, path, body string
		kind                     esh3ar.Kind
		code, pointer            string
	}{
		{"no body", "POST", "/v1/webhooks", ``, esh3ar.KindInvalid, "url_missing", "/url"},
		{"no object", "POST", "/v1/webhooks", `[]`, esh3ar.KindInvalid, "not_an_object", ""},
		{"null", "POST", "/v1/webhooks", `null`, esh3ar.KindInvalid, "not_an_object", ""},
		{"field twice", "POST", "/v1/webhooks", `{"url":"https://a.example","url":"https://b.example"}`, esh3ar.KindInvalid, "duplicate_field", "/url"},
		{"broken", "POST", "/v1/webhooks", `{"url":`, esh3ar.KindInvalid, "malformed_json", ""},
		{"not UTF-8", "POST", "/v1/webhooks", "{\"url\":\"\xff\"}", esh3ar.KindInvalid, "invalid_utf8", ""},
		{"much", "POST", "/v1/webhooks", `{"url":"` + strings.Repeat(long, 10) + `"}`, esh3ar.KindTooLarge, "body_too_large", ""},
		{"unknown field", "POST", "/v1/webhooks", `{"url":"` + r.url + `","uRl/~":1}`, esh3ar.KindInvalid, "unknown_field", "/uRl~1~0"},
		{"URL of another type", "POST", "/v1/webhooks", `{"url":5}`, esh3ar.KindInvalid, "wrong_type", "/url"},
		{"plain", "POST", "/v1/webhooks", `{"url":"http://example.com/"}`, esh3ar.KindInvalid, "https_required", "/url"},
		{"other scheme", "POST", "/v1/webhooks", `{"url":"ftp://example.com/"}`, esh3ar.KindInvalid, "https_required", "/url"},
		{"file", "POST", "/v1/webhooks", `{"url":"file:///etc/passwd"}`, esh3ar.KindInvalid, "bad_url", "/url"},
		{"no host", "POST", "/v1/webhooks", `{"url":"https:///x"}`, esh3ar.KindInvalid, "bad_url", "/url"},
		{"no URL", "POST", "/v1/webhooks", `{"url":"example.com"}`, esh3ar.KindInvalid, "bad_url", "/url"},
		{"credentials", "POST", "/v1/webhooks", `{"url":"https://a:b@example.com/"}`, esh3ar.KindInvalid, "url_with_credentials", "/url"},
		{"fragment", "POST", "/v1/webhooks", `{"url":"https://example.com/#x"}`, esh3ar.KindInvalid, "bad_url", "/url"},
		{"spaces", "POST", "/v1/webhooks", `{"url":"https://example.com/a b"}`, esh3ar.KindInvalid, "bad_url", "/url"},
		{"long", "POST", "/v1/webhooks", `{"url":"https://example.com/` + long + `"}`, esh3ar.KindInvalid, "url_too_long", "/url"},
		{"private", "POST", "/v1/webhooks", `{"url":"https://10.0.0.1/"}`, esh3ar.KindInvalid, "address_not_allowed", "/url"},
		{"metadata", "POST", "/v1/webhooks", `{"url":"https://169.254.169.254/latest"}`, esh3ar.KindInvalid, "address_not_allowed", "/url"},
		{"mapped", "POST", "/v1/webhooks", `{"url":"https://[::ffff:10.0.0.1]/"}`, esh3ar.KindInvalid, "address_not_allowed", "/url"},
		{"NAT64", "POST", "/v1/webhooks", `{"url":"https://[64:ff9b::a00:1]/"}`, esh3ar.KindInvalid, "address_not_allowed", "/url"},
		{"decimal address", "POST", "/v1/webhooks", `{"url":"https://2130706433/"}`, esh3ar.KindInvalid, "bad_url", "/url"},
		{"hexadecimal address", "POST", "/v1/webhooks", `{"url":"https://0x7f.1/"}`, esh3ar.KindInvalid, "bad_url", "/url"},
		{"hexadecimal address", "POST", "/v1/webhooks", `{"url":"https://127.0x1/"}`, esh3ar.KindInvalid, "bad_url", "/url"},
		{"unknown type", "POST", "/v1/webhooks", `{"url":"` + r.url + `","types":["message.delivered","message.lost"]}`, esh3ar.KindInvalid, "unknown_type", "/types/1"},
		{"untold type", "POST", "/v1/webhooks", `{"url":"` + r.url + `","types":["accepted"]}`, esh3ar.KindInvalid, "unknown_type", "/types/0"},
		{"many types", "POST", "/v1/webhooks", `{"url":"` + r.url + `","types":["read"` + strings.Repeat(`,"read"`, 40) + `]}`, esh3ar.KindInvalid, "too_many_types", "/types"},
		{"types of another type", "POST", "/v1/webhooks", `{"url":"` + r.url + `","types":"read"}`, esh3ar.KindInvalid, "wrong_type", "/types"},
		{"description", "POST", "/v1/webhooks", `{"url":"` + r.url + `","description":"a\nb"}`, esh3ar.KindInvalid, "bad_description", "/description"},
		{"format", "POST", "/v1/webhooks", `{"url":"` + r.url + `","format":"xml"}`, esh3ar.KindInvalid, "unknown_format", "/format"},
		{"no batch", "POST", "/v1/webhooks", `{"url":"` + r.url + `","batch_max":0}`, esh3ar.KindInvalid, "out_of_range", "/batch_max"},
		{"large batch", "PATCH", one, `{"batch_max":501}`, esh3ar.KindInvalid, "out_of_range", "/batch_max"},
		{"half a batch", "PATCH", one, `{"batch_max":1.5}`, esh3ar.KindInvalid, "wrong_type", "/batch_max"},
		{"URL taken away", "PATCH", one, `{"url":null}`, esh3ar.KindInvalid, "url_missing", "/url"},
		{"secret of one's own", "PATCH", one, `{"secret":"whsec_x"}`, esh3ar.KindInvalid, "unknown_field", "/secret"},
		{"long overlap", "POST", one + "/rotate-secret", `{"overlap_seconds":9999999}`, esh3ar.KindInvalid, "out_of_range", "/overlap_seconds"},
		{"negative overlap", "POST", one + "/rotate-secret", `{"overlap_seconds":-1}`, esh3ar.KindInvalid, "out_of_range", "/overlap_seconds"},
		{"replay of nothing", "POST", one + "/replay", `{}`, esh3ar.KindInvalid, "since_or_cursor", "/since"},
		{"replay of both", "POST", one + "/replay", `{"since":"2026-03-01T00:00:00Z","cursor":"x"}`, esh3ar.KindInvalid, "since_or_cursor", "/since"},
		{"replay of no time", "POST", one + "/replay", `{"since":"yesterday"}`, esh3ar.KindInvalid, "bad_time", "/since"},
		{"replay of the future", "POST", one + "/replay", `{"since":"9999-01-01T00:00:00Z"}`, esh3ar.KindInvalid, "time_in_future", "/since"},
		{"replay of long ago", "POST", one + "/replay", `{"since":"2001-01-01T00:00:00Z"}`, esh3ar.KindGone, "cursor_expired", ""},
		{"replay of a cursor from elsewhere", "POST", one + "/replay", `{"cursor":"AQICAQb0"}`, esh3ar.KindInvalid, "bad_cursor", "/cursor"},
		{"replay of a cursor from another deployment", "POST", one + "/replay", `{"cursor":"AQICAQb0iw"}`, esh3ar.KindGone, "cursor_ahead", ""},
		{"test with a body", "POST", one + "/test", `{"x":1}`, esh3ar.KindInvalid, "unknown_field", "/x"},
		{"parameters", "GET", one + "?x=1", ``, esh3ar.KindInvalid, "unknown_parameter", ""},
		{"log without end", "GET", one + "/deliveries?limit=201", ``, esh3ar.KindInvalid, "bad_limit", "limit"},
		{"log from elsewhere", "GET", one + "/deliveries?cursor=AQ", ``, esh3ar.KindInvalid, "bad_cursor", "cursor"},
		{"log of an outcome", "GET", one + "/deliveries?outcome=great", ``, esh3ar.KindInvalid, "unknown_outcome", "outcome"},
		{"log twice", "GET", one + "/deliveries?limit=1&limit=2", ``, esh3ar.KindInvalid, "duplicate_parameter", "limit"},
		{"none", "GET", "/v1/webhooks/wh_none", ``, esh3ar.KindNotFound, "webhook_not_found", ""},
		{"none", "DELETE", "/v1/webhooks/wh_none", ``, esh3ar.KindNotFound, "webhook_not_found", ""},
		{"none", "POST", "/v1/webhooks/wh_none/enable", ``, esh3ar.KindNotFound, "webhook_not_found", ""},
		{"none", "GET", "/v1/webhooks/wh_none/deliveries", ``, esh3ar.KindNotFound, "webhook_not_found", ""},
	} {
		_, err := w.call("c", test.method, test.path, test.body)
		var e *esh3ar.Error
		if !errors.As(err, &e) || e.Kind != test.kind || e.Code != test.code || e.Pointer != test.pointer {
			t.Errorf("%s: %v, want %s at %q", test.name, err, test.code, test.pointer)
		}
	}
	// Another client's webhooks do not exist.
	for _, method := range []string{"GET", "PATCH", "DELETE"} {
		if _, err := w.call("d", method, one, `{}`); codeOf(err) != "webhook_not_found" {
			t.Errorf("another client's %s: %v", method, err)
		}
	}
	w.create(r.url, "")
	if _, err := w.call("c", "POST", "/v1/webhooks", `{"url":"`+r.url+`"}`); codeOf(err) != "too_many_webhooks" || esh3ar.KindOf(err) != esh3ar.KindConflict {
		t.Errorf("too many: %v", err)
	}
	var list struct{ Webhooks []view }
	w.ask("GET", "/v1/webhooks", "", &list)
	if len(list.Webhooks) != 2 || slices.ContainsFunc(list.Webhooks, func(v view) bool { return v.Secret != "" }) {
		t.Errorf("list: %+v", list)
	}
}

// TestLogPages: the log is read page by page.
func TestLogPages(t *testing.T) {
	w := newWorld(t)
	r := newReceiver(t, nil)
	h := w.create(r.url, "")
	for range 5 {
		w.ask("POST", "/v1/webhooks/"+h.ID+"/test", "", nil)
	}
	var ids []string
	for query := "?limit=2&outcome=delivered&cursor="; ; {
		var page struct {
			Deliveries []delivery `json:"deliveries"`
			Next       string     `json:"next_cursor"`
		}
		w.ask("GET", "/v1/webhooks/"+h.ID+"/deliveries"+query, "", &page)
		for _, d := range page.Deliveries {
			ids = append(ids, d.WebhookID)
		}
		if page.Next == "" {
			break
		}
		query = "?limit=2&outcome=delivered&cursor=" + page.Next
	}
	var want []string
	for _, g := range r.requests() {
		want = append(want, g.header.Get("Webhook-Id"))
	}
	slices.Reverse(want)
	if !slices.Equal(ids, want) {
		t.Errorf("log: %v, want %v", ids, want)
	}
}
