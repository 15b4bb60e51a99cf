package loadgen

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/esh3artech/esh3ar"
)

// Workload says who sends what to whom. It is the same for all workers of a run.
type Workload struct {
	// Run is a random number that tells this run's messages from another's.
	Run uint32 `json:"run"`
	// Clients and Recipients are their numbers in the whole run.
	Clients    uint32 `json:"clients"`
	Recipients uint32 `json:"recipients"`
	// Size is the length of a message's text in bytes; less than a mark needs means that much.
	Size int `json:"size"`
	// Batch is how many messages go in one request; 1 means single requests.
	Batch int `json:"batch"`
	// Keys sends an Idempotency-Key with every message.
	Keys bool `json:"keys"`
	// Rate is how many messages all clients together send in a second, on a fixed schedule that does
	// not wait for answers (open loop). 0 means that each client sends its next message when the
	// last one is answered (closed loop).
	Rate float64 `json:"rate"`
	// Retry repeats a message that was not accepted until it is or the run ends, and only then goes
	// on to the next. It implies Keys.
	Retry bool `json:"retry"`
}

// fan is how many recipients a client sends to, in turn: as many as it takes for every recipient to
// get some.
func (w *Workload) fan() uint32 { return max(1, (w.Recipients+w.Clients-1)/w.Clients) }

// recipient returns the number of a client's i-th recipient.
func (w *Workload) recipient(client, i uint32) uint32 {
	return uint32((uint64(client) + uint64(i)*uint64(w.Clients)) % uint64(w.Recipients))
}

// Schedule says when clients send.
type Schedule struct {
	Start time.Time `json:"start"`
	// Measure is from when latencies are recorded.
	Measure time.Time `json:"measure"`
	End     time.Time `json:"end"`
}

// ClientStats are the counts of Clients so far.
type ClientStats struct {
	// Connected is how many clients have a connection now.
	Connected int64 `json:"connected"`
	Accepted  int64 `json:"accepted"`
	// Measured counts those of Accepted that were answered after the warm-up.
	Measured int64 `json:"measured"`
	Refused  int64 `json:"refused"`
	Unknown  int64 `json:"unknown"`
	// Unsent counts messages of the schedule that the run's end came before.
	Unsent int64 `json:"unsent"`
	// Errors counts failures by what they were.
	Errors map[string]int64 `json:"errors,omitempty"`
}

// Clients are business clients, each with a keep-alive connection of its own.
type Clients struct {
	end      *endpoint
	apiKey   string
	work     Workload
	ledger   *Ledger
	all      []*sender
	accept   *latency // from when a message is due to its 202
	lag      *latency // by how much the generator itself sends late
	errors   errorCounts
	counters struct{ connected, accepted, measured, refused, unknown, unsent atomic.Int64 }
}

// NewClients returns the clients with numbers from first to below first+n. They do not connect yet.
func NewClients(t Target, w Workload, first, n uint32, ledger *Ledger) (*Clients, error) {
	if w.Clients == 0 || w.Recipients == 0 || n == 0 {
		return nil, errors.New("a workload needs a client and a recipient")
	}
	if w.Batch < 1 || w.Batch > esh3ar.MaxBatch {
		return nil, fmt.Errorf("a batch has 1 to %d messages, not %d", esh3ar.MaxBatch, w.Batch)
	}
	if w.Retry && w.Batch > 1 {
		return nil, errors.New("repeating until accepted works for single messages alone")
	}
	end, err := t.endpoint()
	if err != nil {
		return nil, err
	}
	w.Keys = w.Keys || w.Retry
	c := &Clients{end: end, apiKey: t.APIKey, work: w, ledger: ledger, accept: newLatency(), lag: newLatency()}
	for i := range n {
		c.all = append(c.all, newSender(c, first+i))
	}
	return c, nil
}

// connecting is how many connections of one process are being made at a time: less than a listener's
// backlog.
const connecting = 128

// Connect opens all connections. It returns the first error that cannot be helped by trying again.
func (c *Clients) Connect(ctx context.Context) error {
	return each(ctx, len(c.all), connecting, func(ctx context.Context, i int) error {
		return c.all[i].connect(ctx)
	})
}

// each runs f for 0 to n-1, a bounded number at a time, until one fails, and returns its error.
func each(ctx context.Context, n, atOnce int, f func(context.Context, int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(n, atOnce) {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(n) && ctx.Err() == nil; i = next.Add(1) - 1 {
				if err := f(ctx, int(i)); err != nil {
					cancel(err)
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// Run sends by the schedule and returns when it has ended and every message sent is answered, or ctx
// ended, which breaks off what is under way.
func (c *Clients) Run(ctx context.Context, s Schedule) {
	stop := context.AfterFunc(ctx, func() {
		for _, cl := range c.all {
			cl.breakOff()
		}
	})
	defer stop()
	var wg sync.WaitGroup
	for _, cl := range c.all {
		wg.Go(func() { cl.run(ctx, s) })
	}
	wg.Wait()
}

// Close closes the connections. Run must not be running.
func (c *Clients) Close() {
	for _, cl := range c.all {
		cl.hangUp()
	}
}

// Stats returns the counts so far.
func (c *Clients) Stats() ClientStats {
	n := &c.counters
	return ClientStats{
		Connected: n.connected.Load(), Accepted: n.accepted.Load(), Measured: n.measured.Load(),
		Refused: n.refused.Load(), Unknown: n.unknown.Load(), Unsent: n.unsent.Load(), Errors: c.errors.counts(),
	}
}

// AcceptLatency sums up the times from when a message was due to be sent to its 202.
func (c *Clients) AcceptLatency() Percentiles { return percentiles(c.accept.histogram()) }

// errorCounts counts failures by kind.
type errorCounts struct {
	mu sync.Mutex
	n  map[string]int64
}

func (e *errorCounts) add(kind string) {
	e.mu.Lock()
	if e.n == nil {
		e.n = make(map[string]int64)
	}
	e.n[kind]++
	e.mu.Unlock()
}

func (e *errorCounts) counts() map[string]int64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return maps.Clone(e.n)
}

// describe names the kind of a connection's failure.
func describe(err error) string {
	var dns *net.DNSError
	switch {
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return "out of file descriptors"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return "out of local ports"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "connection reset"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "connection closed"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.As(err, &dns):
		return "name not resolved"
	}
	return err.Error()
}

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

// pause waits for d, and reports false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
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
