package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/esh3artech/esh3ar/internal/journal"
)

// publisher sends entries and matches JetStream's acknowledgements to them. It
// replaces that of nats.go, which keeps no order in the face of "no responders"
// (it sends again later), and does more for each message than a batch needs.
//
// What waits is bounded by the callers: each knows how many it has under way.
type publisher struct {
	request func(subject, reply string, data []byte) error // of the connection
	prefix  string                                         // of the reply subjects; the number of the entry follows

	mu      sync.Mutex
	next    uint64
	waiting map[uint64]*published
}

// published is an entry without an acknowledgement so far.
type published struct {
	done func(uint64, error)
	stop func() bool // the wait for the end of the context, once it is sent

	// sent: the connection has its own copy of the data. What is settled before waits for that, because whoever is told
	// may use the data for something else.
	sent  bool
	early *settled
}

// settled is what became of an entry.
type settled struct {
	seq uint64
	err error
}

func newPublisher() *publisher {
	return &publisher{waiting: make(map[uint64]*published)}
}

// start begins to listen for acknowledgements, for as long as nc is open.
func (p *publisher) start(nc *nats.Conn) error {
	p.request = nc.PublishRequest
	p.prefix = nc.NewInbox() + "."
	sub, err := nc.Subscribe(p.prefix+"*", p.acknowledged)
	if err != nil {
		return err
	}
	return sub.SetPendingLimits(-1, -1)
}

// send publishes data. Done is called once, when the data is free again.
func (p *publisher) send(ctx context.Context, subject string, data []byte, done func(uint64, error)) {
	e := &published{done: done}
	p.mu.Lock()
	p.next++
	id := p.next
	p.waiting[id] = e
	p.mu.Unlock()

	reply := strconv.AppendUint(append(make([]byte, 0, 64), p.prefix...), id, 36)
	if err := p.request(subject, string(reply), data); err != nil {
		p.settle(id, 0, publishError(err))
	}

	p.mu.Lock()
	e.sent = true
	early := e.early
	if early == nil {
		e.stop = context.AfterFunc(ctx, func() {
			p.settle(id, 0, fmt.Errorf("%w: %w", journal.ErrUnknown, context.Cause(ctx)))
		})
	}
	p.mu.Unlock()
	if early != nil {
		done(early.seq, early.err)
	}
}

// publishError gives its kind to an error of the publishing itself, before any
// answer.
func publishError(err error) error {
	kind := journal.ErrUnknown
	switch {
	case errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrConnectionClosed),
		errors.Is(err, nats.ErrConnectionDraining):
		kind = journal.ErrUnavailable
	case errors.Is(err, nats.ErrMaxPayload):
		kind = journal.ErrTooLarge
	}
	return fmt.Errorf("%w: %w", kind, err)
}

// settle ends the wait for an entry, if it is not settled yet.
func (p *publisher) settle(id, seq uint64, err error) {
	p.mu.Lock()
	e := p.waiting[id]
	delete(p.waiting, id)
	now := e.settle(seq, err)
	p.mu.Unlock()
	if now {
		e.stop()
		e.done(seq, err)
	}
}

// settle notes what became of the entry and says whether it is to be told now. The publisher's lock must be held.
func (e *published) settle(seq uint64, err error) (now bool) {
	if e == nil {
		return false
	}
	if !e.sent {
		e.early = &settled{seq, err}
	}
	return e.sent
}

// failAll settles everything that waits with err.
func (p *publisher) failAll(err error) {
	p.mu.Lock()
	var now []*published
	for _, e := range p.waiting {
		if e.settle(0, err) {
			now = append(now, e)
		}
	}
	p.waiting = make(map[uint64]*published)
	p.mu.Unlock()
	for _, e := range now {
		e.stop()
		e.done(0, err)
	}
}

// acknowledged handles JetStream's answer to an entry.
func (p *publisher) acknowledged(m *nats.Msg) {
	id, err := strconv.ParseUint(m.Subject[len(p.prefix):], 36, 64)
	if err != nil {
		return // not an answer to us
	}
	seq, err := parseAck(m)
	p.settle(id, seq, err)
}

// The error codes of JetStream that say which kind of refusal it is.
const (
	codeAccountResources = 10002 // the account's limits are reached
	codeNoResources      = 10023 // the server's limits are reached
	codeStorageResources = 10047 // the server's disk limit is reached
	codeTooLarge         = 10054 // longer than the stream takes
	codeStoreFailed      = 10077 // refused by the stream: full, or closed
)

// storeClosed is how a stream says that it is being closed.
const storeClosed = "store is closed"

// parseAck returns the sequence that an acknowledgement gives, or the error. An
// answer that is no acknowledgement means that the entry is not stored: after a
// failed write JetStream does not answer at all.
func parseAck(m *nats.Msg) (uint64, error) {
	if len(m.Data) == 0 && m.Header.Get("Status") == "503" {
		return 0, fmt.Errorf("%w: no stream listens", journal.ErrUnavailable)
	}
	var ack struct {
		Seq   uint64              `json:"seq"`
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &ack); err != nil {
		return 0, fmt.Errorf("%w: unreadable acknowledgement: %w", journal.ErrUnknown, err)
	}
	if ack.Error == nil {
		if ack.Seq == 0 {
			return 0, fmt.Errorf("%w: acknowledgement without a sequence", journal.ErrUnknown)
		}
		return ack.Seq, nil
	}
	kind := journal.ErrUnavailable
	switch ack.Error.ErrorCode {
	case codeAccountResources, codeNoResources, codeStorageResources:
		kind = journal.ErrFull
	case codeStoreFailed:
		if ack.Error.Description != storeClosed {
			kind = journal.ErrFull
		}
	case codeTooLarge:
		kind = journal.ErrTooLarge
	}
	return 0, fmt.Errorf("%w: %w", kind, ack.Error)
}
