package balance

import (
	"bytes"
	"errors"
)

// framing is how the end of an answer's body is found.
type framing uint8

const (
	sized   framing = iota // by its length
	chunked                // by the last chunk
	closing                // by the end of the connection
)

// response is what the engine has to know of a node's answer.
type response struct {
	size    int // bytes of the header
	status  int
	framing framing
	length  int64 // of a sized body
	last    bool  // the node ends the connection after it
	problem bool  // application/problem+json
}

var (
	errPartial   = errors.New("the header is not whole yet")
	errMalformed = errors.New("the node's answer is not HTTP/1.1")
)

// parseResponse looks at the beginning of b, which answers a request (isHead: to HEAD). It appends the
// header to out as it goes to the client, without the empty line. The error is errPartial or errMalformed.
func parseResponse(b, out []byte, isHead bool) (response, []byte, error) {
	var r response
	end := bytes.Index(b, []byte("\r\n\r\n"))
	if end < 0 {
		return r, out, errPartial
	}
	r.size = end + 4
	eol := bytes.Index(b, []byte("\r\n"))
	if !r.readLine(b[:eol]) {
		return r, out, errMalformed
	}
	out = append(append(out, "HTTP/1.1"...), b[len("HTTP/1.1"):eol+2]...)
	length, encoded := false, false
	var named []byte // further options of Connection
	begin := len(out)
	for lines := b[eol+2 : end+2]; len(lines) > 0; {
		n := bytes.Index(lines, []byte("\r\n"))
		line := lines[:n+2]
		lines = lines[n+2:]
		name, value, ok := splitField(line[:n])
		if !ok {
			return r, out, errMalformed
		}
		switch responseField(name) {
		case fieldLength:
			n, ok := parseLength(value)
			if length || !ok {
				return r, out, errMalformed
			}
			length, r.length = true, n
		case fieldEncoding:
			if encoded || !bytes.EqualFold(value, []byte("chunked")) {
				return r, out, errMalformed
			}
			encoded = true
			continue
		case fieldConnection:
			for option := range bytes.SplitSeq(value, []byte(",")) {
				switch option = bytes.TrimSpace(option); {
				case bytes.EqualFold(option, []byte("close")):
					r.last = true
				case len(option) == 0 || bytes.EqualFold(option, []byte("keep-alive")):
				default:
					named = append(append(named, option...), ',')
				}
			}
			continue
		case fieldHop, fieldUpgrade:
			continue
		case fieldType:
			r.problem = bytes.Equal(value, []byte("application/problem+json"))
		}
		out = append(out, line...)
	}
	if length && encoded {
		return r, out, errMalformed
	}
	for name := range bytes.SplitSeq(named, []byte(",")) {
		out = dropField(out, begin, name)
	}
	switch {
	case isHead, r.status == 204, r.status == 304, r.status < 200:
		r.length = 0
	case encoded:
		r.framing = chunked
	case !length:
		r.framing = closing
	}
	return r, out, nil
}

// readLine reads "HTTP/1.1 200 OK".
func (r *response) readLine(line []byte) bool {
	const prefix = "HTTP/1.x "
	if len(line) < len(prefix)+3 || string(line[:7]) != "HTTP/1." || line[8] != ' ' || !isFieldValue(line) {
		return false
	}
	switch line[7] {
	case '1':
	case '0':
		r.last = true
	default:
		return false
	}
	for _, c := range line[len(prefix) : len(prefix)+3] {
		if c < '0' || c > '9' {
			return false
		}
		r.status = r.status*10 + int(c-'0')
	}
	return r.status >= 100 && (len(line) == len(prefix)+3 || line[len(prefix)+3] == ' ')
}

// dropField removes the lines of a field from the header that begins in b at an offset.
func dropField(b []byte, begin int, name []byte) []byte {
	if len(name) == 0 {
		return b
	}
	out := b[:begin]
	for lines := b[begin:]; len(lines) > 0; {
		n := bytes.Index(lines, []byte("\r\n")) + 2
		if field, _, _ := splitField(lines[:n-2]); !bytes.EqualFold(field, name) {
			out = append(out, lines[:n]...)
		}
		lines = lines[n:]
	}
	return out
}

// responseField tells the fields of an answer that matter from those that do not.
func responseField(name []byte) field {
	is := func(s string) bool { return bytes.EqualFold(name, []byte(s)) }
	switch len(name) {
	case 7:
		if is("Upgrade") {
			return fieldUpgrade
		}
		if is("Trailer") {
			return fieldHop
		}
	case 10:
		if is("Connection") {
			return fieldConnection
		}
		if is("Keep-Alive") {
			return fieldHop
		}
	case 12:
		if is("Content-Type") {
			return fieldType
		}
	case 14:
		if is("Content-Length") {
			return fieldLength
		}
	case 16:
		if is("Proxy-Connection") {
			return fieldHop
		}
	case 17:
		if is("Transfer-Encoding") {
			return fieldEncoding
		}
	case 18:
		if is("Proxy-Authenticate") {
			return fieldHop
		}
	}
	return fieldAny
}
