package client

import (
	"context"
	"errors"
	"io"

	"github.com/esh3artech/esh3ar/signalr/internal/protocol"
)

// Upload is an argument that is sent as a stream: the function runs on a
// goroutine of its own and sends items until it returns. An error ends the
// stream as failed. ctx is done when the client ends.
type Upload func(ctx context.Context, send func(item any) error) error

// splitUploads separates the uploads from the other arguments.
func (c *Client) splitUploads(args []any) (others []any, uploads []Upload, ids []string) {
	others = args
	for i, arg := range args {
		u, ok := arg.(Upload)
		if !ok {
			if len(uploads) > 0 {
				others = append(others, arg)
			}
			continue
		}
		if len(uploads) == 0 {
			others = append([]any(nil), args[:i]...)
		}
		uploads = append(uploads, u)
		c.mu.Lock()
		ids = append(ids, c.newID())
		c.mu.Unlock()
	}
	return others, uploads, ids
}

// startUpload runs an upload.
func (c *Client) startUpload(u Upload, id string) {
	c.mu.Lock()
	if c.state == stateClosed {
		c.mu.Unlock()
		return
	}
	c.tasks.Add(1)
	c.mu.Unlock()
	go func() {
		defer c.tasks.Done()
		err := u(c.ctx, func(item any) error {
			data, err := c.codec.AppendStreamItem(nil, id, item)
			if err != nil {
				return err
			}
			return c.write(c.ctx, data)
		})
		outcome, text := protocol.Void, any(nil)
		if err != nil {
			outcome, text = protocol.Failed, err.Error()
		}
		if data, err := c.codec.AppendCompletion(nil, id, outcome, text); err == nil {
			_ = c.write(c.ctx, data) // the stream ends with the connection, too
		}
	}()
}

// A Stream yields the items that a streaming hub method sends. It is for one
// goroutine, which must call Close unless Next has returned an error.
type Stream struct {
	client *Client
	id     string
	items  chan []byte
	closed chan struct{} // by Close
	done   chan struct{} // by complete
	err    error
}

// Stream invokes a streaming hub method. Arguments of type [Upload] are
// streamed.
func (c *Client) Stream(ctx context.Context, target string, args ...any) (*Stream, error) {
	s := &Stream{
		client: c,
		items:  make(chan []byte, c.opts.StreamBuffer),
		closed: make(chan struct{}),
		done:   make(chan struct{}),
	}
	var err error
	s.id, err = c.invoke(ctx, protocol.StreamInvocation, s, target, args)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Stream) item(raw []byte) {
	select {
	case s.items <- append([]byte(nil), raw...):
	case <-s.closed:
	case <-s.client.ctx.Done():
	}
}

func (s *Stream) complete(_ []byte, err error) {
	s.err = err
	if err == nil {
		s.err = io.EOF
	}
	close(s.done)
}

// Next waits for the next item and stores it in the value that item points to.
// It returns [io.EOF] at the stream's end and a *[HubError] when the method
// failed.
func (s *Stream) Next(ctx context.Context, item any) error {
	select {
	case raw := <-s.items:
		return s.client.codec.Decode(raw, item)
	default:
	}
	select {
	case raw := <-s.items:
		return s.client.codec.Decode(raw, item)
	case <-s.done:
		// Items come before the end, on one goroutine.
		select {
		case raw := <-s.items:
			return s.client.codec.Decode(raw, item)
		default:
			return s.err
		}
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Close cancels the stream, unless it has ended.
func (s *Stream) Close() error {
	select {
	case <-s.closed:
		return nil
	default:
	}
	close(s.closed)
	if s.client.find([]byte(s.id), true) == nil {
		return nil
	}
	err := s.client.write(s.client.ctx, s.client.codec.AppendCancel(nil, s.id))
	if errors.Is(err, ErrClosed) || errors.Is(err, ErrNotConnected) {
		return nil // it ended with the connection
	}
	return err
}
