package signalr

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// A longPolling carries a connection over requests that wait for data; the
// client sends by POST. The connection belongs to no request: its end is
// finished by a goroutine of its own, and it is remembered until a poll has
// seen the end.
type longPolling struct {
	conn  *Conn
	ready chan struct{} // capacity 1: woken
	dead  chan struct{} // closed by cut
	once  sync.Once
	turn  chan struct{} // capacity 1: held by the poll that is being served

	mu       sync.Mutex
	replaced chan struct{} // closed when a new poll wants to be served
	polls    int           // being served or waiting for their turn
	lastPoll int64         // server clock: end of the last poll
}

// wake implements transport.
func (t *longPolling) wake() {
	select {
	case t.ready <- struct{}{}:
	default:
	}
}

// hurry implements transport.
func (t *longPolling) hurry() {}

// cut implements transport.
func (t *longPolling) cut() {
	t.once.Do(func() {
		close(t.dead)
		go t.conn.leave()
	})
}

// abandoned tells whether the client has stopped polling.
func (t *longPolling) abandoned(now int64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.polls == 0 && now-t.lastPoll > int64(t.conn.hub.opts.DisconnectTimeout)
}

// startPolling serves the first poll, which is answered at once.
func (h *Hub) startPolling(w http.ResponseWriter, c *Conn) error {
	c.transport = &longPolling{
		conn:     c,
		ready:    make(chan struct{}, 1),
		dead:     make(chan struct{}),
		turn:     make(chan struct{}, 1),
		replaced: make(chan struct{}),
		lastPoll: h.server.now(),
	}
	h.connected(c)
	noCache(w)
	w.Header().Set("Content-Type", "application/octet-stream")
	return nil
}

// poll serves a poll: it waits for data, for another poll, for the end of the
// connection or for its time to be over.
func (c *Conn) poll(w http.ResponseWriter, r *http.Request) error {
	t := c.transport.(*longPolling)
	replaced := t.begin()
	defer t.finished()
	noCache(w)
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Time{})

	timeout := time.NewTimer(c.hub.opts.PollTimeout)
	defer timeout.Stop()
	select {
	case t.turn <- struct{}{}:
		defer func() { <-t.turn }()
	case <-replaced:
		w.WriteHeader(http.StatusNoContent)
		return nil
	case <-r.Context().Done():
		return nil
	}
	for {
		entries, status := c.nextBatch(t, nil, 0, 0)
		switch status {
		case batchReady:
			return t.answer(w, control, entries)
		case batchLast, batchForeign:
			w.WriteHeader(http.StatusNoContent)
			c.leave()
			return nil
		}
		select {
		case <-t.ready:
		case <-replaced:
			w.WriteHeader(http.StatusNoContent)
			return nil
		case <-t.dead:
			w.WriteHeader(http.StatusNoContent)
			return nil
		case <-timeout.C:
			w.Header().Set("Content-Type", "application/octet-stream")
			return nil
		case <-r.Context().Done():
			return nil
		}
	}
}

// begin counts a poll in and sends an earlier one away.
func (t *longPolling) begin() (replaced chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	close(t.replaced)
	t.replaced = make(chan struct{})
	t.polls++
	return t.replaced
}

func (t *longPolling) finished() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.polls--
	t.lastPoll = t.conn.hub.server.now()
}

// answer writes messages as the response of a poll. What cannot be written is
// lost, and the connection with it.
func (t *longPolling) answer(w http.ResponseWriter, control *http.ResponseController, entries []entry) error {
	c := t.conn
	size := 0
	var body []byte
	for _, e := range entries {
		body = append(body, e.data...)
		size += len(e.data)
	}
	_ = control.SetWriteDeadline(time.Now().Add(c.hub.opts.WriteTimeout))
	w.Header().Set("Content-Type", "application/octet-stream")
	_, err := w.Write(body)
	if err == nil {
		err = control.Flush()
	}
	c.wrote(len(entries), size)
	if err != nil {
		c.end(ending{reason: CloseLost, err: err, cut: true})
		return nil
	}
	c.lastWrite.Store(c.hub.server.now())
	c.hub.server.opts.Metrics.sent(len(entries), size)
	return nil
}

// post serves POST {hub}: messages of a client that uses server-sent events or
// long polling.
func (h *Hub) post(w http.ResponseWriter, r *http.Request, identity Identity) error {
	c, err := h.connection(r, identity)
	if err != nil {
		return err
	}
	if c.kind == WebSockets {
		return errMethod
	}
	if c.isEnding() {
		return errUnknownID
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(h.opts.MaxMessageSize+webSocketSlack)))
	if err != nil {
		if errors.As(err, new(*http.MaxBytesError)) {
			return errBodyTooLarge
		}
		return errBody
	}
	c.receive(c.transport, body, false)
	w.Header().Set("Content-Type", "text/plain")
	return nil
}

// delete serves DELETE {hub}, by which a long polling client says goodbye.
func (h *Hub) delete(w http.ResponseWriter, r *http.Request, identity Identity) error {
	c, err := h.connection(r, identity)
	if err != nil {
		return err
	}
	if c.kind != LongPolling {
		return errOtherTransport
	}
	c.end(ending{reason: CloseClient})
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(http.StatusAccepted)
	return nil
}
