package pgtest_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/esh3artech/esh3ar/internal/store/postgres/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestLife takes a server through everything that tests do to it; what was committed stays.
func TestLife(t *testing.T) {
	s, err := pgtest.Start("max_connections=20")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	t.Run("server", func(t *testing.T) {
		url := s.Database(t)
		query := func(q string) (n int) {
			t.Helper()
			conn, err := pgx.Connect(t.Context(), url)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(context.Background())
			if err := conn.QueryRow(t.Context(), q).Scan(&n); err != nil {
				t.Fatal(err)
			}
			return n
		}
		query("WITH t AS (SELECT 1) SELECT count(*) FROM t")
		conn, err := pgx.Connect(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.Background())
		if _, err := conn.Exec(t.Context(), "CREATE TABLE kept AS SELECT 42 AS n"); err != nil {
			t.Fatal(err)
		}
		for name, end := range map[string]func() error{"stop": s.Stop, "kill": s.Kill} {
			if err := end(); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if err := conn.Ping(t.Context()); err == nil {
				t.Fatalf("%s: a connection survives", name)
			}
			if err := s.Resume(); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if n := query("SELECT n FROM kept"); n != 42 {
				t.Fatalf("%s: %d is left", name, n)
			}
		}
		if err := s.Freeze(); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if c, err := pgx.Connect(ctx, url); err == nil {
			c.Close(context.Background())
			t.Fatal("a frozen server answers")
		} else if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		if err := s.Thaw(); err != nil {
			t.Fatal(err)
		}
		query("SELECT n FROM kept")
	})
}
