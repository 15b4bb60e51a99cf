package balance

import (
	"bufio"
	"bytes"
	"errors"
	"net/http"
	"strings"
	"testing"
)

func TestParseResponse(t *testing.T) {
	for _, c := range []struct {
		name, in string
		isHead   bool
		err      error
		want     response
		out      string
	}{
		{name: "an answer", in: "HTTP/1.1 202 Accepted\r\nContent-Length: 3\r\nX: y\r\n\r\nabc", want: response{status: 202, length: 3}, out: "HTTP/1.1 202 Accepted\r\nContent-Length: 3\r\nX: y\r\n"},
		{name: "without a reason", in: "HTTP/1.1 204 \r\n\r\n", want: response{status: 204}, out: "HTTP/1.1 204 \r\n"},
		{name: "without a blank even", in: "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", want: response{status: 200}, out: "HTTP/1.1 200\r\nContent-Length: 0\r\n"},
		{name: "chunks", in: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n", want: response{status: 200, framing: chunked}, out: "HTTP/1.1 200 OK\r\n"},
		{name: "up to the end", in: "HTTP/1.0 200 OK\r\nX: y\r\n\r\n", want: response{status: 200, framing: closing, last: true}, out: "HTTP/1.1 200 OK\r\nX: y\r\n"},
		{name: "to HEAD", in: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", isHead: true, want: response{status: 200}, out: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n"},
		{name: "not modified", in: "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", want: response{status: 304}, out: "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n"},
		{name: "the last", in: "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", want: response{status: 200, last: true}, out: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"},
		{name: "fields of the connection", in: "HTTP/1.1 200 OK\r\nX-Secret: a\r\nConnection: keep-alive, x-secret\r\nKeep-Alive: 5\r\nContent-Length: 0\r\nUpgrade: h2c\r\n\r\n", want: response{status: 200}, out: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"},
		{name: "a problem", in: "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n", want: response{status: 503, problem: true}, out: "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 1\r\nContent-Length: 0\r\n"},

		{name: "half", in: "HTTP/1.1 200 OK\r\nContent-Le", err: errPartial},
		{name: "two lengths", in: "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", err: errMalformed},
		{name: "length and chunks", in: "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", err: errMalformed},
		{name: "another encoding", in: "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", err: errMalformed},
		{name: "a folded line", in: "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", err: errMalformed},
		{name: "another protocol", in: "SSH-2.0-OpenSSH\r\n\r\n", err: errMalformed},
		{name: "HTTP/2", in: "HTTP/2.0 200 OK\r\n\r\n", err: errMalformed},
		{name: "no number", in: "HTTP/1.1 2x0 OK\r\n\r\n", err: errMalformed},
		{name: "four digits", in: "HTTP/1.1 2000 OK\r\n\r\n", err: errMalformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, out, err := parseResponse([]byte(c.in), nil, c.isHead)
			if !errors.Is(err, c.err) {
				t.Fatalf("error %v, want %v", err, c.err)
			}
			if c.err != nil {
				return
			}
			c.want.size = strings.Index(c.in, "\r\n\r\n") + 4
			if got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
			if string(out) != c.out {
				t.Errorf("goes on as %q", out)
			}
		})
	}
}

// FuzzParseResponse: what is passed on means the same to net/http as what came.
func FuzzParseResponse(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"), false)
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: x\r\nX: 1\r\n\r\n0\r\n\r\n"), false)
	f.Add([]byte("HTTP/1.0 503 No\r\nRetry-After: 1\r\n\r\n"), true)
	f.Fuzz(func(t *testing.T, in []byte, isHead bool) {
		r, out, err := parseResponse(in, nil, isHead)
		if err != nil || r.status < 200 {
			return
		}
		method := http.MethodGet
		if isHead {
			method = http.MethodHead
		}
		before, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(in)), &http.Request{Method: method})
		if err != nil {
			return // net/http is stricter here and there; the client's own reader then says so
		}
		if before.StatusCode != r.status {
			t.Fatalf("status %d, to net/http %d", r.status, before.StatusCode)
		}
		switch {
		case isHead || r.status == 204 || r.status == 304:
			if r.framing != sized || r.length != 0 {
				t.Fatalf("a body where there is none: %+v", r)
			}
		case r.framing == chunked:
			if before.ContentLength != -1 || len(before.TransferEncoding) != 1 {
				t.Fatalf("chunked, but to net/http %d bytes", before.ContentLength)
			}
		case r.framing == closing:
			if before.ContentLength != -1 || len(before.TransferEncoding) != 0 {
				t.Fatalf("up to the end, but to net/http %d bytes, %v", before.ContentLength, before.TransferEncoding)
			}
		default:
			if before.ContentLength != r.length {
				t.Fatalf("%d bytes, to net/http %d", r.length, before.ContentLength)
			}
		}
		after, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(append(out, "\r\n"...))), &http.Request{Method: method})
		if err != nil {
			t.Fatalf("net/http reads %q but not %q: %v", in, out, err)
		}
		for _, name := range []string{"Connection", "Keep-Alive", "Trailer", "Upgrade", "Proxy-Authenticate"} {
			if after.Header[name] != nil {
				t.Fatalf("%s is passed on", name)
			}
		}
	})
}

func TestWhatMayBeRepeated(t *testing.T) {
	problemOf := func(code string) []byte {
		return []byte(`{"type":"/problems/x","title":"X","status":503,"detail":"say \"code\":\"overloaded\"","code":"` + code + `","permanent":false}`)
	}
	for _, c := range []struct {
		safety  safety
		failure failure
		want    bool
	}{
		{once, failure{}, true}, {keyed, failure{}, true}, {repeatable, failure{}, true},
		{once, failure{sent: true}, false}, {keyed, failure{sent: true}, true}, {repeatable, failure{sent: true}, true},
	} {
		if got := mayRepeat(c.safety, true, c.failure); got != c.want {
			t.Errorf("safety %d, %+v: %v", c.safety, c.failure, got)
		}
		if mayRepeat(c.safety, false, c.failure) {
			t.Error("what is not there any more may be repeated")
		}
	}
	for code, want := range map[string]bool{
		"overloaded": true, "journal_unavailable": true, "journal_full": true, "stopping": true,
		"outcome_unknown": false, "timeout": false, "": false, "something_new": false,
	} {
		if got := refusedElsewhere(503, true, problemOf(code)); got != want {
			t.Errorf("503 %s: %v", code, got)
		}
		if refusedElsewhere(429, true, problemOf(code)) || refusedElsewhere(503, false, problemOf(code)) {
			t.Errorf("%s counts without its status or type", code)
		}
	}
	if !isUnknown(503, true, problemOf("outcome_unknown")) || isUnknown(503, true, problemOf("overloaded")) {
		t.Error("outcome_unknown is not known")
	}
}
