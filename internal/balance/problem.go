package balance

import (
	"net/http"
	"strconv"
)

// problem is an answer of the balancer itself, as a problem document (RFC 9457) of the API's form.
type problem struct {
	status       int
	code, detail string
	permanent    bool
	retryAfter   int // seconds, 0 for none
}

// Error returns the detail.
func (p *problem) Error() string { return p.detail }

func (r refusal) problem() *problem {
	return &problem{status: r.status, code: r.code, detail: r.detail, permanent: true}
}

// The balancer's own problems. Their detail says what to do.

func noNode() *problem {
	return &problem{status: http.StatusServiceUnavailable, code: "no_node", retryAfter: 1,
		detail: "no server can take the request at the moment, and none got it; try again"}
}

func draining() *problem {
	return &problem{status: http.StatusServiceUnavailable, code: "stopping", retryAfter: 1,
		detail: "this balancer is stopping; try again on a new connection"}
}

func unknownRoute() *problem {
	return &problem{status: http.StatusNotFound, code: "no_such_route", permanent: true, detail: "there is no such route"}
}

func slowBody() *problem {
	return &problem{status: http.StatusRequestTimeout, code: "body_timeout", detail: "the body did not arrive in time"}
}

func brokenBody() *problem {
	return &problem{status: http.StatusBadRequest, code: "bad_body", permanent: true,
		detail: "the body breaks off, or is not what its header says"}
}

func slowHeader() *problem {
	return &problem{status: http.StatusRequestTimeout, code: "header_timeout", detail: "the request's header did not arrive in time"}
}

func bodyTooLarge() *problem {
	return &problem{status: http.StatusRequestEntityTooLarge, code: "body_too_large", permanent: true,
		detail: "the body is larger than any request may be"}
}

func headerTooLarge() *problem {
	return &problem{status: http.StatusRequestHeaderFieldsTooLarge, code: "header_too_large", permanent: true,
		detail: "the request's header is too large"}
}

// failed returns how it is told that no node answered, after the last failure. Unknown says that an
// attempt may have been carried out.
func failed(f failure, unknown bool) *problem {
	p := &problem{status: http.StatusBadGateway, retryAfter: 1}
	if f.timeout && f.sent {
		p.status = http.StatusGatewayTimeout
	}
	switch {
	case unknown:
		p.code = "outcome_unknown"
		p.detail = "the request may or may not have been carried out; repeat it with the same Idempotency-Key"
	case !f.sent:
		p.code, p.detail = "node_unreachable", "the server cannot be reached, and did not get the request; try again"
	case f.timeout:
		p.code, p.detail = "node_timeout", "the server did not answer in time; try again"
	default:
		p.code, p.detail = "node_failed", "the server broke off in mid-answer; try again"
	}
	return p
}

// title is that of the problem's page. It is the same as a server's, where servers answer with that code too.
func (p *problem) title() string {
	if p.code == "outcome_unknown" {
		return "Outcome unknown"
	}
	switch p.status {
	case http.StatusBadRequest:
		return "The request is invalid"
	case http.StatusNotFound:
		return "Not found"
	case http.StatusMethodNotAllowed:
		return "Method not allowed"
	case http.StatusRequestTimeout:
		return "Request timeout"
	case http.StatusRequestEntityTooLarge, http.StatusRequestHeaderFieldsTooLarge:
		return "Too large"
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
		return "Not supported"
	case http.StatusServiceUnavailable:
		return "Not available now"
	}
	return "No answer from the server"
}

// document appends the problem as JSON. Codes and details are plain text of this file.
func (p *problem) document(dst []byte) []byte {
	dst = append(dst, `{"type":"/problems/`...)
	for i := range len(p.code) {
		c := p.code[i]
		if c == '_' {
			c = '-'
		}
		dst = append(dst, c)
	}
	dst = append(append(dst, `","title":"`...), p.title()...)
	dst = strconv.AppendInt(append(dst, `","status":`...), int64(p.status), 10)
	dst = append(append(dst, `,"detail":"`...), p.detail...)
	dst = append(append(dst, `","code":"`...), p.code...)
	dst = strconv.AppendBool(append(dst, `","permanent":`...), p.permanent)
	return append(dst, '}')
}

// response appends the whole answer. It ends the connection if last.
func (p *problem) response(dst []byte, date string, isHead, last bool) []byte {
	body := p.document(nil)
	dst = strconv.AppendInt(append(dst, "HTTP/1.1 "...), int64(p.status), 10)
	dst = append(append(append(dst, ' '), http.StatusText(p.status)...), "\r\nContent-Type: application/problem+json\r\nDate: "...)
	dst = strconv.AppendInt(append(append(dst, date...), "\r\nContent-Length: "...), int64(len(body)), 10)
	if p.retryAfter > 0 {
		dst = strconv.AppendInt(append(dst, "\r\nRetry-After: "...), int64(p.retryAfter), 10)
	}
	if last {
		dst = append(dst, "\r\nConnection: close"...)
	}
	dst = append(dst, "\r\n\r\n"...)
	if isHead {
		return dst
	}
	return append(dst, body...)
}

// serve answers a request that net/http has read.
func (p *problem) serve(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	if p.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(p.retryAfter))
	}
	w.WriteHeader(p.status)
	_, _ = w.Write(p.document(nil)) // fails only if the client has gone
}
