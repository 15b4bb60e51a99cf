package jetstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/esh3artech/esh3ar/internal/journal"
)

// publisher sends entries and matches JetStream's acknowledgements to them. It
// replaces that of nats.go, which keeps no order in the face of "no responders"
// (it sends again later), and does more for each message than a batch needs.
//
// Entries to replicated streams that are under way when their leader is lost are
// sent again; see succession.
//
// What waits is bounded by the callers: each knows how many it has under way.
type publisher struct {
	request func(e *published, reply string) error // of the connection
	prefix  string                                 // of the reply subjects; the number of the entry follows
	logger  *slog.Logger
	purge   func(shard int, below uint64) // of the entries that belong to no partition; it does not wait

	mu          sync.Mutex
	next        uint64
	waiting     map[uint64]*published
	successions []succession // by shard; none if the streams are not replicated

	vacant chan int // shards whose leader was found lost; there is room for all
	ended  bool     // nobody sees to them any more
}

// published is an entry without an acknowledgement so far.
type published struct {
	shard   int // -1 for a probe
	subject string
	data    []byte
	first   time.Time // when it was sent for the first time
	done    func(uint64, error)
	stop    func() bool // the wait for the end of the context, once it is sent

	// sent: the connection has its own copy of the data. What is settled before waits for that, because whoever is told
	// may use the data for something else.
	sent  bool
	early *settled

	// again: it was sent more than once, so that a refusal of one copy says nothing of the others.
	again bool

	underWay bool // a leader has said that it is being stored

	question bool // it is sent to learn whether it is stored, and not to have it stored
}

// settled is what became of an entry.
type settled struct {
	seq uint64
	err error
}

// newPublisher returns a publisher to streams of that many shards, each kept by several servers, or to any if shards is 0.
func newPublisher(shards int, logger *slog.Logger) *publisher {
	p := &publisher{
		logger: logger, waiting: make(map[uint64]*published), successions: make([]succession, shards), vacant: make(chan int, shards),
	}
	for i := range p.successions {
		p.successions[i].acknowledged = make(map[string]uint64)
	}
	return p
}

// start begins to listen for acknowledgements, for as long as nc is open.
func (p *publisher) start(nc *nats.Conn) error {
	p.request = func(e *published, reply string) error { return nc.PublishRequest(e.subject, reply, e.data) }
	if p.replicated() {
		p.request = func(e *published, reply string) error {
			return nc.PublishMsg(identified(e.subject, reply, e.data, e.question))
		}
	}
	p.prefix = nc.NewInbox() + "."
	subjects := map[string]nats.MsgHandler{p.prefix + "*": p.answered}
	if p.replicated() {
		subjects[electedPrefix+"*"] = p.elected
	}
	for subject, handle := range subjects {
		sub, err := nc.Subscribe(subject, handle)
		if err != nil {
			return err
		}
		if err := sub.SetPendingLimits(-1, -1); err != nil {
			return err
		}
	}
	return nil
}

// send publishes data to the shard's stream. Done is called once, when the data is free again. It blocks, up to the end of ctx,
// while entries that were sent before wait so long that they may be lost.
func (p *publisher) send(ctx context.Context, shard int, subject string, data []byte, done func(uint64, error)) {
	e := &published{shard: shard, subject: subject, data: data, done: done}
	p.mu.Lock()
	if s := p.succession(e); s != nil {
		if err := p.mayFollow(ctx, s); err != nil {
			p.mu.Unlock()
			done(0, err)
			return
		}
	}
	id := p.add(e)
	p.mu.Unlock()
	p.transmit(ctx, id, e)
}

// add has an entry wait for its acknowledgement and returns its number. The lock must be held.
func (p *publisher) add(e *published) (id uint64) {
	p.next++
	p.waiting[p.next] = e
	e.first = time.Now()
	if s := p.succession(e); s != nil {
		s.waiting++
		s.order = append(s.order, p.next)
	}
	return p.next
}

