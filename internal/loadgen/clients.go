package loadgen

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

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
