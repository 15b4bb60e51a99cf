package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/esh3artech/esh3ar/internal/store"
	"github.com/esh3artech/esh3ar/internal/store/postgres"
)

// connect returns a connection of the test's own.
func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func exec(t *testing.T, conn *pgx.Conn, query string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), query); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

// passes fails the test unless err has that code and is worth a retry.
func passes(t *testing.T, err error, code string) {
	t.Helper()
	e, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || e.Code != code {
		t.Errorf("got error %v, want one with code %s", err, code)
	}
	if errors.Is(err, store.ErrPermanent) || errors.Is(err, store.ErrNotOwner) || errors.Is(err, store.ErrNotFound) {
		t.Errorf("error %v, want one that is worth a retry", err)
	}
}

// TestServersTroubles has a real server refuse commits for reasons of its own. None of them is the message's
// fault, and when the reason is gone the same commit succeeds.
func TestServersTroubles(t *testing.T) {
	t.Run("connection ended by the administrator", func(t *testing.T) {
		url := server.Database(t)
		c, conn := newCommitter(t, openURL(t, url, postgres.Options{})), connect(t, url)
		exec(t, conn, `BEGIN; UPDATE shard SET event = event WHERE shard = 1`)
		err := during(t, conn, c, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE `+waiting)
		passes(t, err, "57P01")
		exec(t, conn, `ROLLBACK`)
		if err := c.commit(time.Minute); err != nil {
			t.Error(err)
		}
	})
	t.Run("query cancelled", func(t *testing.T) {
		url := server.Database(t)
		c, conn := newCommitter(t, openURL(t, url, postgres.Options{})), connect(t, url)
		exec(t, conn, `BEGIN; UPDATE shard SET event = event WHERE shard = 1`)
		passes(t, during(t, conn, c, `SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE `+waiting), "57014")
		exec(t, conn, `ROLLBACK`)
		if err := c.commit(time.Minute); err != nil {
			t.Error(err)
		}
	})
	t.Run("not serializable", func(t *testing.T) {
		url := server.Database(t)
		c := newCommitter(t, openURL(t, url+"&default_transaction_isolation=repeatable%20read", postgres.Options{}))
		conn := connect(t, url)
		exec(t, conn, `BEGIN; UPDATE shard SET event = event WHERE shard = 1`)
		passes(t, during(t, conn, c, `COMMIT`), "40001")
		if err := c.commit(time.Minute); err != nil {
			t.Error(err)
		}
	})
	t.Run("lock not available", func(t *testing.T) {
		url := server.Database(t)
		c, conn := newCommitter(t, openURL(t, url+"&lock_timeout=50", postgres.Options{})), connect(t, url)
		exec(t, conn, `BEGIN; UPDATE shard SET event = event WHERE shard = 1`)
		passes(t, c.commit(time.Minute), "55P03")
		exec(t, conn, `ROLLBACK`)
		if err := c.commit(time.Minute); err != nil {
			t.Error(err)
		}
	})
	t.Run("too many connections", func(t *testing.T) {
		url := server.Database(t)
		conn := connect(t, url)
		exec(t, conn, `CREATE ROLE few LOGIN`)
		t.Cleanup(func() {
			if _, err := conn.Exec(context.Background(), `DROP OWNED BY few; DROP ROLE few`); err != nil {
				t.Error(err)
			}
		})
		exec(t, conn, `ALTER DATABASE `+conn.Config().Database+` OWNER TO few; GRANT ALL ON SCHEMA public TO few`)
		t.Cleanup(func() {
			if _, err := conn.Exec(context.Background(), `ALTER DATABASE `+conn.Config().Database+` OWNER TO CURRENT_USER`); err != nil {
				t.Error(err)
			}
		})
		few := strings.Replace(url, "postgres://"+conn.Config().User, "postgres://few", 1)
		s, err := postgres.Open(t.Context(), few, postgres.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		c := newCommitter(t, s)
		exec(t, conn, `ALTER ROLE few CONNECTION LIMIT 0`)
		exec(t, conn, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'few'`)
		c.until(false)
		err = c.commit(time.Minute)
		passes(t, err, "53300")
		if !postgres.Unreachable(err) {
			t.Errorf("%v does not count as a server that is not there", err)
		}
		exec(t, conn, `ALTER ROLE few CONNECTION LIMIT -1`)
		c.until(true)
	})
}

// waiting is a condition for the backend of a commit that waits for a lock.
const waiting = `wait_event_type = 'Lock' AND datname = current_database()`

// during commits, and executes a query once the commit waits for a lock.
func during(t *testing.T, conn *pgx.Conn, c *committer, query string) error {
	t.Helper()
	done := held(t, conn, c)
	exec(t, conn, query)
	return <-done
}

// held begins a commit, returns once it waits for a lock, and says then how it ends.
func held(t *testing.T, conn *pgx.Conn, c *committer) <-chan error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- c.commit(time.Minute) }()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for waits := false; !waits; {
		select {
		case <-tick.C:
			// The statistics that a transaction has seen do not change for it.
			exec(t, conn, `SELECT pg_stat_clear_snapshot()`)
			if err := conn.QueryRow(t.Context(), `SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE `+waiting+`)`).Scan(&waits); err != nil {
				t.Fatal(err)
			}
		case err := <-done:
			t.Fatalf("the commit did not wait: %v", err)
		}
	}
	return done
}

// TestReadOnlyLater has a server turn read-only under its connections, as a primary that was demoted does.
func TestReadOnlyLater(t *testing.T) {
	url := startServer(t).URL("postgres")
	c, conn := newCommitter(t, openURL(t, url, postgres.Options{})), connect(t, url)
	exec(t, conn, `ALTER SYSTEM SET default_transaction_read_only = on`)
	exec(t, conn, `SELECT pg_reload_conf()`)
	c.until(false)
	exec(t, conn, `SET transaction_read_only = off`)
	exec(t, conn, `ALTER SYSTEM RESET default_transaction_read_only`)
	exec(t, conn, `SELECT pg_reload_conf()`)
	c.until(true)
	c.check()
}

// TestServersCodes has the server say what is hard to bring about: full disks, no memory, broken hardware.
func TestServersCodes(t *testing.T) {
	url := server.Database(t)
	c, conn := newCommitter(t, openURL(t, url, postgres.Options{})), connect(t, url)
	for _, code := range []string{
		"53100", // disk full
		"53200", // out of memory
		"58030", // I/O error
		"40P01", // deadlock
		"54000", // a limit of the server: no transactions before a vacuum
		"XX001", // data corrupted
		"42501", // privilege missing
	} {
		exec(t, conn, fmt.Sprintf(`CREATE OR REPLACE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
			$$ BEGIN RAISE EXCEPTION USING ERRCODE = '%s', MESSAGE = 'trouble'; END $$`, code))
		exec(t, conn, `CREATE TRIGGER fail BEFORE INSERT ON event EXECUTE FUNCTION fail()`)
		passes(t, c.commit(time.Minute), code)
		exec(t, conn, `DROP TRIGGER fail ON event`)
		if err := c.commit(time.Minute); err != nil {
			t.Errorf("after %s: %v", code, err)
		}
	}
	c.check()
}
