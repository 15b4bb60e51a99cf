package breaker_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
	"github.com/esh3artech/esh3ar/internal/store/breaker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patient is a store that fails, hangs or answers as it is told.
type patient struct {
	store.Store
	err   error
	hangs bool
	asked int
}

func (p *patient) Message(ctx context.Context, _ string, _ esh3ar.ID) (store.Row, error) {
	p.asked++
	if p.hangs {
		<-ctx.Done()
		return store.Row{}, ctx.Err()
	}
	return store.Row{}, p.err
}

func open(p *patient) func(context.Context) error {
	s := breaker.New(p, breaker.Options{Logger: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	return func(ctx context.Context) error {
		_, err := s.Message(ctx, "bank", esh3ar.ID{})
		return err
	}
}

func TestOpensAndProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := errors.New("connection refused")
		p := &patient{err: down}
		ask := open(p)
		for range 5 {
			if err := ask(t.Context()); !errors.Is(err, down) {
				t.Fatal(err)
			}
		}
		for range 100 {
			if err := ask(t.Context()); !errors.Is(err, breaker.ErrOpen) {
				t.Fatal(err)
			}
		}
		if p.asked != 5 {
			t.Errorf("asked %d times", p.asked)
		}
		<-time.After(1200 * time.Millisecond)
		if err := ask(t.Context()); !errors.Is(err, down) { // the probe
			t.Fatal(err)
		}
		if err := ask(t.Context()); !errors.Is(err, breaker.ErrOpen) {
			t.Fatal(err)
		}
		p.err = nil
		<-time.After(1200 * time.Millisecond)
		for range 10 {
			if err := ask(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestAHangingStoreIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &patient{hangs: true}
		ask := open(p)
		for range 5 {
			if err := ask(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
		}
		if err := ask(t.Context()); !errors.Is(err, breaker.ErrOpen) {
			t.Error(err)
		}
	})
}

func TestAnswersAreNoFailures(t *testing.T) {
	for _, err := range []error{
		store.ErrNotFound, store.ErrNotOwner, store.ErrPermanent,
		esh3ar.Errorf(esh3ar.KindInvalid, "bad_cursor", "not a cursor"),
	} {
		p := &patient{err: err}
		ask := open(p)
		for range 20 {
			if got := ask(t.Context()); !errors.Is(got, err) {
				t.Fatalf("%v: %v", err, got)
			}
		}
	}
}

func TestCallersThatHangUpDoNotOpenIt(t *testing.T) {
	p := &patient{hangs: true}
	ask := open(p)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 20 {
		if err := ask(ctx); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	p.hangs = false
	if err := ask(t.Context()); err != nil {
		t.Error(err)
	}
}

// busy is a store whose pings get no answer, and whose commits do as it is told.
type busy struct {
	patient
	pinged chan struct{}
	ping   error
}

func (b *busy) Ping(ctx context.Context) error {
	b.pinged <- struct{}{}
	<-ctx.Done()
	return errors.Join(b.ping, ctx.Err())
}

func (b *busy) Commit(context.Context, *store.Batch) error { return b.err }

func TestReach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &busy{pinged: make(chan struct{})}
		s := breaker.New(p, breaker.Options{Logger: slog.New(slog.DiscardHandler)})
		message := func(ctx context.Context) { _, _ = s.Message(ctx, "bank", esh3ar.ID{}) } // its error is the test's
		commit := func(size int, from store.Place) func(context.Context) {
			parts := size / 4 // each in another place of one of two messages
			batch := &store.Batch{Changes: []store.Change{
				{From: from, Message: &esh3ar.Message{Content: strings.Repeat("c", parts), Metadata: map[string]string{strings.Repeat("k", parts): ""}}},
				{From: from, Message: &esh3ar.Message{Data: bytes.Repeat([]byte("d"), parts), Metadata: map[string]string{"": strings.Repeat("v", size-3*parts)}}},
			}}
			return func(ctx context.Context) { _ = s.Commit(ctx, batch) }
		}
		const long = 16 << 10
		refused := errors.New("connection refused")
		for _, test := range []struct {
			name string
			ping error
			call func(context.Context)
			err  error // of the call meanwhile
			ok   bool
		}{
			{"no connection free, a call answered", store.ErrBusy, message, nil, true},
			{"no connection free, a call answered with a no", store.ErrBusy, message, store.ErrNotFound, true},
			{"no connection free, a call not answered", store.ErrBusy, message, refused, false},
			{"no answer, a call answered", nil, message, nil, false},
			{"no answer, a short commit answered", nil, commit(long-1, store.Nowhere), nil, false},
			{"no answer, a long commit answered", nil, commit(long, store.Nowhere), nil, true},
			{"no answer, a commit answered of what lies there already", nil, commit(long, store.InQueue), nil, false},
			{"no answer, a long commit answered with a no, which comes before it is sent", nil, commit(long, store.Nowhere), store.ErrNotOwner, false},
			{"no answer, a long commit not answered", nil, commit(long, store.Nowhere), refused, false},
		} {
			p.ping, p.err = test.ping, test.err
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			reached := make(chan error, 1)
			go func() { reached <- s.Reach(ctx) }()
			<-p.pinged
			test.call(ctx)
			if err := <-reached; (err == nil) != test.ok {
				t.Errorf("%s: %v", test.name, err)
			}
			cancel()
		}
	})
}

// committing is a store that answers a commit when it is told what.
type committing struct {
	store.Store
	answer map[uint16]chan error // by shard
}

func (c *committing) Commit(ctx context.Context, b *store.Batch) error {
	select {
	case err := <-c.answer[b.Shard]:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func TestCommitsInVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &committing{answer: map[uint16]chan error{1: make(chan error), 2: make(chan error)}}
		s := breaker.New(c, breaker.Options{Logger: slog.New(slog.DiscardHandler), Failures: 2})
		start := time.Now()
		at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
		is := func(when string, taken, vain time.Time) {
			t.Helper()
			synctest.Wait()
			if gotTaken, gotVain := s.Commits(); !gotTaken.Equal(taken) || !gotVain.Equal(vain) {
				t.Errorf("%s: taken %v and in vain since %v after the start, want %v and %v", when, gotTaken.Sub(start), gotVain.Sub(start), taken.Sub(start), vain.Sub(start))
			}
		}
		var never time.Time
		ctx, giveUp := context.WithCancel(t.Context())
		commit := func(shard uint16) { go func() { _ = s.Commit(ctx, &store.Batch{Shard: shard}) }() }
		pass := func(until int) { <-time.After(time.Until(at(until))) }
		down := errors.New("connection refused")

		is("nothing was tried", never, never)
		pass(1)
		commit(1)
		is("one is under way", never, at(1))
		pass(2)
		commit(2)
		pass(3)
		c.answer[2] <- nil
		is("one of two is answered", at(2), at(3))
		pass(4)
		c.answer[1] <- store.ErrPermanent
		is("both are, the older one last", at(2), never)
		pass(5)
		commit(1)
		pass(6)
		c.answer[1] <- down
		is("one has failed", at(2), at(5))
		pass(9)
		commit(1)
		pass(10)
		c.answer[1] <- down
		pass(14)
		commit(1) // which the breaker holds back or not
		pass(18)
		is("it is tried all the while", at(2), at(5))
		pass(20)
		giveUp()
		is("nobody waits for it any more", at(2), at(5))
		pass(26)
		is("nobody tries any more", at(2), never)
		ctx = t.Context()
		commit(1)
		pass(27)
		c.answer[1] <- nil
		is("it is well", at(26), never)
		commit(1)
		pass(60)
		is("one was given up after its time", at(26), never)
	})
}
