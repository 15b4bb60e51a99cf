package postgres_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
	"github.com/esh3artech/esh3ar/internal/store/breaker"
	"github.com/esh3artech/esh3ar/internal/store/postgres"
	"github.com/esh3artech/esh3ar/internal/store/storetest"
)

// line is a way to the server that may lose long packets, as one does whose narrowest part takes less than either end knows.
type line struct {
	sends, receives atomic.Bool // whether what is long is lost
	dialed          atomic.Int64
}

// widest is the longest packet that passes then, in bytes.
const widest = 1400

func (l *line) dial(ctx context.Context, network, address string) (net.Conn, error) {
	l.dialed.Add(1)
	c, err := new(net.Dialer).DialContext(ctx, network, address)
	return &lineConn{Conn: c, line: l}, err
}

// lineConn is a connection over it. What follows on what was lost is lost, too: the ends keep it for when the lost comes.
type lineConn struct {
	net.Conn
	line *line

	mu         sync.Mutex
	sent, came bool // something was lost
}

func (c *lineConn) lost(loses *atomic.Bool, before *bool, n int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	*before = *before || loses.Load() && n > widest
	return *before
}

func (c *lineConn) Write(p []byte) (int, error) {
	if c.lost(&c.line.sends, &c.sent, len(p)) {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func (c *lineConn) Read(p []byte) (int, error) {
	for {
		n, err := c.Conn.Read(p)
		if err != nil || !c.lost(&c.line.receives, &c.came, n) {
			return n, err
		}
	}
}

// TestLineLosesLongPackets: a server that answers short questions and gets nothing that is long, or whose long answers do not come,
// is not reached, and is again as soon as the line is whole.
func TestLineLosesLongPackets(t *testing.T) {
	t.Parallel()
	for name, loses := range map[string]func(*line) *atomic.Bool{
		"what is sent":  func(l *line) *atomic.Bool { return &l.sends },
		"what is asked": func(l *line) *atomic.Bool { return &l.receives },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var l line
			s := breaker.New(open(t, postgres.Options{Dial: l.dial}), breaker.Options{Logger: slog.New(slog.DiscardHandler), WriteTimeout: 500 * time.Millisecond})
			claim, err := s.Claim(t.Context(), 1)
			if err != nil {
				t.Fatal(err)
			}
			changes := storetest.Deliverable(1, 200, true)
			commit := func(number int64) error {
				return s.Commit(t.Context(), &store.Batch{Shard: 1, Epoch: claim.Epoch, Number: number, Changes: changes, At: time.Now()})
			}
			ids := make([]esh3ar.ID, len(changes))
			for i := range changes {
				ids[i] = changes[i].Message.ID
			}
			reach := func() error {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				return s.Reach(ctx)
			}
			if err := commit(1); err != nil {
				t.Fatal(err)
			}
			// A connection is lost with each long question, and none can be made.
			for l.dialed.Load() < 8 {
				var together sync.WaitGroup
				for range 8 {
					together.Go(func() {
						if err := reach(); err != nil {
							t.Error(err)
						}
					})
				}
				together.Wait()
			}

			loses(&l).Store(true)
			for range 3 {
				end := make(chan struct{})
				var asking sync.WaitGroup
				asking.Go(func() { // as the look-ups of keys do
					tick := time.NewTicker(20 * time.Millisecond)
					defer tick.Stop()
					for {
						if _, err := s.Idempotent(t.Context(), "nobody", "a key"); !errors.Is(err, store.ErrNotFound) {
							t.Errorf("a short question got %v", err)
						}
						select {
						case <-end:
							return
						case <-tick.C:
						}
					}
				})
				err := reach()
				close(end)
				asking.Wait()
				if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, store.ErrBusy) {
					t.Errorf("reached over a line that loses %s: %v", name, err)
				}
			}
			if name == "what is sent" {
				err = commit(2)
				if _, vain := s.Commits(); vain.IsZero() {
					t.Error("a commit got an answer")
				}
			} else {
				ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
				_, err = s.Rows(ctx, 1, ids)
				cancel()
			}
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("something long got %v", err)
			}

			loses(&l).Store(false)
			if err := errors.Join(reach(), commit(2)); err != nil {
				t.Errorf("over a whole line: %v", err)
			}
			if rows, err := s.Rows(t.Context(), 1, ids); err != nil || len(rows) != len(ids) {
				t.Errorf("got %d of %d rows, error %v", len(rows), len(ids), err)
			}
		})
	}
}

// TestPingWaitsForAConnection: a store with all its connections in use is not said not to answer.
func TestPingWaitsForAConnection(t *testing.T) {
	t.Parallel()
	s := open(t, postgres.Options{Conns: 1})
	claim, err := s.Claim(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	b := &store.Batch{Shard: 1, Epoch: claim.Epoch, Changes: storetest.Deliverable(1, 2000, true), At: time.Now()}
	done := make(chan error, 1)
	go func() { done <- s.Commit(t.Context(), b) }()
	for busy := false; !busy; {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		err := s.Ping(ctx)
		cancel()
		busy = errors.Is(err, store.ErrBusy)
		select {
		case err := <-done:
			if !busy {
				t.Fatalf("the commit was over before a ping met it: %v, ping %v", err, err)
			}
			return
		default:
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
