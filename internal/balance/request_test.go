package balance

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
)

const peerFields = "X-Forwarded-For: 198.51.100.7\r\nForwarded: for=198.51.100.7;proto=http\r\nX-Forwarded-Proto: http\r\nVia: 1.1 esh3ar\r\n"

func stranger() *forwarded { return newForwarded("198.51.100.7:1234", false, nil) }

func TestParseRequest(t *testing.T) {
	const line = "POST /v1/messages HTTP/1.1\r\n"
	for _, c := range []struct {
		name, in string
		want     verdict
		status   int    // of a bad one
		out      string // of a plain one, without what is added
	}{
		{name: "a post", in: line + "Host: a\r\nContent-Length: 3\r\n\r\nabc", want: plain, out: line + "Host: a\r\nContent-Length: 3\r\n"},
		{name: "names in any case, values with blanks", in: line + "hOST:a\r\ncontent-LENGTH: \t3 \r\n\r\n", want: plain, out: line + "hOST:a\r\ncontent-LENGTH: \t3 \r\n"},
		{name: "without a body", in: "GET /v1/messages?to=%2B962 HTTP/1.1\r\nHost: a:80\r\n\r\n", want: plain, out: "GET /v1/messages?to=%2B962 HTTP/1.1\r\nHost: a:80\r\n"},
		{name: "fields of the connection end here", in: line + "Host: a\r\nConnection: keep-alive\r\nKeep-Alive: 5\r\nTE: trailers\r\nProxy-Connection: x\r\nProxy-Authorization: y\r\nTrailer: z\r\nUpgrade: websocket\r\n\r\n", want: plain, out: line + "Host: a\r\n"},
		{name: "what a stranger says of others ends here", in: line + "Host: a\r\nX-Forwarded-For: 1.1.1.1\r\nForwarded: for=1.1.1.1\r\nX-Real-IP: 1.1.1.1\r\nX-Forwarded-Host: b\r\nX-Forwarded-Port: 1\r\nX-Forwarded-Proto: https\r\n\r\n", want: plain, out: line + "Host: a\r\n"},
		{name: "bytes above ASCII in a value", in: line + "Host: a\r\nX: \xff\xe9\r\n\r\n", want: plain, out: line + "Host: a\r\nX: \xff\xe9\r\n"},

		{name: "nothing yet", in: "", want: partial},
		{name: "half a header", in: line + "Host: a\r\n", want: partial},
		{name: "half a line end", in: line + "Host: a\r", want: partial},

		{name: "chunked", in: line + "Host: a\r\nTransfer-Encoding: chunked\r\n\r\n", want: other},
		{name: "expecting", in: line + "Host: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n", want: other},
		{name: "a WebSocket", in: "GET /x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", want: other},
		{name: "fields named by Connection", in: line + "Host: a\r\nConnection: keep-alive, X-Secret\r\nX-Secret: 1\r\n\r\n", want: other},
		{name: "an event stream", in: "GET /v1/events HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n", want: other},
		{name: "HTTP/1.0", in: "GET / HTTP/1.0\r\nHost: a\r\n\r\n", want: other},
		{name: "absolute form", in: "GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", want: other},
		{name: "the server as a whole", in: "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", want: other},
		{name: "metrics", in: "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", want: other},
		{name: "metrics with a query", in: "GET /metrics?x HTTP/1.1\r\nHost: a\r\n\r\n", want: other},
		{name: "metrics in disguise", in: "GET /%6detrics HTTP/1.1\r\nHost: a\r\n\r\n", want: other},
		{name: "metrics behind dots", in: "GET /v1/../metrics HTTP/1.1\r\nHost: a\r\n\r\n", want: other},
		{name: "metrics behind slashes", in: "GET //metrics HTTP/1.1\r\nHost: a\r\n\r\n", want: other},
		{name: "a hub", in: "POST /hubs/business/negotiate HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", want: other},

		{name: "length and chunks", in: line + "Host: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", want: bad, status: 400},
		{name: "chunks and length", in: line + "Host: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", want: bad, status: 400},
		{name: "chunks twice", in: line + "Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", want: bad, status: 501},
		{name: "chunks and more", in: line + "Host: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", want: bad, status: 501},
		{name: "chunks with a tail", in: line + "Host: a\r\nTransfer-Encoding: chunked;x\r\n\r\n", want: bad, status: 501},
		{name: "chunks with a control character", in: line + "Host: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n", want: bad, status: 400},
		{name: "chunks as identity", in: line + "Host: a\r\nTransfer-Encoding: identity\r\n\r\n", want: bad, status: 501},
		{name: "blank before the colon", in: line + "Host: a\r\nTransfer-Encoding : chunked\r\n\r\n", want: bad, status: 400},
		{name: "two lengths", in: line + "Host: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n", want: bad, status: 400},
		{name: "the same length twice", in: line + "Host: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n", want: bad, status: 400},
		{name: "a list of lengths", in: line + "Host: a\r\nContent-Length: 3, 3\r\n\r\n", want: bad, status: 400},
		{name: "a signed length", in: line + "Host: a\r\nContent-Length: +3\r\n\r\n", want: bad, status: 400},
		{name: "a hexadecimal length", in: line + "Host: a\r\nContent-Length: 0x3\r\n\r\n", want: bad, status: 400},
		{name: "an empty length", in: line + "Host: a\r\nContent-Length:\r\n\r\n", want: bad, status: 400},
		{name: "a length beyond numbers", in: line + "Host: a\r\nContent-Length: 99999999999999999999\r\n\r\n", want: bad, status: 400},
		{name: "a folded line", in: line + "Host: a\r\nX: b\r\n c\r\n\r\n", want: bad, status: 400},
		{name: "a folded line with a tab", in: line + "Host: a\r\nX: b\r\n\tTransfer-Encoding: chunked\r\n\r\n", want: bad, status: 400},
		{name: "a line feed alone", in: line + "Host: a\nX: b\r\n\r\n", want: bad, status: 400},
		{name: "line feeds alone", in: "GET / HTTP/1.1\nHost: a\n\n", want: bad, status: 400},
		{name: "a carriage return alone", in: line + "Host: a\r\nX: b\rc\r\n\r\n", want: bad, status: 400},
		{name: "NUL in a value", in: line + "Host: a\r\nX: b\x00\r\n\r\n", want: bad, status: 400},
		{name: "a line without a colon", in: line + "Host: a\r\nX\r\n\r\n", want: bad, status: 400},
		{name: "a line without a name", in: line + "Host: a\r\n: x\r\n\r\n", want: bad, status: 400},
		{name: "no host", in: line + "Content-Length: 3\r\n\r\n", want: bad, status: 400},
		{name: "two hosts", in: line + "Host: a\r\nHost: a\r\n\r\n", want: bad, status: 400},
		{name: "a host with a path", in: line + "Host: a/b\r\n\r\n", want: bad, status: 400},
		{name: "a host with a user", in: line + "Host: u@a\r\n\r\n", want: bad, status: 400},
		{name: "a blank in the target", in: "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", want: bad, status: 400},
		{name: "two blanks", in: "GET  /a HTTP/1.1\r\nHost: a\r\n\r\n", want: bad, status: 400},
		{name: "a blank line first", in: "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", want: bad, status: 400},
		{name: "a fragment", in: "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", want: bad, status: 400},
		{name: "a raw byte in the target", in: "GET /\xe9 HTTP/1.1\r\nHost: a\r\n\r\n", want: bad, status: 400},
		{name: "a tunnel", in: "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", want: bad, status: 405},
		{name: "HTTP/2 in clear", in: "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", want: bad, status: 505},
		{name: "HTTP/1.2", in: "GET / HTTP/1.2\r\nHost: a\r\n\r\n", want: bad, status: 505},
		{name: "TLS", in: "\x16\x03\x01\x02\x00\r\n\r\n", want: bad, status: 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, out, v, why := parseRequest([]byte(c.in), nil, stranger())
			if v != c.want || v == bad && why.status != c.status {
				t.Fatalf("verdict %d (%d %s), want %d", v, why.status, why.detail, c.want)
			}
			if v == plain && string(out) != c.out+peerFields+"\r\n" {
				t.Errorf("goes on as %q", out)
			}
			if v == plain && r.size != strings.Index(c.in, "\r\n\r\n")+4 {
				t.Errorf("the header has %d bytes", r.size)
			}
		})
	}
}

