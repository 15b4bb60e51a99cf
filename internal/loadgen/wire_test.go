package loadgen

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// dialTest returns a connection to a server that answers with h.
func dialTest(t testing.TB, h http.HandlerFunc) *wire {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	e, err := (&Target{URL: srv.URL}).endpoint()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := e.dial(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return newWire(conn)
}

var getRoot = []byte("GET / HTTP/1.1\r\nHost: test\r\n\r\n")

func TestExchangeReadsWhatNetHTTPWrites(t *testing.T) {
	long := strings.Repeat("0123456789", 30_000)
	var answer func(w http.ResponseWriter)
	w := dialTest(t, func(rw http.ResponseWriter, _ *http.Request) { answer(rw) })
	for _, tc := range []struct {
		name   string
		answer func(w http.ResponseWriter)
		status int
		body   string
		after  time.Duration
	}{
		{"short", func(w http.ResponseWriter) { w.WriteHeader(202); io.WriteString(w, `{"id":"x"}`) }, 202, `{"id":"x"}`, 0},
		{"empty", func(w http.ResponseWriter) { w.WriteHeader(202) }, 202, "", 0},
		{"without a body", func(w http.ResponseWriter) { w.WriteHeader(204) }, 204, "", 0},
		{"chunked", func(w http.ResponseWriter) {
			for i := 0; i < len(long); i += 77_777 {
				io.WriteString(w, long[i:min(i+77_777, len(long))])
				w.(http.Flusher).Flush()
			}
		}, 200, long, 0},
		{"long", func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", fmt.Sprint(len(long)))
			io.WriteString(w, long)
		}, 200, long, 0},
		{"to wait", func(w http.ResponseWriter) { w.Header().Set("Retry-After", "3"); w.WriteHeader(503) }, 503, "", 3 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			answer = tc.answer
			a, err := w.exchange(getRoot)
			if err != nil {
				t.Fatal(err)
			}
			if a.status != tc.status || string(a.body) != tc.body || a.retryAfter != tc.after || a.close {
				t.Errorf("status %d, body of %d bytes, retry after %v, close %t", a.status, len(a.body), a.retryAfter, a.close)
			}
		})
	}
	answer = func(w http.ResponseWriter) { w.Header().Set("Connection", "close") }
	if a, err := w.exchange(getRoot); err != nil || !a.close {
		t.Errorf("close %t, %v", a.close, err)
	}
	if _, err := w.exchange(getRoot); err == nil {
		t.Error("an answer on a closed connection")
	}
}

func TestExchangeRefusesOtherThings(t *testing.T) {
	for _, reply := range []string{
		"HTTP/1.0 200 OK\r\n\r\n",
		"SSH-2.0-OpenSSH\r\n\r\n",
		"HTTP/1.1 2x0 OK\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7fffffff\r\n",
		strings.Repeat("x", maxAnswer+1000),
		"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\ncut",
	} {
		here, there := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			io.ReadFull(there, make([]byte, len(getRoot)))
			io.WriteString(there, reply)
			there.Close()
		}()
		if a, err := newWire(here).exchange(getRoot); err == nil {
			t.Errorf("%.60q became %+v", reply, a)
		}
		here.Close()
		<-done
	}
}

func TestSocketRefusesOtherThings(t *testing.T) {
	for _, frame := range []string{
		"\x81\x80",  // masked
		"\x01\x01a", // a fragment
		"\x81\x7f\x00\x00\x00\x00\xff\xff\xff\xff", // too long
		"\x81\x05abc",  // cut off
		"\x81\x7e\x00", // cut off within the length
	} {
		here, there := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			io.WriteString(there, frame)
			there.Close()
		}()
		s := &socket{conn: here, buf: make([]byte, 4)}
		if op, payload, err := s.next(); err == nil {
			t.Errorf("%q became %d %q", frame, op, payload)
		}
		here.Close()
		<-done
	}
}

func TestSocketReadsFramesOfAllLengths(t *testing.T) {
	here, there := net.Pipe()
	defer here.Close()
	lengths := []int{0, 1, 125, 126, 127, 5000, 65535, 65536, 200_000}
	done := make(chan struct{})
	go func() {
		defer close(done)
		// What a client writes, unmasked, is what a server would.
		for _, n := range lengths {
			payload := bytes.Repeat([]byte{byte(n)}, n)
			raw := &bytesConn{}
			if err := (&socket{conn: raw}).write(opText, payload); err != nil {
				t.Error(err)
			}
			there.Write(unmask(raw.Bytes()))
		}
		there.Close()
	}()
	s := &socket{conn: here, buf: make([]byte, 16)}
	for _, n := range lengths {
		op, payload, err := s.next()
		if err != nil || op != opText || len(payload) != n || bytes.Count(payload, []byte{byte(n)}) != n {
			t.Fatalf("a frame of %d bytes came as opcode %d with %d bytes, %v", n, op, len(payload), err)
		}
	}
	if _, _, err := s.next(); !errors.Is(err, io.EOF) {
		t.Errorf("error %v at the end", err)
	}
	<-done
}

// bytesConn is a connection that keeps what is written to it.
type bytesConn struct {
	net.Conn
	bytes.Buffer
}

func (c *bytesConn) Read(b []byte) (int, error)  { return c.Buffer.Read(b) }
func (c *bytesConn) Write(b []byte) (int, error) { return c.Buffer.Write(b) }

