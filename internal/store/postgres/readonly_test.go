package postgres_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/esh3artech/esh3ar/internal/store"
	"github.com/esh3artech/esh3ar/internal/store/breaker"
	"github.com/esh3artech/esh3ar/internal/store/postgres"
)

// until calls try until it is satisfied.
func until(t *testing.T, what string, try func() bool) {
	t.Helper()
	deadline, tick := time.After(time.Minute), time.NewTicker(10*time.Millisecond)
	defer tick.Stop()
	for !try() {
		select {
		case <-deadline:
			t.Fatalf("not within a minute: %s", what)
		case <-tick.C:
		}
	}
}

// mustPass fails the test unless an error says that the database takes no writes now, and that it may later.
func mustPass(t *testing.T, err error) {
	t.Helper()
	if errors.Is(err, store.ErrPermanent) || !postgres.Unreachable(err) || postgres.Trouble(err) != "the database takes no writes" ||
		!strings.Contains(err.Error(), "the server takes no writes") {
		t.Errorf("got error %v, told as %q; want one that says that the database takes no writes, and passes", err, postgres.Trouble(err))
	}
}

// TestServerTurnsReadOnly: a server that takes no writes any more, while its connections stay, opens the breaker and is not reached;
// also by a store that only asks. When it takes writes again, all goes on.
func TestServerTurnsReadOnly(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	operator, err := pgx.Connect(t.Context(), server.URL("postgres")+"&default_transaction_read_only=off")
	if err != nil {
		t.Fatal(err)
	}
	defer operator.Close(context.Background())
	turn := func(value string) {
		t.Helper()
		for _, q := range []string{"ALTER SYSTEM SET default_transaction_read_only = " + value, "SELECT pg_reload_conf()"} {
			if _, err := operator.Exec(t.Context(), q); err != nil {
				t.Fatal(err)
			}
		}
	}
	asking := openURL(t, server.URL("postgres"), postgres.Options{})
	s := openURL(t, server.URL("postgres"), postgres.Options{})
	guarded := breaker.New(s, breaker.Options{Logger: slog.New(slog.DiscardHandler), Failures: 3, Delay: 50 * time.Millisecond})
	c := newCommitter(t, s)
	c.commitTo = guarded
	if err := errors.Join(c.commit(time.Minute), asking.Ping(t.Context())); err != nil {
		t.Fatal(err)
	}

	turn("on")
	var refusals []error
	until(t, "the breaker opens", func() bool {
		err := c.commit(time.Minute)
		if err != nil && !errors.Is(err, breaker.ErrOpen) {
			refusals = append(refusals, err)
		}
		return errors.Is(err, breaker.ErrOpen)
	})
	if len(refusals) < 3 {
		t.Errorf("the breaker opened after %d failures", len(refusals))
	}
	for _, err := range refusals {
		mustPass(t, err)
	}
	until(t, "the breaker's store is not reached", func() bool {
		err = guarded.Reach(t.Context())
		return err != nil
	})
	mustPass(t, err)
	until(t, "a store that only asks is not reached", func() bool {
		err = asking.Ping(t.Context())
		return err != nil
	})
	mustPass(t, err)

	turn("off")
	until(t, "commits are taken again", func() bool { return c.commit(time.Minute) == nil })
	until(t, "both are reached again", func() bool {
		return errors.Join(guarded.Reach(t.Context()), asking.Ping(t.Context())) == nil
	})
	c.check()
}

// TestNameOfAStandby: the database's name leads one node to a standby, while its connections to the primary end. The node's store is
// not reached, though the standby answers, until the name leads to a server that takes writes.
func TestNameOfAStandby(t *testing.T) {
	t.Parallel()
	primary := startServer(t)
	standby, err := primary.Standby()
	closeServer(t, standby, err)
	var named atomic.Value // of string: the address that the name leads to
	address := func(url string) string {
		config, err := pgx.ParseConfig(url)
		if err != nil {
			t.Fatal(err)
		}
		return net.JoinHostPort("127.0.0.1", strconv.Itoa(int(config.Port)))
	}
	named.Store(address(primary.URL("postgres")))
	s := openURL(t, primary.URL("postgres"), postgres.Options{Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, named.Load().(string))
	}})
	c := newCommitter(t, s)
	if err := c.commit(time.Minute); err != nil {
		t.Fatal(err)
	}

	named.Store(address(standby.URL("postgres")))
	operator, err := pgx.Connect(t.Context(), primary.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer operator.Close(context.Background())
	if _, err := operator.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'esh3ar'`); err != nil {
		t.Fatal(err)
	}
	c.until(false)
	mustPass(t, c.commit(time.Minute))
	mustPass(t, s.Ping(t.Context()))

	named.Store(address(primary.URL("postgres")))
	c.until(true)
	if err := s.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	c.check()
}