func TestRequestSafety(t *testing.T) {
	for in, want := range map[string]safety{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n":                            repeatable,
		"DELETE /v1/messages/1 HTTP/1.1\r\nHost: a\r\n\r\n":            repeatable,
		"POST / HTTP/1.1\r\nHost: a\r\n\r\n":                           once,
		"PATCH / HTTP/1.1\r\nHost: a\r\n\r\n":                          once,
		"POST / HTTP/1.1\r\nHost: a\r\nIdempotency-Key: \"k\"\r\n\r\n": keyed,
		"POST / HTTP/1.1\r\nHost: a\r\nidempotency-key: k\r\n\r\n":     keyed,
		"POST / HTTP/1.1\r\nHost: a\r\nIdempotency-Keys: k\r\n\r\n":    once,
		"POST / HTTP/1.1\r\nHost: a\r\nIdempotency-Key:\r\n\r\n":       once,
	} {
		r, _, v, _ := parseRequest([]byte(in), nil, stranger())
		if v != plain || r.safety != want {
			t.Errorf("%q: verdict %d, safety %d, want %d", in, v, r.safety, want)
		}
		std, err := http.ReadRequest(bufio.NewReader(strings.NewReader(in)))
		if err != nil || safetyOf(std) != want {
			t.Errorf("%q: read by net/http its safety is %d, %v", in, safetyOf(std), err)
		}
	}
}