// transmit hands a waiting entry to the connection. At the first time it follows ctx from then on.
func (p *publisher) transmit(ctx context.Context, id uint64, e *published) {
	reply := strconv.AppendUint(append(make([]byte, 0, 64), p.prefix...), id, 36)
	if err := p.request(e, string(reply)); err != nil {
		p.settle(id, 0, publishError(err))
	}

	p.mu.Lock()
	e.sent = true
	early := e.early
	if early == nil && e.stop == nil {
		e.stop = context.AfterFunc(ctx, func() {
			p.settle(id, 0, fmt.Errorf("%w: %w", journal.ErrUnknown, context.Cause(ctx)))
		})
	}
	p.mu.Unlock()
	if early != nil {
		e.tell(early.seq, early.err)
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
	if e == nil {
		p.mu.Unlock()
		return
	}
	now := p.remove(id, e, seq, err)
	p.mu.Unlock()
	if now {
		e.tell(seq, err)
	}
}

// remove notes what became of a waiting entry and says whether it is to be told now. The lock must be held.
func (p *publisher) remove(id uint64, e *published, seq uint64, err error) (now bool) {
	delete(p.waiting, id)
	if s := p.succession(e); s != nil {
		s.waiting--
		if err == nil {
			s.acknowledged[e.subject] = max(s.acknowledged[e.subject], id)
		}
		s.wake()
	}
	if !e.sent {
		e.early = &settled{seq, err}
	}
	return e.sent
}

// tell tells what became of an entry that waits no more.
func (e *published) tell(seq uint64, err error) {
	if e.stop != nil {
		e.stop()
	}
	if e.again && err != nil && !errors.Is(err, journal.ErrUnknown) {
		err = fmt.Errorf("%w: the stream's leader was lost: %s", journal.ErrUnknown, err.Error()) // of one kind alone
	}
	e.done(seq, err)
}

// failAll settles everything that waits with err.
func (p *publisher) failAll(err error) {
	p.mu.Lock()
	var now []*published
	for id, e := range p.waiting {
		if p.remove(id, e, 0, err) {
			now = append(now, e)
		}
	}
	p.mu.Unlock()
	for _, e := range now {
		e.tell(0, err)
	}
}

// answered handles JetStream's answer to an entry.
func (p *publisher) answered(m *nats.Msg) {
	id, err := strconv.ParseUint(m.Subject[len(p.prefix):], 36, 64)
	if err != nil {
		return // not an answer to us
	}
	seq, err := parseAck(m)
	if errors.Is(err, errNoLeader) && p.refused(id) || errors.Is(err, errUnderWay) && p.isUnderWay(id) {
		return
	}
	p.settle(id, seq, err)
}

// The error codes of JetStream that say which kind of refusal it is.
const (
	codeAccountResources = 10002 // the account's limits are reached
	codeNoResources      = 10023 // the server's limits are reached
	codeStorageResources = 10047 // the server's disk limit is reached
	codeTooLarge         = 10054 // longer than the stream takes
	codeStoreFailed      = 10077 // refused by the stream: full, or closed
	codeUnderWay         = 10158 // another entry with the same id is on its way to the servers
)

var (
	errNoLeader = fmt.Errorf("%w: no stream listens", journal.ErrUnavailable)

	// errUnderWay answers an entry that was sent again while the first is still being stored, which will be acknowledged.
	errUnderWay = fmt.Errorf("%w: it is under way already", journal.ErrUnknown)
)

// storeClosed is how a stream says that it is being closed.
const storeClosed = "store is closed"

// parseAck returns the sequence that an acknowledgement gives, or the error. An
// answer that is no acknowledgement means that the entry is not stored: after a
// failed write JetStream does not answer at all.
func parseAck(m *nats.Msg) (uint64, error) {
	if len(m.Data) == 0 && m.Header.Get("Status") == "503" {
		return 0, errNoLeader
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
	case codeUnderWay:
		return 0, errUnderWay
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
