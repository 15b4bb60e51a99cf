package signalr

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/esh3artech/esh3ar/signalr/internal/protocol"
)

// streamTable holds the streams of a connection, guarded by Conn.mu. The maps
// are made when first needed.
type streamTable struct {
	uploads   map[string]*upload
	downloads map[string]context.CancelFunc
}

// cancel cancels a stream that the client receives.
func (t *streamTable) cancel(c *Conn, id string) {
	c.mu.Lock()
	cancel := t.downloads[id]
	c.mu.Unlock()
	if cancel != nil {
		cancel()
	}
}

// An upload is a stream on its way from a client to a handler. The reader
// puts items in; when HubOptions.StreamBuffer of them wait, the reader waits.
type upload struct {
	items chan []byte   // closed by the reader at the stream's end
	err   error         // why it ended; set before items is closed
	done  chan struct{} // closed when the handler has returned
}

// A download is a stream on its way from a handler to a client.
type download struct {
	conn *Conn
	id   string
}

// startStream runs a method that sends or takes streams, on a goroutine of its
// own. It returns false when the connection has ended.
func (c *Conn) startStream(m *method, id string, msg *protocol.Message) bool {
	uploads := make([]*upload, len(msg.StreamIDs))
	names := make([]string, len(msg.StreamIDs))
	for i, name := range msg.StreamIDs {
		names[i] = string(name)
		uploads[i] = &upload{items: make(chan []byte, c.hub.opts.StreamBuffer), done: make(chan struct{})}
	}
	ctx, cancel := context.WithCancel(c.lifetime())
	refusal, err := c.addStreams(m, id, names, uploads, cancel)
	if refusal != "" || err != nil {
		cancel()
		if err != nil {
			c.endProtocol(err)
			return false
		}
		c.fail(id, refusal)
		return true
	}
	inv := invocations.get()
	inv.set(c, m, id, c.codec, nil)
	inv.copyArgs(msg.Args)
	inv.uploads = uploads
	inv.download = &download{conn: c, id: id}
	c.tasks.Go(func() {
		c.runStream(ctx, inv)
		cancel()
		for _, u := range uploads {
			close(u.done)
		}
		c.mu.Lock()
		for _, name := range names {
			delete(c.streams.uploads, name)
		}
		c.mu.Unlock()
		inv.release()
	})
	return true
}

// addStreams enters the streams of an invocation into the table. refusal is
// what to tell the client if the invocation fails; err ends the connection.
func (c *Conn) addStreams(m *method, id string, names []string, uploads []*upload, cancel context.CancelFunc) (refusal string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t, limit := &c.streams, c.hub.opts.MaxStreams
	if m.streaming {
		if _, taken := t.downloads[id]; taken {
			return fmt.Sprintf("Invocation ID '%s' is already in use.", id), nil
		}
		if len(t.downloads) >= limit {
			return "Too many streams.", nil
		}
	}
	if len(t.uploads)+len(names) > limit {
		return "Too many streams.", nil
	}
	for i, name := range names {
		if t.uploads == nil {
			t.uploads = make(map[string]*upload)
		}
		if _, taken := t.uploads[name]; taken {
			for _, added := range names[:i] {
				delete(t.uploads, added)
			}
			return "", fmt.Errorf("stream id %q is already in use", name)
		}
		t.uploads[name] = uploads[i]
	}
	if m.streaming {
		if t.downloads == nil {
			t.downloads = make(map[string]context.CancelFunc)
		}
		t.downloads[id] = cancel
	}
	return "", nil
}

// runStream runs the handler of a stream. The id is free again before the
// client sees the completion.
func (c *Conn) runStream(ctx context.Context, inv *Invocation) {
	if !inv.method.streaming {
		c.run(ctx, inv)
		return
	}
	h := c.hub
	var err error
	if !h.safely(inv.method.target, func() { _, err = inv.method.handler(ctx, inv) }) {
		err = errHandlerPanic
	}
	canceled := ctx.Err() != nil
	c.mu.Lock()
	delete(c.streams.downloads, inv.id)
	c.mu.Unlock()
	switch {
	case err == nil, canceled && errors.Is(err, context.Canceled):
		// A cancelled stream is completed like any other.
		_ = c.answer(inv.id, protocol.Void, nil)
	default:
		c.fail(inv.id, h.invocationError(inv.method.target, err))
	}
}

// itemReceived puts an item into its stream. Items of unknown streams are
// ignored: the handler may have returned before the client knew.
func (c *Conn) itemReceived(m *protocol.Message) bool {
	c.mu.Lock()
	u := c.streams.uploads[string(m.ID)]
	c.mu.Unlock()
	if u == nil {
		return true
	}
	select {
	case u.items <- append([]byte(nil), m.Value...):
	case <-u.done:
	case <-c.lifetime().Done():
		return false
	}
	return true
}

// uploadEnded ends a stream that the client uploads. It returns false if there
// is none with that id.
func (c *Conn) uploadEnded(m *protocol.Message) bool {
	id := string(m.ID)
	c.mu.Lock()
	u := c.streams.uploads[id]
	delete(c.streams.uploads, id)
	c.mu.Unlock()
	if u == nil {
		return false
	}
	u.err = io.EOF
	if m.Error != nil {
		u.err = &ClientError{Message: string(m.Error)}
	}
	close(u.items)
	return true
}

// StreamReader yields the items of a stream that a client uploads. It is for
// one goroutine.
type StreamReader[T any] struct {
	upload *upload
	conn   *Conn
	codec  protocol.Codec
}

// uploadTaker is implemented by parameters that take a stream.
type uploadTaker interface {
	take(inv *Invocation, u *upload) any
}

func (*StreamReader[T]) take(inv *Invocation, u *upload) any {
	return &StreamReader[T]{upload: u, conn: inv.conn, codec: inv.codec}
}

// Next waits for the next item. It returns [io.EOF] at the stream's end, a
// *[ClientError] when the client ended it with an error, and [ErrClosed] when
// the connection ended first.
func (r *StreamReader[T]) Next(ctx context.Context) (T, error) {
	var item T
	select {
	case raw, ok := <-r.upload.items:
		return r.decode(raw, ok)
	default:
	}
	select {
	case raw, ok := <-r.upload.items:
		return r.decode(raw, ok)
	case <-ctx.Done():
		if r.conn.lifetime().Err() != nil {
			return item, ErrClosed
		}
		return item, ctx.Err()
	case <-r.conn.lifetime().Done():
		return item, ErrClosed
	}
}

func (r *StreamReader[T]) decode(raw []byte, ok bool) (T, error) {
	var item T
	if !ok {
		return item, r.upload.err
	}
	if err := r.codec.Decode(raw, &item); err != nil {
		return item, &bindingError{fmt.Errorf("stream item: %w", err)}
	}
	return item, nil
}

// StreamWriter sends the items of a stream to a client.
type StreamWriter[T any] struct {
	ctx context.Context
	to  *download
}

// Send sends an item. Unlike [Conn.Send] it waits while the connection's
// outbox is more than half full. It fails when the client has cancelled the
// stream and with [ErrClosed] when the connection has ended.
func (w *StreamWriter[T]) Send(item T) error {
	c := w.to.conn
	data, err := encodeClone(func(dst []byte) ([]byte, error) {
		return c.codec.AppendStreamItem(dst, w.to.id, item)
	})
	if err != nil {
		return fmt.Errorf("signalr: encoding a stream item: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waitSpace(w.ctx.Done())
	if c.state != stateOpen {
		return ErrClosed
	}
	if err := w.ctx.Err(); err != nil {
		return err
	}
	return c.enqueue(entry{data: data, sequenced: true})
}
