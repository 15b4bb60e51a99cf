package balance

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/esh3artech/esh3ar/internal/balance/picker"
)

// wholeAnswer is the longest answer, header included, that is read to its end before any of it goes to
// the client. So a node that breaks off in the middle is no broken answer but a failure that can be told,
// or be made good by another node.
const wholeAnswer = 48 << 10

// errClient: the client's side failed while its request was passed on.
var errClient = errors.New("the client's connection failed")

// forward sends the plain request at the beginning of the buffer, whose header is in c.out as it goes to a
// node, and brings back the answer. It reports whether the connection goes on.
func (c *clientConn) forward(r request) bool {
	b := c.front.balancer
	if r.length > b.opts.MaxBody {
		c.refuse(bodyTooLarge())
		return false
	}
	replayable := r.length <= replayBuffer
	var rest int64 // of the body, to come from the client
	if replayable {
		whole := r.size + int(r.length)
		if !c.body(whole) {
			return false
		}
		c.out = append(c.out, c.buf[r.size:whole]...)
		c.consume(whole)
	} else {
		have := min(int64(len(c.buf)-r.size), r.length)
		c.out = append(c.out, c.buf[r.size:r.size+int(have)]...)
		c.consume(r.size + int(have))
		rest = r.length - have
	}
	way := &c.way
	way.begin(b, r.safety, r.length, rest == 0)
	for {
		n := way.next()
		if n == nil {
			break
		}
		c.at = exchange{clientConn: c, r: r, node: n, rest: rest, replayable: replayable}
		again, keep := c.at.run(way)
		if !again {
			return keep
		}
	}
	if len(c.refusal) > 0 && !way.unknown {
		// A node refused, and no other could be tried: that refusal is the answer.
		return c.write(time.Now(), c.refusal) == nil && !r.last && !c.front.isDraining()
	}
	return c.fail(way.problem(), r, rest > 0)
}

// fail answers a request that no node answered.
func (c *clientConn) fail(p *problem, r request, unread bool) bool {
	last := r.last || unread || c.front.isDraining()
	ok := c.tell(p, r.isHead, last)
	if ok && unread {
		c.linger()
	}
	return ok && !last
}

// exchange is one attempt of a request at one node.
type exchange struct {
	*clientConn
	r          request
	node       *backend
	rest       int64 // of the body, to come from the client
	replayable bool

	u     *upstream
	start time.Time
	body  bool // some of the rest was taken from the client
}

// run sends the request and passes the answer on. It reports whether another node is to be tried, or
// else whether the client's connection goes on. The node's attempt is done in any case.
func (e *exchange) run(way *attempts) (again, keep bool) {
	e.start = time.Now()
	if err := e.connect(); err != nil {
		way.done(e.node, 0, picker.Failed, 0)
		return e.failed(way, failure{err: err, timeout: isTimeout(err)}, false)
	}
	e.using.Store(e.u)
	defer e.using.Store(nil)
	f := e.send()
	if errors.Is(f.err, errClient) {
		e.drop()
		way.done(e.node, 0, picker.Void, 0)
		if isTimeout(f.err) {
			e.refuse(slowBody())
		}
		return false, false
	}
	if f.err == nil {
		way.arrived(e.node, way.count)
	}
	var res response
	if f.err == nil || f.sent {
		// A node may answer before the request's end and close: its answer counts, not the failed write.
		var err error
		if res, err = e.receive(); err == nil {
			early := f.err != nil
			return e.settle(way, res, early)
		} else if f.err == nil {
			f = failure{err: err, sent: true, timeout: isTimeout(err)}
		}
	}
	// An idle connection that turns out to be closed says nothing about the node.
	stale := e.u.used && !f.timeout && e.u.r == e.u.w
	e.drop()
	if stale {
		e.node.expire(e.start)
		way.done(e.node, 0, picker.Void, 0)
	} else {
		way.done(e.node, 0, picker.Failed, 0)
	}
	return e.failed(way, f, stale)
}

// failed decides what follows on a failure.
func (e *exchange) failed(way *attempts, f failure, stale bool) (again, keep bool) {
	if way.again(e.node, f, e.replayable || !e.body, stale) {
		return true, false
	}
	return false, e.fail(way.problem(), e.r, e.rest > 0)
}

// connect gets a connection to the node.
func (e *exchange) connect() (err error) {
	opts := &e.front.balancer.opts
	if e.own != nil {
		if u := e.own[e.node]; u != nil {
			if u.good(e.start) {
				e.u = u
				return nil
			}
			u.Close()
			delete(e.own, e.node)
		}
	} else if e.u = e.node.take(e.start); e.u != nil {
		return nil
	}
	e.u, err = e.node.dial(context.Background(), opts.ConnectTimeout, e.client)
	return err
}

// release lets go of the connection to the node after an answer that was read to its end.
func (e *exchange) release(now time.Time) {
	if len(e.u.buf) > keepBuffer && e.u.r == e.u.w {
		e.u.buf, e.u.r, e.u.w = make([]byte, upstreamBuffer), 0, 0
	}
	if e.own == nil {
		e.node.give(e.u, now)
		return
	}
	if old := e.own[e.node]; old != nil && old != e.u {
		old.Close()
	}
	if e.u.more() {
		e.drop()
		return
	}
	e.u.since, e.u.used = now, true
	e.own[e.node] = e.u
}

