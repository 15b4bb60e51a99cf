package loadgen

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/esh3artech/esh3ar"
)

// sender is one business client. One goroutine at a time works with it.
type sender struct {
	*Clients
	number uint32
	mu     sync.Mutex // guards changes of wire, for breakOff
	wire   *wire      // nil while there is no connection
	seqs   []uint32   // the next sequence number for each of its recipients
	turn   uint32     // whose turn it is among them
	// The request, built once: request is the whole of it, and fields of msgs point into it.
	request []byte
	msgs    []slot
}

// slot is one message within a sender's request.
type slot struct {
	to, mark, key []byte // where to patch; key is nil without keys
	rec           Record
	lane          uint32 // whose of the sender's recipients it goes to
	sure          bool   // whether no attempt may have been accepted unseen
}

// keyPlaceholder has the length of every idempotency key.
const keyPlaceholder = "00000000-0000-0000-0000-000000000000"

func newSender(c *Clients, number uint32) *sender {
	s := &sender{Clients: c, number: number, seqs: make([]uint32, c.work.fan())}
	text := content(c.work.Size)
	name := RecipientName(c.work.Run, 0) // as long as that of any other
	var body []byte
	type place struct{ to, mark, key int }
	places := make([]place, c.work.Batch)
	if c.work.Batch > 1 {
		body = append(body, `{"messages":[`...)
	}
	for i := range places {
		if i > 0 {
			body = append(body, ',')
		}
		body = append(body, `{"to":"`...)
		places[i].to = len(body)
		body = append(body, name...)
		body = append(body, `","content":"`...)
		places[i].mark = len(body)
		body = append(body, text...)
		body = append(body, '"')
		if c.work.Batch > 1 && c.work.Keys {
			body = append(body, `,"idempotency_key":"`...)
			places[i].key = len(body)
			body = append(body, keyPlaceholder...)
			body = append(body, '"')
		}
		body = append(body, '}')
	}
	path := "/v1/messages"
	if c.work.Batch > 1 {
		body = append(body, `]}`...)
		path += "/batch"
	}
	req := fmt.Appendf(nil, "POST %s%s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n",
		c.end.path, path, c.end.host, c.apiKey, len(body))
	keyAt := 0
	if c.work.Batch == 1 && c.work.Keys {
		req = append(req, "Idempotency-Key: "...)
		keyAt = len(req)
		req = append(req, keyPlaceholder+"\r\n"...)
	}
	req = append(req, "\r\n"...)
	head := len(req)
	s.request = append(req, body...)
	at := func(pos, n int) []byte { return s.request[pos : pos+n : pos+n] }
	for _, p := range places {
		m := slot{to: at(head+p.to, len(name)), mark: at(head+p.mark, markBytes)}
		if c.work.Keys && c.work.Batch > 1 {
			m.key = at(head+p.key, len(keyPlaceholder))
		} else if c.work.Keys {
			m.key = at(keyAt, len(keyPlaceholder))
		}
		s.msgs = append(s.msgs, m)
	}
	return s
}

// The waits of a sender that tries again: random, up to the first, doubling up to the last.
const (
	firstRetry = 50 * time.Millisecond
	lastRetry  = 2 * time.Second
)

func retryWait(attempt int) time.Duration {
	limit := lastRetry
	if attempt < 6 {
		limit = min(lastRetry, firstRetry<<attempt)
	}
	return rand.N(limit) + time.Millisecond
}

// connect makes the connection, if there is none, trying again unless that is hopeless.
func (s *sender) connect(ctx context.Context) error {
	for attempt := 0; s.wire == nil; attempt++ {
		conn, err := s.end.dial(ctx)
		if err == nil {
			s.counters.connected.Add(1)
			s.mu.Lock()
			s.wire = newWire(conn)
			s.mu.Unlock()
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		s.errors.add("connect: " + describe(err))
		if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.EADDRNOTAVAIL) {
			return fmt.Errorf("connecting client %d: %w", s.number, err)
		}
		if !pause(ctx, retryWait(attempt)) {
			return context.Cause(ctx)
		}
	}
	return nil
}

func (s *sender) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wire != nil {
		s.wire.conn.Close()
		s.wire = nil
		s.counters.connected.Add(-1)
	}
}

// breakOff ends an exchange under way. It may be called from any goroutine.
func (s *sender) breakOff() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wire != nil {
		s.wire.conn.Close()
	}
}

// overtime is how long after the schedule's end a sender that has fallen behind still catches up.
const overtime = 5 * time.Second

// run sends by the schedule.
func (s *sender) run(ctx context.Context, sched Schedule) {
	due := sched.Start
	var interval time.Duration
	if s.work.Rate > 0 {
		interval = time.Duration(float64(time.Second) * float64(s.work.Batch) * float64(s.work.Clients) / s.work.Rate)
		due = due.Add(rand.N(max(interval, 1)))
	}
	if !pause(ctx, time.Until(due)) {
		return
	}
	for due.Before(sched.End) && ctx.Err() == nil {
		now := time.Now()
		if wait := due.Sub(now); wait > 0 {
			if !pause(ctx, wait) {
				return
			}
			now = time.Now()
			s.lag.record(s.number, now.Sub(due))
		}
		if now.After(sched.End.Add(overtime)) {
			s.counters.unsent.Add(int64(s.work.Batch) * (1 + int64(sched.End.Sub(due)/max(interval, 1))))
			return
		}
		s.prepare(due, now)
		s.deliver(ctx, sched, due)
		if interval > 0 {
			due = due.Add(interval)
		} else {
			due = time.Now()
		}
	}
}

