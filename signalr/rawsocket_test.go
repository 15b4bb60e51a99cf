package signalr_test

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// A rawSocket is a WebSocket client that sends whatever it is told.
type rawSocket struct {
	t    testing.TB
	conn net.Conn
	br   *bufio.Reader
}

const (
	opText   = 1
	opBinary = 2
	opClose  = 8
	opPing   = 9
	opPong   = 10
)

// dialRaw upgrades; a refusal's status is returned with a nil socket.
func dialRaw(t testing.TB, address string, header http.Header) (*rawSocket, int) {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	req := &http.Request{Method: http.MethodGet, URL: u, Host: u.Host, Header: header.Clone()}
	if req.Header == nil {
		req.Header = make(http.Header)
	}
	req.Header.Set("Connection", "keep-alive, Upgrade")
	req.Header.Set("Upgrade", "websocket")
	req.Header.Set("Sec-WebSocket-Version", "13")
	req.Header.Set("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
	if err := req.Write(conn); err != nil {
		t.Fatal(err)
	}
	s := &rawSocket{t: t, conn: conn, br: bufio.NewReader(conn)}
	resp, err := http.ReadResponse(s.br, req)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		_ = conn.Close()
		return nil, resp.StatusCode
	}
	return s, resp.StatusCode
}

// dialGreeted upgrades without negotiation and does the handshake.
func dialGreeted(t testing.TB, address, protocol string) *rawSocket {
	t.Helper()
	s, status := dialRaw(t, address, nil)
	if s == nil {
		t.Fatalf("upgrade refused with %d", status)
	}
	s.send(opText, fmt.Sprintf(`{"protocol":%q,"version":1}`+"\x1e", protocol))
	if got := s.read(); got != "{}\x1e" {
		t.Fatalf("handshake answered with %q", got)
	}
	return s
}

// frame is a masked frame. The mask is zero, which is one of the legal masks.
func frame(first byte, payload string) []byte {
	b := []byte{first}
	switch n := len(payload); {
	case n <= 125:
		b = append(b, 0x80|byte(n))
	case n <= 0xffff:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	b = append(b, 0, 0, 0, 0)
	return append(b, payload...)
}

func (s *rawSocket) send(opcode byte, payload string) {
	s.t.Helper()
	s.write(frame(0x80|opcode, payload))
}

func (s *rawSocket) write(b []byte) {
	s.t.Helper()
	if _, err := s.conn.Write(b); err != nil {
		s.t.Fatalf("write: %v", err)
	}
}

// next reads a frame. The error is that of the socket.
func (s *rawSocket) next() (opcode byte, payload string, err error) {
	var head [2]byte
	if _, err := io.ReadFull(s.br, head[:]); err != nil {
		return 0, "", err
	}
	n := int(head[1] & 0x7f)
	var ext [8]byte
	switch n {
	case 126:
		_, err = io.ReadFull(s.br, ext[:2])
		n = int(binary.BigEndian.Uint16(ext[:]))
	case 127:
		_, err = io.ReadFull(s.br, ext[:])
		n = int(binary.BigEndian.Uint64(ext[:]))
	}
	if err != nil {
		return 0, "", err
	}
	b := make([]byte, n)
	_, err = io.ReadFull(s.br, b)
	return head[0] & 0x0f, string(b), err
}

// read reads the next data frame.
func (s *rawSocket) read() string {
	s.t.Helper()
	for {
		opcode, payload, err := s.next()
		if err != nil {
			s.t.Fatalf("read: %v", err)
		}
		if opcode == opText || opcode == opBinary {
			return payload
		}
		if opcode == opClose {
			s.t.Fatalf("closed with %q", payload)
		}
	}
}

// rest reads to the socket's end and returns all data, answering the closing
// frame as a client does.
func (s *rawSocket) rest() string {
	var all strings.Builder
	for {
		opcode, payload, err := s.next()
		if err != nil {
			return all.String()
		}
		switch opcode {
		case opText, opBinary:
			all.WriteString(payload)
		case opClose:
			_, _ = s.conn.Write(frame(0x80|opClose, payload))
		}
	}
}

// negotiated is what negotiation answers.
type negotiated struct {
	Status               int
	ConnectionID         string `json:"connectionId"`
	ConnectionToken      string `json:"connectionToken"`
	NegotiateVersion     *int   `json:"negotiateVersion"`
	UseStatefulReconnect *bool  `json:"useStatefulReconnect"`
	AvailableTransports  []struct {
		Transport       string
		TransferFormats []string
	} `json:"availableTransports"`
	URL         string `json:"url"`
	AccessToken string `json:"accessToken"`
	Error       string `json:"error"`
	Header      http.Header
}

// request sends an HTTP request and returns the response with its body read.
func request(t testing.TB, method, address string, header http.Header, body string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(method, address, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if header != nil {
		req.Header = header
	}
	// No keep-alive: no goroutine outlives the test.
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

func negotiate(t testing.TB, hub, query string, header http.Header) negotiated {
	t.Helper()
	resp, body := request(t, http.MethodPost, hub+"/negotiate"+query, header, "")
	n := negotiated{Status: resp.StatusCode, Header: resp.Header}
	if resp.StatusCode == http.StatusOK {
		if err := json.Unmarshal([]byte(body), &n); err != nil {
			t.Fatalf("%v in %s", err, body)
		}
	}
	return n
}
