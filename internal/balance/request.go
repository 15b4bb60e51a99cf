package balance

import (
	"bytes"
	"net/http"

	"github.com/esh3artech/esh3ar/internal/health"
	"github.com/esh3artech/esh3ar/internal/http1"
)

// verdict says what the bytes that were read begin with.
type verdict uint8

const (
	partial verdict = iota // the header is not whole yet
	plain                  // a request that the engine forwards by itself
	other                  // one that net/http is to read: right perhaps, but not plain
	bad                    // one that is refused, because two readers could take it for different things
)

// request is what the engine has to know of a plain request.
type request struct {
	size   int   // bytes of the header
	length int64 // bytes of the body
	safety safety
	isHead bool // HEAD: the answer has no body
	last   bool // the client wants no further one on this connection
}

// refusal is why a request is bad.
type refusal struct {
	status       int
	code, detail string
}

func badHeader(detail string) refusal {
	return refusal{status: http.StatusBadRequest, code: "bad_request", detail: detail}
}

// parseRequest looks at the beginning of b. Of a plain request it appends the header to out as it goes to a
// node: without what concerns this connection alone, and with what f adds. Out is returned in any case, its
// end meaningless unless the verdict is plain.
//
// Plain is: HTTP/1.1, a path that is what it looks like, a body that has a Content-Length or is not there, no Expect, no
// Upgrade, no event stream. It is strict where RFC 9112 lets a reader choose: field lines end in CRLF and are
// not folded, names are tokens, one Host, one Content-Length, and never Content-Length with Transfer-Encoding. What is
// not so is bad, also where net/http would take it.
func parseRequest(b, out []byte, f *forwarded) (request, []byte, verdict, refusal) {
	var r request
	end := bytes.Index(b, []byte("\r\n\r\n"))
	if end < 0 {
		if hasBareLineEnd(b) {
			return r, out, bad, badHeader("lines of a header end in CRLF")
		}
		return r, out, partial, refusal{}
	}
	r.size = end + 4
	eol := bytes.Index(b, []byte("\r\n"))
	v, why := r.readLine(b[:eol])
	if v == bad {
		return r, out, bad, why
	}
	out = append(append(out, b[:eol]...), "\r\n"...)
	var host, length, chunked, expects bool
	upgrade := false
	f.begin()
	for lines := b[eol+2 : end+2]; len(lines) > 0; {
		n := bytes.Index(lines, []byte("\r\n"))
		line := lines[:n+2]
		lines = lines[n+2:]
		name, value, ok := splitField(line[:n])
		if !ok {
			return r, out, bad, badHeader("a line of the header is no field")
		}
		switch requestField(name) {
		case fieldHost:
			if host || !http1.IsPlainHost(value) {
				return r, out, bad, badHeader("there must be one Host, and it must be a name or an address")
			}
			host = true
		case fieldLength:
			n, ok := parseLength(value)
			if length || !ok {
				return r, out, bad, badHeader("there may be one Content-Length, and it must be a number")
			}
			length, r.length = true, n
		case fieldEncoding:
			if chunked || !bytes.EqualFold(value, []byte("chunked")) {
				return r, out, bad, refusal{status: http.StatusNotImplemented, code: "bad_transfer_encoding", detail: "chunked is the only Transfer-Encoding"}
			}
			chunked = true
			continue
		case fieldConnection:
			for option := range bytes.SplitSeq(value, []byte(",")) {
				switch option = bytes.TrimSpace(option); {
				case bytes.EqualFold(option, []byte("close")):
					r.last = true
				case len(option) == 0 || bytes.EqualFold(option, []byte("keep-alive")):
				default:
					v = other // it may name fields that concern this connection alone
				}
			}
			continue
		case fieldUpgrade:
			upgrade = true
			continue
		case fieldHop:
			continue
		case fieldExpect:
			expects = true
		case fieldAccept:
			if bytes.Contains(value, []byte("text/event-stream")) {
				v = other // lasts long, and is to end as soon as the client goes
			}
		case fieldKey:
			if r.safety == once && len(value) > 0 {
				r.safety = keyed
			}
		case fieldForwarded:
			if f.take(name, value) {
				continue
			}
		}
		out = append(out, line...)
	}
	switch {
	case !host:
		return r, out, bad, badHeader("there must be a Host")
	case chunked && bytes.HasSuffix(b[:eol], []byte("HTTP/1.0")):
		return r, out, bad, badHeader("HTTP/1.0 has no Transfer-Encoding")
	case chunked && length:
		return r, out, bad, badHeader("Content-Length and Transfer-Encoding exclude each other")
	case chunked, expects, upgrade && v == other:
		v = other
	}
	out = f.appendTo(out)
	return r, append(out, "\r\n"...), v, refusal{}
}

