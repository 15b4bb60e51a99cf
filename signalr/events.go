package signalr

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"
)

// An eventStream carries a connection over server-sent events; the client
// sends by POST. The request's goroutine owns the connection.
type eventStream struct {
	control *http.ResponseController
	ready   chan struct{} // capacity 1: woken
	dead    chan struct{} // closed by cut
	once    sync.Once
}

// wake implements transport.
func (t *eventStream) wake() {
	select {
	case t.ready <- struct{}{}:
	default:
	}
}

// hurry implements transport.
func (t *eventStream) hurry() { _ = t.control.SetWriteDeadline(time.Now().Add(closeTimeout)) }

// cut implements transport.
func (t *eventStream) cut() {
	t.once.Do(func() { close(t.dead) })
	_ = t.control.SetWriteDeadline(time.Now())
}

// serveEvents serves a GET request for server-sent events until the
// connection's end.
func (h *Hub) serveEvents(w http.ResponseWriter, r *http.Request, c *Conn) error {
	t := &eventStream{
		control: http.NewResponseController(w),
		ready:   make(chan struct{}, 1),
		dead:    make(chan struct{}),
	}
	c.transport = t
	h.connected(c)
	defer c.finish()

	// The HTTP server's timeouts are for requests that end.
	_ = t.control.SetReadDeadline(time.Time{})
	_ = t.control.SetWriteDeadline(time.Now().Add(h.opts.WriteTimeout))
	noCache(w)
	header := w.Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("X-Accel-Buffering", "no") // nginx would collect the stream
	_, err := io.WriteString(w, ":\r\n")
	if err == nil {
		err = t.control.Flush()
	}
	if err == nil {
		err = t.stream(w, r, c)
	}
	if err != nil {
		e := ending{reason: CloseLost, err: fmt.Errorf("signalr: event stream: %w", err), cut: true}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			e.reason = CloseSlow
		}
		c.end(e)
	}
	return nil
}

// stream writes until the connection's end.
func (t *eventStream) stream(w http.ResponseWriter, r *http.Request, c *Conn) error {
	var buf flushBuffer
	messages, size := 0, 0
	for {
		entries, status := c.nextBatch(t, buf.entries[:0], messages, size)
		buf.entries = entries
		messages, size = len(entries), 0
		switch status {
		case batchLast, batchForeign:
			return nil
		case batchIdle:
			select {
			case <-t.ready:
				continue
			case <-t.dead:
				return ErrClosed
			case <-r.Context().Done():
				// A client that leaves on purpose ends its request, too, and
				// perhaps before its close message arrives.
				c.end(ending{reason: CloseClient, cut: true})
				return nil
			}
		}
		buf.frame = buf.frame[:0]
		buf.frame = append(buf.frame, eventPrefix...)
		for i := range entries {
			buf.frame = appendEventData(buf.frame, entries[i].data)
			size += len(entries[i].data)
		}
		clear(entries)
		buf.frame = append(buf.frame, "\r\n\r\n"...)
		if !c.isEnding() {
			_ = t.control.SetWriteDeadline(time.Now().Add(c.hub.opts.WriteTimeout))
		}
		_, err := w.Write(buf.frame)
		if err == nil {
			err = t.control.Flush()
		}
		if err != nil {
			return err
		}
		if cap(buf.frame) > keepEventBuffer {
			buf.frame = nil
		}
		c.lastWrite.Store(c.hub.server.now())
		c.hub.server.opts.Metrics.sent(messages, size)
	}
}

const (
	eventPrefix     = "data: "
	keepEventBuffer = 4 << 10
)

// appendEventData appends data of an event, which continues on a new line of
// the stream wherever it has a line's end. Line ends are white space in JSON.
func appendEventData(dst, data []byte) []byte {
	for {
		i := bytes.IndexAny(data, "\r\n")
		if i < 0 {
			return append(dst, data...)
		}
		dst = append(dst, data[:i]...)
		dst = append(dst, "\r\n"+eventPrefix...)
		data = data[i+1:]
	}
}
