package notify

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"
)

// streamBatch is how many events one write to a stream holds at most.
const streamBatch = 256

// stream is one answer of server-sent events on its way out.
type stream struct {
	s     *Service
	w     http.ResponseWriter
	ctl   *http.ResponseController
	buf   []byte
	wrote time.Time // the last write
}

// serveStream answers with events until the client goes, the service drains, the caller may not have them
// any more, or what follows is lost. It returns an error only before the answer begins.
func (s *Service) serveStream(w http.ResponseWriter, r *http.Request, client string, q *request, check func(context.Context) error) error {
	f, err := s.Follow(r.Context(), client, q.start, q.filter)
	if err != nil {
		return err
	}
	defer f.Close()
	out := &stream{s: s, w: w, ctl: http.NewResponseController(w)}
	// The server's time for reading a request is over long before this answer is.
	if err := out.ctl.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("event stream: %w", err)
	}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Add("Vary", "Accept")
	h.Set("X-Accel-Buffering", "no") // some proxies would collect the events
	w.WriteHeader(http.StatusOK)
	// The client learns where it is before the first event, so that it misses nothing from here on.
	out.buf = append(out.buf, "retry: 1000\n"...)
	out.place(f.Cursor())
	if out.flush() != nil {
		return nil
	}
	err = f.run(r.Context(), streamBatch, check, func(events []Event) error { return out.tell(events, f) })
	switch {
	case r.Context().Err() != nil || errors.Is(err, errWrite):
		return nil // there is nobody to tell
	case errors.Is(err, ErrStopping):
		// They come back at different times.
		out.buf = fmt.Appendf(out.buf, ": the server is stopping\nretry: %d\n\n", 500+rand.IntN(1500))
	default:
		_, document := s.opts.Problem(err)
		out.buf = append(append(append(out.buf, "event: problem\ndata: "...), document...), "\n\n"...)
	}
	if out.flush() == nil {
		// The connection may serve further requests.
		_ = out.ctl.SetWriteDeadline(time.Time{})
	}
	return nil
}

// errWrite means that the client of a stream has gone or does not read.
var errWrite = errors.New("notify: the stream cannot be written")

// tell writes events, or a heartbeat when there are none and it is time for one.
func (o *stream) tell(events []Event, f *Follower) error {
	for i := range events {
		o.event(&events[i])
	}
	if len(events) == 0 {
		if time.Since(o.wrote) < o.s.opts.Heartbeat {
			return nil
		}
		o.buf = append(o.buf, ": still here\n"...)
		o.place(f.Cursor())
	}
	if err := o.flush(); err != nil {
		return errWrite
	}
	o.s.metrics.told.WithLabelValues("stream").Add(float64(len(events)))
	return nil
}

// event writes an event.
func (o *stream) event(e *Event) {
	o.buf = append(append(append(o.buf, "id: "...), e.Cursor...), "\nevent: "+typePrefix...)
	o.buf = append(append(o.buf, e.Status.String()...), "\ndata: "...)
	o.buf = append(e.AppendJSON(o.buf), "\n\n"...)
}

// place writes the cursor without an event: clients remember it all the same.
func (o *stream) place(cursor string) {
	o.buf = append(append(append(o.buf, "id: "...), cursor...), "\n\n"...)
}

// flush writes what is in buf. An error means that the client has gone or does not read.
func (o *stream) flush() error {
	if err := o.ctl.SetWriteDeadline(time.Now().Add(o.s.opts.WriteTimeout)); err != nil {
		return err
	}
	_, err := o.w.Write(o.buf)
	if err == nil {
		err = o.ctl.Flush()
	}
	o.buf = o.buf[:0]
	o.wrote = time.Now()
	return err
}
