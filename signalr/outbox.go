package signalr

// An entry is one encoded hub message, with its framing.
type entry struct {
	data      []byte
	sequenced bool // numbered by stateful reconnect
}

// An outbox holds what waits to be written to one connection. It is guarded by
// Conn.mu.
//
// It is bounded by HubOptions.OutboxMessages and OutboxBytes: a message that
// does not fit closes the connection with allowReconnect (Conn.enqueue), except
// that an empty outbox takes a message of any size. Pings, acknowledgements
// and the one close message are not held to the bounds.
type outbox struct {
	queue []entry
	head  int // index of the first entry in queue

	// control holds pings and acknowledgements, which overtake everything,
	// so that they are not held up behind messages that wait for the client's
	// acknowledgements.
	control []entry

	// count and bytes include what the transport has taken and not yet
	// written.
	count int
	bytes int

	// flushing is set while the transport is writing or has been woken to.
	// Only whoever finds it unset wakes the transport.
	flushing bool
}

// keepQueue is the capacity up to which an empty queue's memory is kept for
// the next message: an idle connection should hold little.
const keepQueue = 4

func (o *outbox) push(e entry) {
	o.queue = append(o.queue, e)
	o.count++
	o.bytes += len(e.data)
}

// pop removes the first entry from the queue; it stays counted until written.
func (o *outbox) pop() entry {
	e := o.queue[o.head]
	o.queue[o.head] = entry{}
	o.head++
	switch {
	case o.head < len(o.queue):
		// Do not let a queue that never empties grow at its front.
		if o.head >= 64 && o.head > len(o.queue)/2 {
			n := copy(o.queue, o.queue[o.head:])
			clear(o.queue[n:])
			o.queue, o.head = o.queue[:n], 0
		}
	case cap(o.queue) > keepQueue:
		o.queue, o.head = nil, 0
	default:
		o.queue, o.head = o.queue[:0], 0
	}
	return e
}

func (o *outbox) peek() (entry, bool) {
	if o.head == len(o.queue) {
		return entry{}, false
	}
	return o.queue[o.head], true
}

// clear drops what has not been taken.
func (o *outbox) clear() {
	for _, e := range o.queue[o.head:] {
		o.count--
		o.bytes -= len(e.data)
	}
	for _, e := range o.control {
		o.count--
		o.bytes -= len(e.data)
	}
	o.queue, o.head, o.control = nil, 0, nil
}

// pushControl adds a ping or an acknowledgement.
func (o *outbox) pushControl(data []byte) {
	o.control = append(o.control, entry{data: data})
	o.count++
	o.bytes += len(data)
}

// replay puts a sequence message and what it announces before everything else.
// These are repetitions: they are not numbered again.
func (o *outbox) replay(sequence []byte, messages [][]byte) {
	for _, e := range o.control {
		o.count--
		o.bytes -= len(e.data)
	}
	o.control = nil
	o.pushControl(sequence)
	for _, m := range messages {
		o.pushControl(m)
	}
}

// enqueue adds a message to an open connection's outbox, with Conn.mu held.
func (c *Conn) enqueue(e entry) error {
	if c.out.count > 0 && (c.out.count >= c.hub.opts.OutboxMessages || c.out.bytes+len(e.data) > c.hub.opts.OutboxBytes) {
		c.endLocked(ending{
			reason: CloseSlow, err: ErrOutboxFull,
			notify: true, text: "The connection is too slow.", allowReconnect: true, discard: true,
		})
		return ErrOutboxFull
	}
	c.out.push(e)
	c.wake()
	return nil
}

// reply queues a message that answers the client, unless the connection is not
// open any more.
func (c *Conn) reply(e entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == stateOpen {
		_ = c.enqueue(e) // it fails by ending the connection
	}
}

// batchStatus says what nextBatch found.
type batchStatus uint8

const (
	batchReady   batchStatus = iota // write the entries
	batchIdle                       // nothing to write; wake will come
	batchLast                       // nothing to write ever again: say goodbye
	batchForeign                    // the connection has another transport now
)

// A batch leaves in one write. Its bounds are soft: a single message may be
// larger.
const (
	maxBatchMessages = 256
	maxBatchBytes    = 32 << 10
)

// nextBatch counts what t wrote last as written and takes the next entries,
// which it appends to into. After batchIdle, t must not touch the outbox until
// it is woken.
func (c *Conn) nextBatch(t transport, into []entry, wroteMessages, wroteBytes int) ([]entry, batchStatus) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out.count -= wroteMessages
	c.out.bytes -= wroteBytes
	if c.space != nil && c.hasSpace() {
		c.releaseSpace()
	}
	if c.transport != t {
		return into, batchForeign
	}
	size := 0
	if len(c.out.control) > 0 {
		into = append(into, c.out.control...)
		c.out.control = nil
	}
	for len(into) < maxBatchMessages {
		e, ok := c.out.peek()
		if !ok || size > 0 && size+len(e.data) > maxBatchBytes {
			break
		}
		if c.resume != nil && e.sequenced {
			// While the client owes acknowledgements for a buffer full of
			// messages, the rest waits in the outbox and is bounded there. A
			// closing connection gets no more acknowledgements.
			if c.resume.sender.Full() && c.state == stateOpen {
				break
			}
			c.resume.sender.Add(e.data)
		}
		into = append(into, c.out.pop())
		size += len(e.data)
	}
	if len(into) > 0 {
		return into, batchReady
	}
	if c.state >= stateClosing {
		return into, batchLast
	}
	c.out.flushing = false
	return into, batchIdle
}

// hasSpace tells whether the outbox is at most half full.
func (c *Conn) hasSpace() bool {
	return c.out.count <= c.hub.opts.OutboxMessages/2 && c.out.bytes <= c.hub.opts.OutboxBytes/2
}

func (c *Conn) releaseSpace() {
	if c.space != nil {
		close(c.space)
		c.space = nil
	}
}

// waitSpace waits until the outbox is at most half full or the connection is
// not open any more, with Conn.mu held, which it gives up meanwhile. It
// returns early, with false, when done is closed.
func (c *Conn) waitSpace(done <-chan struct{}) bool {
	for c.state == stateOpen && !c.hasSpace() {
		if c.space == nil {
			c.space = make(chan struct{})
		}
		space := c.space
		c.mu.Unlock()
		select {
		case <-space:
			c.mu.Lock()
		case <-done:
			c.mu.Lock()
			return false
		}
	}
	return true
}