func TestTrustedPeersAreBelieved(t *testing.T) {
	trusted := mustTrust(t, "10.0.0.0/8")
	const in = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.9\r\nX-Forwarded-For: 10.2.2.2\r\n" +
		"Forwarded: for=203.0.113.9;proto=https\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: b\r\n\r\n"
	for _, c := range []struct {
		remote string
		tls    bool
		want   http.Header
	}{
		{"10.1.1.1:5", false, http.Header{
			"X-Forwarded-For": {"203.0.113.9, 10.2.2.2, 10.1.1.1"}, "Forwarded": {"for=203.0.113.9;proto=https, for=10.1.1.1;proto=http"},
			"X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"b"}, "Via": {"1.1 esh3ar"},
		}},
		{"[2001:db8::1]:5", true, http.Header{
			"X-Forwarded-For": {"2001:db8::1"}, "Forwarded": {`for="[2001:db8::1]";proto=https`}, "X-Forwarded-Proto": {"https"}, "Via": {"1.1 esh3ar"},
		}},
	} {
		f := newForwarded(c.remote, c.tls, trusted)
		for range 2 { // the second request of a connection is like the first
			_, out, v, _ := parseRequest([]byte(in), nil, f)
			got, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(out)))
			if v != plain || err != nil {
				t.Fatalf("verdict %d, %v", v, err)
			}
			sameFields(t, c.remote+" (engine)", got.Header, c.want)
		}
		std, err := http.ReadRequest(bufio.NewReader(strings.NewReader(in)))
		if err != nil {
			t.Fatal(err)
		}
		out := std.Header.Clone()
		f.setOn(out, std.Header)
		sameFields(t, c.remote+" (net/http)", out, c.want)
	}
}

func sameFields(t *testing.T, what string, got, want http.Header) {
	t.Helper()
	for name := range got {
		if !slices.Equal(got[name], want[name]) {
			t.Errorf("%s: %s is %q, want %q", what, name, got[name], want[name])
		}
	}
	for name := range want {
		if got[name] == nil {
			t.Errorf("%s: no %s", what, name)
		}
	}
}

// FuzzParseRequest: what is plain means the same to net/http, before and after, and carries nothing across
// that it should not.
func FuzzParseRequest(f *testing.F) {
	f.Add([]byte("POST /v1/messages HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nAuthorization: Bearer x\r\n\r\nabc"))
	f.Add([]byte("GET /a?b=%20 HTTP/1.1\r\nHost: [::1]:80\r\nConnection: close\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n"))
	f.Add([]byte("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"))
	f.Add([]byte("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r, out, v, why := parseRequest(in, nil, stranger())
		switch v {
		case bad:
			if why.status < 400 || why.code == "" || why.detail == "" {
				t.Fatalf("refused without a reason: %+v", why)
			}
			return
		case plain:
		default:
			return
		}
		before, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(in)))
		if err != nil {
			t.Fatalf("net/http does not read %q: %v", in, err)
		}
		after, err := http.ReadRequest(bufio.NewReader(io.MultiReader(bytes.NewReader(out), bytes.NewReader(in[r.size:]))))
		if err != nil {
			t.Fatalf("net/http does not read %q: %v", out, err)
		}
		if before.Method != after.Method || before.RequestURI != after.RequestURI || before.Host != after.Host {
			t.Fatalf("%q became %q", in, out)
		}
		if before.ContentLength != r.length || after.ContentLength != r.length || len(after.TransferEncoding) > 0 {
			t.Fatalf("a body of %d bytes is one of %d to net/http, and one of %d when passed on", r.length, before.ContentLength, after.ContentLength)
		}
		if before.Close != r.last {
			t.Fatalf("last: %v, to net/http %v", r.last, before.Close)
		}
		if got := after.Header.Values("X-Forwarded-For"); len(got) != 1 || got[0] != "198.51.100.7" {
			t.Fatalf("X-Forwarded-For: %q", got)
		}
		for _, name := range []string{"Connection", "Keep-Alive", "Te", "Trailer", "Upgrade", "Proxy-Connection", "Proxy-Authorization", "X-Real-Ip"} {
			if after.Header[name] != nil {
				t.Fatalf("%s is passed on", name)
			}
		}
		if safetyOf(before) != r.safety {
			t.Fatalf("safety %d, to net/http %d", r.safety, safetyOf(before))
		}
	})
}
