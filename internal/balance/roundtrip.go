package balance

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"net/http"
	"net/http/httptrace"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/esh3artech/esh3ar/internal/balance/picker"
)

// roundTripper sends a request to a node, and to another one where that is right.
type roundTripper struct {
	balancer *Balancer
	next     http.RoundTripper
}

// RoundTrip implements http.RoundTripper. Its error is a *problem unless the client has gone.
func (t *roundTripper) RoundTrip(req *http.Request) (*http.Response, error) {
	from, _ := req.Context().Value(bodyKey).(*clientBody) // the proxy may have wrapped req.Body
	fault := func(err error) error {
		if from != nil {
			if p := from.fault.Load(); p != nil {
				return p
			}
		}
		return err
	}
	body, replayable, err := replay(req)
	if err != nil {
		return nil, fault(err)
	}
	var way attempts
	way.begin(t.balancer, safetyOf(req), req.ContentLength, replayable)
	way.stream = req.Context().Value(streamKey) != nil
	way.affinity = affinityOf(req)
	var refusal *http.Response
	for {
		n := way.next()
		if n == nil {
			break
		}
		out, sent, cancel := onNode(req, n, body)
		if !replayable {
			attempt := way.count
			out.Body = &endingBody{out.Body, out.ContentLength, func() { way.arrived(n, attempt) }}
		}
		start := time.Now()
		resp, err := t.next.RoundTrip(out)
		latency := way.answer(start)
		var content []byte
		whole := false
		if err == nil && resp.StatusCode >= http.StatusOK {
			if !way.stream || resp.ContentLength >= 0 {
				resp.Body = newWatchedBody(resp.Body, t.balancer.opts.ResponseTimeout, cancel)
			}
			content, whole, err = readWhole(resp)
		}
		if err != nil {
			cancel()
			if err := fault(nil); err != nil || req.Context().Err() != nil {
				way.done(n, 0, picker.Void, 0)
				return nil, cmp.Or(err, req.Context().Err())
			}
			way.done(n, 0, picker.Failed, 0)
			f := failure{err: err, sent: sent(), timeout: isTimeout(err)}
			if way.again(n, f, replayable || !f.sent, false) {
				continue
			}
			return nil, way.problem()
		}
		status, isProblem := resp.StatusCode, resp.Header.Get("Content-Type") == "application/problem+json"
		elsewhere, result := false, resultOf(status)
		if whole {
			elsewhere, result = way.judge(status, isProblem, content)
		} else if way.stream {
			resp.Body = endsWith(resp.Body, func() {
				cancel()
				way.done(n, status, result, latency)
			})
			return resp, nil
		}
		way.done(n, status, result, latency)
		if elsewhere && way.refused(n, replayable) {
			refusal = resp
			continue
		}
		if way.veiled(status) && !isUnknown(status, isProblem, content) {
			resp.Body.Close()
			return nil, failed(failure{sent: true}, true)
		}
		return resp, nil
	}
	if refusal != nil && !way.unknown {
		return refusal, nil
	}
	return nil, way.problem()
}

// readWhole reads an answer that is short and puts it back. Whole says that it did so. So a node that breaks
// off in the middle is a failure that can be told, or made good by another node.
func readWhole(resp *http.Response) (content []byte, whole bool, err error) {
	if resp.ContentLength < 0 || resp.ContentLength > wholeAnswer {
		return nil, false, nil
	}
	content, err = io.ReadAll(resp.Body)
	resp.Body.Close()
	resp.Body = io.NopCloser(bytes.NewReader(content))
	return content, true, err
}

// watchedBody is the body of an answer that a node must not stop sending for longer than a limit.
type watchedBody struct {
	io.ReadCloser
	limit  time.Duration
	cancel context.CancelFunc // of the request
	timer  *time.Timer
	over   atomic.Bool
}

func newWatchedBody(body io.ReadCloser, limit time.Duration, cancel context.CancelFunc) *watchedBody {
	b := &watchedBody{ReadCloser: body, limit: limit, cancel: cancel}
	b.timer = time.AfterFunc(limit, func() {
		b.over.Store(true)
		cancel()
	})
	b.timer.Stop()
	return b
}

// Read implements io.Reader.
func (b *watchedBody) Read(p []byte) (int, error) {
	b.timer.Reset(b.limit)
	n, err := b.ReadCloser.Read(p)
	b.timer.Stop()
	if err != nil && b.over.Load() {
		err = os.ErrDeadlineExceeded
	}
	return n, err
}

// Close implements io.Closer.
func (b *watchedBody) Close() error {
	b.timer.Stop()
	b.cancel()
	return b.ReadCloser.Close()
}

// replay takes a short body into memory. It reports whether all of it is there.
func replay(req *http.Request) (body []byte, replayable bool, err error) {
	if req.Body == nil || req.Body == http.NoBody || req.ContentLength == 0 {
		req.Body = nil
		return nil, true, nil
	}
	if req.ContentLength > replayBuffer {
		return nil, false, nil
	}
	body, err = io.ReadAll(io.LimitReader(req.Body, replayBuffer+1))
	if err != nil {
		return nil, false, err
	}
	if len(body) <= replayBuffer {
		req.Body.Close()
		return body, true, nil
	}
	req.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(body), req.Body), req.Body}
	return nil, false, nil
}

// onNode returns the request as it goes to a node. Sent tells, once the request has ended, whether the
// node may have got some of it. Cancel gives the request up, and is due when the answer's body has ended.
func onNode(req *http.Request, n *backend, body []byte) (out *http.Request, sent func() bool, cancel context.CancelFunc) {
	ctx, cancel := context.WithCancel(req.Context())
	connected := false
	trace := &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected = true }}
	out = req.WithContext(httptrace.WithClientTrace(ctx, trace))
	u := *req.URL
	u.Scheme, u.Host = n.scheme, n.address
	out.URL = &u
	if body != nil {
		out.ContentLength = int64(len(body))
		out.TransferEncoding = nil
		out.Body = io.NopCloser(bytes.NewReader(body))
		out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	} else if req.Body != nil {
		out.Body = io.NopCloser(req.Body) // a transport closes it also where it could not be sent
	}
	return out, func() bool { return connected }, cancel
}

// endingBody is the body of a request, of which it tells, once or twice, that it was read to its end.
type endingBody struct {
	io.ReadCloser
	left int64 // negative if that is not known
	end  func()
}

// Read implements io.Reader.
func (b *endingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	last := b.left > 0 && b.left <= int64(n)
	b.left -= int64(n)
	if last || err == io.EOF {
		b.end()
	}
	return n, err
}

// endsWith calls end once when body is closed. A body that can be written to (a WebSocket) remains so.
func endsWith(body io.ReadCloser, end func()) io.ReadCloser {
	once := sync.OnceFunc(end)
	if rwc, ok := body.(io.ReadWriteCloser); ok {
		return &endingReadWriter{rwc, once}
	}
	return &endingReader{body, once}
}

type endingReader struct {
	io.ReadCloser
	end func()
}

// Close implements io.Closer.
func (b *endingReader) Close() error {
	b.end()
	return b.ReadCloser.Close()
}

type endingReadWriter struct {
	io.ReadWriteCloser
	end func()
}

// Close implements io.Closer.
func (b *endingReadWriter) Close() error {
	b.end()
	return b.ReadWriteCloser.Close()
}