// drop ends the connection to the node.
func (e *exchange) drop() {
	e.u.Close()
	if e.own[e.node] == e.u {
		delete(e.own, e.node)
	}
}

// send sends the request.
func (e *exchange) send() failure {
	opts := &e.front.balancer.opts
	if t, set := e.u.deadline.extend(e.start, opts.ResponseTimeout); set {
		e.u.SetDeadline(t)
	}
	n, err := e.u.Write(e.out)
	if err != nil {
		return failure{err: err, sent: n > 0, timeout: isTimeout(err)}
	}
	if e.rest == 0 {
		return failure{}
	}
	return e.sendRest()
}

// sendRest passes on what is still to come of the body.
func (e *exchange) sendRest() failure {
	opts := &e.front.balancer.opts
	e.body = true
	buf := make([]byte, 32<<10)
	end := time.Now().Add(opts.BodyTimeout)
	e.reading = deadline{end}
	e.Conn.SetReadDeadline(end)
	for e.rest > 0 {
		n, err := e.Conn.Read(buf[:min(int64(len(buf)), e.rest)])
		e.rest -= int64(n)
		if n > 0 {
			if t, set := e.u.deadline.extend(time.Now(), opts.ResponseTimeout); set {
				e.u.SetDeadline(t)
			}
			if _, err := e.u.Write(buf[:n]); err != nil {
				return failure{err: err, sent: true, timeout: isTimeout(err)}
			}
		} else if err != nil {
			return failure{err: errors.Join(errClient, err), sent: true}
		}
	}
	e.start = time.Now() // the node's latency does not count the client's
	if t, set := e.u.deadline.extend(e.start, opts.ResponseTimeout); set {
		e.u.SetDeadline(t)
	}
	return failure{}
}

// receive reads the header of the answer and leaves it in e.answer as it goes to the client, without the
// empty line. Interim answers (1xx) are dropped.
func (e *exchange) receive() (response, error) {
	for {
		res, out, err := parseResponse(e.u.buf[e.u.r:e.u.w], e.answer[:0], e.r.isHead)
		e.answer = out
		switch {
		case err == nil && res.status == 101:
			return res, errMalformed // nobody asked for an upgrade
		case err == nil && res.status < 200:
			e.u.r += res.size
		case err == nil:
			return res, nil
		case !errors.Is(err, errPartial):
			return res, err
		default:
			if err := e.u.fill(); err != nil {
				return res, err
			}
		}
	}
}

// settle passes the answer on whose header is there. Early says that the node did not take the whole
// request.
func (e *exchange) settle(way *attempts, res response, early bool) (again, keep bool) {
	now := time.Now()
	latency := now.Sub(e.start)
	unread := early || e.rest > 0
	last := e.r.last || unread || e.front.isDraining()
	if last {
		e.answer = append(e.answer, "Connection: close\r\n"...)
	}
	if res.framing != sized || int64(res.size)+res.length > wholeAnswer {
		e.u.r += res.size
		way.done(e.node, res.status, resultOf(res.status), latency)
		keep = e.stream(res, now) && !last
		if !keep && unread {
			e.linger()
		}
		return false, keep
	}
	whole := res.size + int(res.length)
	for e.u.w-e.u.r < whole {
		if err := e.u.fill(); err != nil {
			e.drop()
			way.done(e.node, 0, picker.Failed, 0)
			return e.failed(way, failure{err: err, sent: true, timeout: isTimeout(err)}, false)
		}
	}
	body := e.u.buf[e.u.r+res.size : e.u.r+whole]
	elsewhere, result := way.judge(res.status, res.problem, body)
	unknown := isUnknown(res.status, res.problem, body)
	e.answer = append(append(e.answer, "\r\n"...), body...)
	e.u.r += whole
	if res.last || early {
		e.drop()
	} else {
		e.release(now)
	}
	way.done(e.node, res.status, result, latency)
	if elsewhere && way.refused(e.node, e.replayable) {
		e.refusal = append(e.refusal[:0], e.answer...)
		return true, false
	}
	if way.veiled(res.status) && !unknown {
		return false, e.fail(failed(failure{sent: true}, true), e.r, unread)
	}
	err := e.write(now, e.answer)
	if err == nil && unread {
		e.linger()
	}
	return false, err == nil && !last
}

// stream passes on an answer as it comes. It reports whether all of it arrived.
func (e *exchange) stream(res response, now time.Time) bool {
	if res.framing != sized {
		e.answer = append(e.answer, "Transfer-Encoding: chunked\r\n"...)
	}
	e.answer = append(e.answer, "\r\n"...)
	if err := e.write(now, e.answer); err != nil {
		e.drop()
		return false
	}
	if err := e.relay(res); err != nil {
		e.drop()
		return false // the client sees that the answer breaks off
	}
	if res.last || res.framing == closing {
		e.drop()
	} else {
		e.release(time.Now())
	}
	return true
}

func isTimeout(err error) bool {
	t, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err)
	return ok && t.Timeout()
}

// timed is the node's side of an answer that is passed on as it comes: silence of the response time-out
// ends it.
type timed struct{ *exchange }

// Read implements io.Reader.
func (t timed) Read(p []byte) (int, error) {
	if t.u.r == t.u.w {
		if d, set := t.u.deadline.extend(time.Now(), t.front.balancer.opts.ResponseTimeout); set {
			t.u.SetDeadline(d)
		}
	}
	return t.u.Read(p)
}

var _ io.Reader = timed{}
