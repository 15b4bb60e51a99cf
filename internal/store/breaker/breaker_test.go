package breaker_test

import (
	"context"
	"errors"
	"log/slog"
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

// busy is a store that has no connection free for a ping.
type busy struct {
	patient
	pinged chan struct{}
}

func (b *busy) Ping(ctx context.Context) error {
	b.pinged <- struct{}{}
	<-ctx.Done()
	return ctx.Err()
}

func TestReach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &busy{pinged: make(chan struct{})}
		s := breaker.New(p, breaker.Options{Logger: slog.New(slog.DiscardHandler)})
		for _, test := range []struct {
			name string
			err  error // of a call meanwhile
			ok   bool
		}{{"answered", nil, true}, {"answered with a no", store.ErrNotFound, true}, {"not answered", errors.New("connection refused"), false}} {
			p.err = test.err
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			reached := make(chan error, 1)
			go func() { reached <- s.Reach(ctx) }()
			<-p.pinged
			_, _ = s.Message(ctx, "bank", esh3ar.ID{}) // its error is the test's
			if err := <-reached; (err == nil) != test.ok {
				t.Errorf("a call was %s: %v", test.name, err)
			}
			cancel()
		}
	})
}