// unmask turns one masked frame into the same frame without a mask.
func unmask(frame []byte) []byte {
	head := 2
	switch frame[1] & 0x7f {
	case 126:
		head = 4
	case 127:
		head = 10
	}
	out := append([]byte(nil), frame[:head]...)
	out[1] &^= 0x80
	key := frame[head : head+4]
	for i, c := range frame[head+4:] {
		out = append(out, c^key[i&3])
	}
	return out
}

func TestParseSamples(t *testing.T) {
	s, err := parseSamples(strings.NewReader("# HELP a b\n# TYPE a counter\na 1\na{x=\"{1 2}\"} 2 1700000000\nb_seconds_bucket{le=\"+Inf\"} 3e1\n\nc NaN\n"))
	if err != nil {
		t.Fatal(err)
	}
	if sum, ok := s.sum("a"); sum != 3 || !ok {
		t.Errorf("the sum of a is %v, %t", sum, ok)
	}
	if _, ok := s.sum("missing"); ok || s[`b_seconds_bucket{le="+Inf"}`] != 30 {
		t.Errorf("samples %v", s)
	}
	if _, err := parseSamples(strings.NewReader("a x\n")); err == nil {
		t.Error("a value that is no number was taken")
	}
}

func TestStagesAreWhatGrew(t *testing.T) {
	before := samples{`h_seconds_bucket{le="0.1"}`: 5, `h_seconds_bucket{le="1"}`: 5, `h_seconds_bucket{le="+Inf"}`: 5}
	after := samples{
		`h_seconds_bucket{le="0.1"}`: 103, `h_seconds_bucket{le="1"}`: 104, `h_seconds_bucket{le="+Inf"}`: 105,
		`idle_seconds_bucket{le="+Inf"}`:             0,
		`tiers_seconds_bucket{le="0.1",tier="gold"}`: 0, `tiers_seconds_bucket{le="+Inf",tier="gold"}`: 1,
		`other_bucket{le="1"}`: 9,
	}
	got := after.since(before)
	want := []StageReport{
		{Name: "h", Count: 100, P50: Milliseconds(100 * time.Millisecond), P99: Milliseconds(time.Second)},
		{Name: `tiers{tier="gold"}`, Count: 1, P50: Milliseconds(100 * time.Millisecond), P99: Milliseconds(100 * time.Millisecond)},
	}
	if len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("stages %+v, want %+v", got, want)
	}
}

func TestBareAnswersOnlyMessages(t *testing.T) {
	for body, want := range map[string]int{
		`{"to":"amina","content":"hello","metadata":{"a":"b"},"ttl":3,"send_at":"2026-12-01T00:00:00Z"}`: 202,
		`{"to":`: 400,
	} {
		rec := httptest.NewRecorder()
		Bare().ServeHTTP(rec, httptest.NewRequest(http.MethodPost, "/v1/messages", strings.NewReader(body)))
		if rec.Code != want {
			t.Errorf("%s is answered with %d, want %d", body, rec.Code, want)
		}
	}
}

// BenchmarkExchange measures what one message costs the sending side, with a server that only answers.
func BenchmarkExchange(b *testing.B) {
	c, err := NewClients(Target{URL: "http://127.0.0.1:1", APIKey: "k"}, Workload{Clients: 1, Recipients: 1, Size: 100, Batch: 1}, 0, 1, nil)
	if err != nil {
		b.Fatal(err)
	}
	s := c.all[0]
	s.wire = dialTest(b, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusAccepted)
		io.WriteString(w, `{"id":"0198c0de-7a1b-7c3d-8e4f-0123456789ab","status":"accepted"}`)
	})
	b.ReportAllocs()
	for b.Loop() {
		now := time.Now()
		s.prepare(now, now)
		a, err := s.wire.exchange(s.request)
		if err != nil {
			b.Fatal(err)
		}
		if _, ok := trackingID(a.body); !ok {
			b.Fatal("no id")
		}
	}
}

// BenchmarkMessage measures what one receipt costs a device, without the network.
func BenchmarkMessage(b *testing.B) {
	l, err := CreateLedger(b.TempDir() + "/ledger")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	d, err := NewDevices(Target{URL: "http://127.0.0.1:1", JWTSecret: "secret"}, 7, Audience{N: 1}, l)
	if err != nil {
		b.Fatal(err)
	}
	text := content(100)
	dev := d.all[0]
	link := &minimalLink{in: dev}
	seq := uint32(0)
	head := `{"type":1,"target":"ReceiveMessage","arguments":[{"id":"0198c0de-7a1b-7c3d-8e4f-0123456789ab","from":"x","content":"`
	msg := []byte(head + string(text) + `","accepted_at":"2026-11-24T20:00:00.123456Z","attempt":1}]}` + "\x1e")
	b.ReportAllocs()
	for b.Loop() {
		(&mark{run: 7, client: 1, seq: seq, sent: time.Now().UnixNano()}).put(msg[len(head):])
		seq++
		if err := link.messages(msg); err != nil {
			b.Fatal(err)
		}
		dev.ids = dev.ids[:0]
	}
	if n := d.Stats().Received; n != int64(seq) {
		b.Fatalf("received %d of %d", n, seq)
	}
}
