package postgres_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/esh3artech/esh3ar/internal/store/postgres"
)

// TestUpgradeDuringADump: while something reads the table that an upgrade changes, as pg_dump does, the upgrade gives way to the
// nodes that run, and succeeds when it is tried again afterwards.
func TestUpgradeDuringADump(t *testing.T) {
	t.Parallel()
	url := server.Database(t)
	if err := postgres.Migrate(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	connect := func() *pgx.Conn {
		conn, err := pgx.Connect(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close(context.Background()) })
		return conn
	}
	running, dumping, onlooker := connect(), connect(), connect()
	// As the version before left it.
	if _, err := running.Exec(t.Context(), `
		INSERT INTO shard (shard, epoch) VALUES (1, 1);
		ALTER TABLE shard DROP COLUMN token;
		DELETE FROM goose_db_version WHERE version_id >= 8`); err != nil {
		t.Fatal(err)
	}
	dump, err := dumping.Begin(t.Context())
	if err == nil {
		_, err = dump.Exec(t.Context(), `LOCK TABLE shard IN ACCESS SHARE MODE`)
	}
	if err != nil {
		t.Fatal(err)
	}

	upgraded := make(chan error, 1)
	go func() { upgraded <- postgres.Migrate(t.Context(), url) }()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for waits := false; !waits; <-tick.C {
		if err := onlooker.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM pg_locks
			WHERE relation = 'shard'::regclass AND mode = 'AccessExclusiveLock' AND NOT granted)`).Scan(&waits); err != nil {
			t.Fatal(err)
		}
	}
	// Far more than the upgrade waits, for a busy machine.
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := running.Exec(ctx, `UPDATE shard SET epoch = epoch WHERE shard = 1`); err != nil {
		t.Fatal("a commit behind the upgrade:", err)
	}
	err = <-upgraded
	if e, ok := errors.AsType[*pgconn.PgError](err); !ok || e.Code != "55P03" || !postgres.Unreachable(err) {
		t.Errorf("the upgrade during a dump ended with %v, and is not one to be tried again", err)
	}

	if err := dump.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := postgres.Migrate(t.Context(), url); err != nil {
		t.Error("the upgrade after the dump:", err)
	}
}
