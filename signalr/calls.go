package signalr

import (
	"context"
	"fmt"
	"strconv"

	"github.com/esh3artech/esh3ar/signalr/internal/protocol"
)

// callTable holds the results that a client owes, guarded by Conn.mu.
type callTable struct {
	last    uint64 // number of the last call
	pending map[uint64]func(Result, error)
}

// Invocation ids of calls begin with a letter, because the ids of the streams
// that clients upload, which are completed in the same way, are numbers.
const callIDPrefix = 's'

func callID(n uint64) string {
	var b [21]byte
	return string(strconv.AppendUint(append(b[:0], callIDPrefix), n, 10))
}

// Call is a result that a client owes.
type Call struct {
	conn *Conn
	n    uint64
}

// Cancel gives the call up. It reports whether it prevented done from being
// called.
func (c Call) Cancel() bool {
	c.conn.mu.Lock()
	defer c.conn.mu.Unlock()
	_, waiting := c.conn.calls.pending[c.n]
	delete(c.conn.calls.pending, c.n)
	return waiting
}

// Result is the result of a client's handler.
type Result struct {
	codec protocol.Codec
	raw   []byte
}

// Raw is the result as it was sent: JSON or MessagePack; nil if the client
// completed the call without a result. It is valid until the callback to which
// the result was given returns.
func (r Result) Raw() []byte { return r.raw }

// Decode stores the result in the value that v points to. Without a result it
// does nothing. It must be called before the callback to which the result was
// given returns.
func (r Result) Decode(v any) error {
	if r.raw == nil {
		return nil
	}
	if err := r.codec.Decode(r.raw, v); err != nil {
		return fmt.Errorf("signalr: decoding a client result: %w", err)
	}
	return nil
}

// InvokeAsync sends m and calls done with the client's result, or with the
// error that Invoke would return, exactly once unless the call is cancelled
// or InvokeAsync itself returns an error. done usually runs on the goroutine
// that reads from the connection and must not block.
func (c *Conn) InvokeAsync(m *Message, done func(Result, error)) (Call, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	invocation, err := c.encode(m)
	if err != nil {
		return Call{}, err
	}
	if len(c.calls.pending) >= c.hub.opts.MaxPendingCalls {
		return Call{}, ErrTooManyCalls
	}
	c.calls.last++
	n := c.calls.last
	if c.calls.pending == nil {
		c.calls.pending = make(map[uint64]func(Result, error))
	}
	c.calls.pending[n] = done
	id := callID(n)
	data := c.codec.AppendWithID(make([]byte, 0, len(invocation)+len(id)+24), invocation, id)
	if err := c.enqueue(entry{data: data, sequenced: true}); err != nil {
		delete(c.calls.pending, n)
		return Call{}, err
	}
	return Call{conn: c, n: n}, nil
}

// Invoke sends m and waits for the client's result. It fails with a
// *[ClientError] when the client answers with an error, with [ErrClosed] when
// the connection ends first, with [ErrWouldDeadlock] when ctx is that of a
// handler on which the connection's reading waits, and as Send does.
func (c *Conn) Invoke(ctx context.Context, m *Message) (Result, error) {
	if ctx.Value(inlineKey{}) == c {
		return Result{}, ErrWouldDeadlock
	}
	type answer struct {
		result Result
		err    error
	}
	answers := make(chan answer, 1)
	call, err := c.InvokeAsync(m, func(r Result, err error) {
		r.raw = append([]byte(nil), r.raw...)
		answers <- answer{r, err}
	})
	if err != nil {
		return Result{}, err
	}
	select {
	case a := <-answers:
		return a.result, a.err
	case <-ctx.Done():
		if call.Cancel() {
			return Result{}, context.Cause(ctx)
		}
		a := <-answers
		return a.result, a.err
	}
}

// completed hands a completion to whom it concerns: a call, or the reader of
// a stream that the client uploads.
func (c *Conn) completed(m *protocol.Message) bool {
	if c.uploadEnded(m) {
		return true
	}
	if m.ID[0] != callIDPrefix {
		return true // the end of a stream whose handler has returned
	}
	n, err := strconv.ParseUint(string(m.ID[1:]), 10, 64)
	c.mu.Lock()
	if err != nil || n == 0 || n > c.calls.last {
		c.mu.Unlock()
		c.endProtocol(fmt.Errorf("completion of the unknown invocation %.32q", m.ID))
		return false
	}
	done := c.calls.pending[n]
	delete(c.calls.pending, n)
	c.mu.Unlock()
	if done == nil {
		return true // given up
	}
	c.hub.safely("the callback of a client result", func() {
		if m.Error != nil {
			done(Result{}, &ClientError{Message: string(m.Error)})
		} else {
			done(Result{codec: c.codec, raw: m.Value}, nil)
		}
	})
	return true
}

// failCalls fails the calls of a connection that has ended.
func (c *Conn) failCalls() {
	c.mu.Lock()
	pending := c.calls.pending
	c.calls.pending = nil
	c.mu.Unlock()
	for _, done := range pending {
		c.hub.safely("the callback of a client result", func() { done(Result{}, ErrClosed) })
	}
}
