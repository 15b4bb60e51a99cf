package postgres_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/esh3artech/esh3ar/internal/store/postgres"
)

// TestSlowQuery: a query whose time is up costs its own connection and no other, as long as the server answers others.
func TestSlowQuery(t *testing.T) {
	t.Parallel()
	const conns = 8
	url := server.Database(t)
	var dialed atomic.Int64
	s := openURL(t, url, postgres.Options{Conns: conns + 1, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		dialed.Add(1)
		return new(net.Dialer).DialContext(ctx, network, address)
	}})
	if _, err := s.Claim(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	operator, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer operator.Close(context.Background())
	onlooker, err := pgx.Connect(t.Context(), url) // in a transaction pg_stat_activity stands still
	if err != nil {
		t.Fatal(err)
	}
	defer onlooker.Close(context.Background())
	var waiting sync.WaitGroup
	// ask has that many calls of the store wait for a row that the operator holds.
	ask := func(n int, limit time.Duration, want error) (end func()) {
		t.Helper()
		tx, err := operator.Begin(t.Context())
		if err == nil {
			_, err = tx.Exec(t.Context(), `SELECT FROM shard WHERE shard = 1 FOR UPDATE`)
		}
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		for range n {
			waiting.Go(func() {
				if _, err := s.Claim(ctx, 1); !errors.Is(err, want) {
					t.Errorf("the call ended with %v, want %v", err, want)
				}
			})
		}
		return func() {
			defer cancel()
			if err := tx.Rollback(t.Context()); err != nil {
				t.Error(err)
			}
			waiting.Wait()
		}
	}
	all := func() {
		t.Helper()
		end := ask(conns, time.Minute, nil)
		deadline, tick := time.After(time.Minute), time.NewTicker(10*time.Millisecond)
		defer tick.Stop()
		for blocked := 0; blocked < conns; {
			err := onlooker.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&blocked)
			if err != nil {
				t.Fatal(err)
			}
			select {
			case <-tick.C:
			case <-deadline:
				t.Fatalf("%d calls wait for the lock", blocked)
			}
		}
		end()
	}
	all() // makes the connections
	before := dialed.Load()
	if err := s.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	end := ask(1, 300*time.Millisecond, context.DeadlineExceeded)
	waiting.Wait()
	end()
	all()
	// One replaces the connection of that query; others are for the cancellation of what it waited for.
	if n := dialed.Load() - before; n > 3 {
		t.Errorf("%d connections were made anew after one query whose time was up", n)
	}
}