// prepare patches the next messages into the request.
func (s *sender) prepare(due, now time.Time) {
	for i := range s.msgs {
		m := &s.msgs[i]
		m.lane = s.turn
		s.turn = (s.turn + 1) % uint32(len(s.seqs))
		m.sure = true
		m.rec = Record{
			Client: s.number, Recipient: s.work.recipient(s.number, m.lane), Seq: s.seqs[m.lane], Sent: now.UnixNano(),
		}
		s.seqs[m.lane]++
		copy(m.to, RecipientName(s.work.Run, m.rec.Recipient))
		(&mark{s.work.Run, s.number, m.rec.Recipient, m.rec.Seq, due.UnixNano()}).put(m.mark)
		if m.key != nil {
			copy(m.key, uuid.Must(uuid.NewV7()).String())
		}
	}
}

// deliver sends the prepared request, repeats it if the workload says so, and writes into the ledger
// what became of its messages.
func (s *sender) deliver(ctx context.Context, sched Schedule, due time.Time) {
	for attempt := 0; ; attempt++ {
		wait, settled := s.attempt(ctx, sched, due)
		if settled {
			return
		}
		if s.work.Retry && time.Now().Before(sched.End.Add(overtime)) && pause(ctx, wait+retryWait(attempt)) {
			continue
		}
		for i := range s.msgs {
			s.fail(&s.msgs[i])
		}
		// A client of a closed loop that is turned away must not spin.
		if s.work.Rate == 0 {
			pause(ctx, min(wait, time.Second)+retryWait(0))
		}
		return
	}
}

// attempt makes one request. It reports whether everything about its messages has been written down.
func (s *sender) attempt(ctx context.Context, sched Schedule, due time.Time) (wait time.Duration, settled bool) {
	if s.connect(ctx) != nil {
		return 0, false
	}
	s.wire.conn.SetDeadline(time.Now().Add(answerTimeout))
	a, err := s.wire.exchange(s.request)
	if err != nil {
		s.hangUp()
		if ctx.Err() == nil {
			s.errors.add(describe(err))
		}
		for i := range s.msgs {
			s.msgs[i].sure = false
			s.msgs[i].rec.Status = 0
		}
		return 0, false
	}
	now := time.Now()
	if a.close {
		s.hangUp()
	}
	if s.work.Batch > 1 && a.status < 300 {
		return 0, s.batchAnswer(a, sched, due, now)
	}
	if a.status == 202 {
		if id, ok := trackingID(a.body); ok {
			s.accepted(&s.msgs[0], id, sched, due, now)
			return 0, true
		}
		s.errors.add("202 without an id")
		s.msgs[0].sure = false
		return 0, false
	}
	s.refusal(a.status, a.body, s.msgs)
	return a.retryAfter, false
}

// refusal notes that these messages were refused.
func (s *sender) refusal(status int, problem []byte, msgs []slot) {
	code := field(problem, `"code":"`)
	s.errors.add(strconv.Itoa(status) + " " + string(code))
	for i := range msgs {
		msgs[i].rec.Status = uint16(status)
		if status == 500 || status == 502 || status == 504 || string(code) == "outcome_unknown" {
			msgs[i].sure = false
		}
	}
}

// batchAnswer takes a batch's results, which come in the order of its messages.
func (s *sender) batchAnswer(a answer, sched Schedule, due, now time.Time) (settled bool) {
	var out struct {
		Results []struct {
			Status  int             `json:"status"`
			ID      *esh3ar.ID      `json:"id"`
			Problem json.RawMessage `json:"problem"`
		} `json:"results"`
	}
	if err := json.Unmarshal(a.body, &out); err != nil || len(out.Results) != len(s.msgs) {
		s.errors.add("a batch's answer does not fit")
		for i := range s.msgs {
			s.msgs[i].sure = false
		}
		return false
	}
	for i := range out.Results {
		if id := out.Results[i].ID; id != nil {
			s.accepted(&s.msgs[i], *id, sched, due, now)
			continue
		}
		s.refusal(out.Results[i].Status, out.Results[i].Problem, s.msgs[i:i+1])
		s.fail(&s.msgs[i])
	}
	return true
}

func (s *sender) accepted(m *slot, id esh3ar.ID, sched Schedule, due, now time.Time) {
	m.rec.Kind, m.rec.Status, m.rec.ID, m.rec.At = Accepted, 202, id, now.UnixNano()
	s.ledger.Append(&m.rec)
	s.counters.accepted.Add(1)
	if !now.Before(sched.Measure) {
		s.counters.measured.Add(1)
	}
	if !due.Before(sched.Measure) {
		s.accept.record(s.number, now.Sub(due))
	}
}

// fail writes down that a message was given up.
func (s *sender) fail(m *slot) {
	m.rec.Kind, m.rec.At = Unknown, time.Now().UnixNano()
	if m.sure {
		m.rec.Kind = Refused
		s.counters.refused.Add(1)
	} else {
		s.counters.unknown.Add(1)
	}
	s.ledger.Append(&m.rec)
}

// trackingID finds the id in the answer to a single message.
func trackingID(body []byte) (esh3ar.ID, bool) {
	id, err := esh3ar.ParseID(string(field(body, `"id":"`)))
	return id, err == nil
}

// field returns the string value that follows the first occurrence of label, which ends in a quotation
// mark. It is for strings without escapes in JSON that is written without spaces.
func field(body []byte, label string) []byte {
	i := bytes.Index(body, []byte(label))
	if i < 0 {
		return nil
	}
	rest := body[i+len(label):]
	return rest[:max(bytes.IndexByte(rest, '"'), 0)]
}
