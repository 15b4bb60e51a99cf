package balance

import (
	"bytes"
	"net"
	"strings"
	"testing"
)

const (
	benchRequest = "POST /v1/messages HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nAuthorization: Bearer esh_1234567890abcdef\r\n" +
		"Content-Type: application/json\r\nContent-Length: 130\r\n\r\n"
	benchAnswer = "HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nLocation: /v1/messages/019fb1c4-7f21-7a55-9d0e-53f1c2a80001\r\n" +
		"Date: Wed, 25 Nov 2026 00:00:00 GMT\r\nContent-Length: 100\r\n\r\n"
)

// cheapNode answers every request of benchRequest's form, and costs next to nothing itself.
func cheapNode(b *testing.B) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
	answer := []byte(benchAnswer + strings.Repeat("x", 100))
	ready := []byte("HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{\"status\":\"ok\"}")
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 4096)
				n := 0
				for {
					m, err := c.Read(buf[n:])
					if err != nil {
						return
					}
					n += m
					if bytes.HasPrefix(buf[:n], []byte("GET ")) {
						c.Write(ready)
						n = 0
					} else if i := bytes.Index(buf[:n], []byte("\r\n\r\n")); i >= 0 && n == i+4+130 {
						c.Write(answer)
						n = 0
					}
				}
			}()
		}
	}()
	return "http://" + l.Addr().String()
}

// BenchmarkForward is one request after the other on one connection: five goroutines wake each other, so it
// is latency more than cost. What it allocates is the balancer's and the polling's.
func BenchmarkForward(b *testing.B) {
	balancer := start(b, newSetNodes(cheapNode(b), cheapNode(b)), func(o *Options) { o.PollEvery = 3600e9 })
	c, err := net.Dial("tcp", balancer.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	request := []byte(benchRequest + strings.Repeat("x", 130))
	answer := make([]byte, 4096)
	exchange := func() {
		if _, err := c.Write(request); err != nil {
			b.Fatal(err)
		}
		for n := 0; n < len(benchAnswer)+100; {
			m, err := c.Read(answer[n:])
			if err != nil {
				b.Fatal(err)
			}
			n += m
		}
	}
	exchange()
	b.ReportAllocs()
	for b.Loop() {
		exchange()
	}
}

func BenchmarkParseRequest(b *testing.B) {
	f := stranger()
	in := []byte(benchRequest)
	var out []byte
	b.ReportAllocs()
	for b.Loop() {
		var v verdict
		if _, out, v, _ = parseRequest(in, out[:0], f); v != plain {
			b.Fatal(v)
		}
	}
}

func BenchmarkParseResponse(b *testing.B) {
	in := []byte(benchAnswer)
	var out []byte
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if _, out, err = parseResponse(in, out[:0], false); err != nil {
			b.Fatal(err)
		}
	}
}