// readLine reads the request line. Its verdict is plain, other or bad.
func (r *request) readLine(line []byte) (verdict, refusal) {
	method, rest, ok1 := bytes.Cut(line, []byte(" "))
	target, version, ok2 := bytes.Cut(rest, []byte(" "))
	if !ok1 || !ok2 || !http1.IsToken(method) || len(target) == 0 || !bytes.HasPrefix(version, []byte("HTTP/")) || bytes.IndexByte(version, ' ') >= 0 {
		return bad, badHeader("the request line must be a method, a target and HTTP/1.1")
	}
	for _, c := range target {
		if c <= ' ' || c > '~' || c == '#' {
			return bad, badHeader("the request's target has a character that must be escaped")
		}
	}
	switch string(method) {
	case http.MethodGet, http.MethodPut, http.MethodDelete, http.MethodOptions, http.MethodTrace:
		r.safety = repeatable
	case http.MethodHead:
		r.safety, r.isHead = repeatable, true
	case http.MethodConnect:
		return bad, refusal{status: http.StatusMethodNotAllowed, code: "method_not_allowed", detail: "this is no proxy to other hosts"}
	default:
		r.safety = once
	}
	switch string(version) {
	case "HTTP/1.1":
	case "HTTP/1.0":
		return other, refusal{}
	default:
		return bad, refusal{status: http.StatusHTTPVersionNotSupported, code: "version_not_supported", detail: "use HTTP/1.1 or HTTP/2"}
	}
	if target[0] != '/' {
		return other, refusal{} // absolute form, or *
	}
	path := target
	if i := bytes.IndexByte(target, '?'); i >= 0 {
		path = target[:i]
	}
	if isOwnPath(path) {
		return other, refusal{}
	}
	return plain, refusal{}
}

// isOwnPath reports whether a path may be one that does not go to nodes as it is: what is answered here, the
// hubs, and whatever must be decoded or cleaned before one knows.
func isOwnPath(path []byte) bool {
	if bytes.HasPrefix(path, []byte("/hubs/")) {
		return true
	}
	switch string(bytes.TrimSuffix(path, []byte("/"))) {
	case "/healthz", "/readyz", "/metrics", health.ListingPath:
		return true
	}
	return bytes.IndexByte(path, '%') >= 0 || bytes.Contains(path, []byte("//")) || bytes.Contains(path, []byte("/."))
}

// hasBareLineEnd reports whether a line feed stands alone.
func hasBareLineEnd(b []byte) bool {
	for i := 0; ; i++ {
		j := bytes.IndexByte(b[i:], '\n')
		if j < 0 {
			return false
		}
		if i += j; i == 0 || b[i-1] != '\r' {
			return true
		}
	}
}

// splitField splits a field line into its name and its value without the white space around it.
func splitField(line []byte) (name, value []byte, ok bool) {
	colon := bytes.IndexByte(line, ':')
	if colon <= 0 {
		return nil, nil, false
	}
	name, value = line[:colon], bytes.Trim(line[colon+1:], " \t")
	return name, value, http1.IsToken(name) && isFieldValue(value)
}

// field is what a header field is to a proxy.
type field uint8

const (
	fieldAny  field = iota // goes on as it is
	fieldHop               // concerns one connection alone
	fieldHost              // the rest are looked at one by one
	fieldLength
	fieldEncoding
	fieldConnection
	fieldUpgrade
	fieldExpect
	fieldAccept
	fieldKey
	fieldForwarded
	fieldType
)

// requestField tells the fields of a request that matter from those that do not.
func requestField(name []byte) field {
	is := func(s string) bool { return bytes.EqualFold(name, []byte(s)) }
	switch len(name) {
	case 2:
		if is("TE") {
			return fieldHop
		}
	case 4:
		if is("Host") {
			return fieldHost
		}
	case 6:
		if is("Accept") {
			return fieldAccept
		}
		if is("Expect") {
			return fieldExpect
		}
	case 7:
		if is("Upgrade") {
			return fieldUpgrade
		}
		if is("Trailer") {
			return fieldHop
		}
	case 9:
		if is("Forwarded") || is("X-Real-IP") {
			return fieldForwarded
		}
	case 10:
		if is("Connection") {
			return fieldConnection
		}
		if is("Keep-Alive") {
			return fieldHop
		}
	case 14:
		if is("Content-Length") {
			return fieldLength
		}
	case 15:
		if is("Idempotency-Key") {
			return fieldKey
		}
		if is("X-Forwarded-For") {
			return fieldForwarded
		}
	case 16:
		if is("X-Forwarded-Host") || is("X-Forwarded-Port") {
			return fieldForwarded
		}
		if is("Proxy-Connection") {
			return fieldHop
		}
	case 17:
		if is("Transfer-Encoding") {
			return fieldEncoding
		}
		if is("X-Forwarded-Proto") {
			return fieldForwarded
		}
	case 19:
		if is("Proxy-Authorization") {
			return fieldHop
		}
	}
	return fieldAny
}

// isFieldValue reports whether b can be the value of a field: no control character but the tab (RFC 9110, 5.5).
func isFieldValue(b []byte) bool {
	for _, c := range b {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// parseLength reads a Content-Length of up to fifteen digits.
func parseLength(b []byte) (int64, bool) {
	if len(b) == 0 || len(b) > 15 {
		return 0, false
	}
	var n int64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}
