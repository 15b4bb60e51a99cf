// Package sqlite keeps the message store in one SQLite file: the embedded backend.
//
// One goroutine, the writer, owns the only connection that writes. It gathers the writes that wait
// for it into one transaction, so that several shards share the cost of a sync, and answers each
// caller when the transaction is on disk (WAL, synchronous=FULL). Reads go through a small pool of
// connections and are never blocked by writes.
package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path/filepath"
	"time"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"

	"github.com/esh3artech/esh3ar/internal/store"
	"github.com/esh3artech/esh3ar/internal/store/migration"
)

// Options tune a Store. The zero value is what production uses.
type Options struct {
	// Readers is the number of connections for reading, 4 if zero.
	Readers int
	// CacheBytes is the writer's page cache, 64 MiB if zero. Readers have a quarter of it each.
	CacheBytes int
	// BusyTimeout is how long to wait for another process that has the file locked, 5 s if zero.
	BusyTimeout time.Duration
	// IndexRows is how many messages the index of recipients may be behind, 65,536 if zero. A start
	// reads about as many again.
	IndexRows int
	// AtStep, if set, is called before each step of a commit's transaction. An error from it fails
	// the commit there. It is for tests.
	AtStep func(store.Step) error
}

// Store is the SQLite store. Its methods are safe for concurrent use.
type Store struct {
	writer     *writer
	checkpoint *checkpointer
	recipients *recipientIndex
	reads      *sql.DB
	read       readStatements
	unlock     func() error
}

var (
	_ store.Store        = (*Store)(nil)
	_ store.Pruner       = (*Store)(nil)
	_ store.RejectReader = (*Store)(nil)
)

// ErrInUse means that another process, or another Store of this one, has the file open.
var ErrInUse = errors.New("the store is in use")

//go:embed migrations/*.sql
var embedded embed.FS

// Open opens the database file, creates it if there is none, and brings its schema up to date. The
// directory must exist. One Store at a time may have it open (ErrInUse).
func Open(ctx context.Context, path string, opts Options) (*Store, error) {
	if opts.Readers == 0 {
		opts.Readers = 4
	}
	if opts.CacheBytes == 0 {
		opts.CacheBytes = 64 << 20
	}
	if opts.IndexRows == 0 {
		opts.IndexRows = 64 << 10
	}
	if opts.BusyTimeout == 0 {
		opts.BusyTimeout = 5 * time.Second
	}
	// fdatasync is as durable as fsync for a file's content and spares the file system a journal
	// commit for the time stamps. Where there is none the driver keeps to fsync.
	if _, err := sqlite.Fdatasync(true); err != nil && !errors.Is(err, sqlite.ErrFdatasyncUnavailable) {
		return nil, fmt.Errorf("store: choose fdatasync: %w", err)
	}
	unlock, err := lockFile(path)
	if err != nil {
		return nil, err
	}
	s := &Store{unlock: unlock}
	if err := s.open(ctx, path, opts); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Store) open(ctx context.Context, path string, opts Options) (err error) {
	if err := Migrate(ctx, path); err != nil {
		return err
	}
	if s.writer, err = newWriter(ctx, path, opts); err != nil {
		return err
	}
	if s.reads, err = openPool(path, opts.Readers,
		"query_only(1)",
		fmt.Sprintf("busy_timeout(%d)", opts.BusyTimeout.Milliseconds()),
		fmt.Sprintf("cache_size(%d)", -opts.CacheBytes/4>>10),
	); err != nil {
		return err
	}
	if err := s.read.prepare(ctx, s.reads); err != nil {
		return err
	}
	if s.recipients, err = newRecipientIndex(ctx, s.writer, s.reads, opts.IndexRows); err != nil {
		return err
	}
	s.writer.onInsert = s.recipients.add
	s.writer.start()
	s.checkpoint, err = newCheckpointer(ctx, path, s.writer)
	return err
}

// Close ends the work behind the commits first, because it is the writer's caller, then the writer
// after the transaction under way, and at last the connections and the lock.
func (s *Store) Close() error {
	var err error
	if s.recipients != nil {
		s.recipients.close()
	}
	if s.checkpoint != nil {
		err = s.checkpoint.close()
	}
	if s.reads != nil {
		err = errors.Join(err, s.reads.Close())
	}
	if s.writer != nil {
		err = errors.Join(err, s.writer.close())
	}
	return errors.Join(err, s.unlock())
}

// Ping implements store.Store. It asks the database by reading, so that a full disk does not hide
// what can still be read.
func (s *Store) Ping(ctx context.Context) error {
	var n int
	return classify(s.reads.QueryRowContext(ctx, `SELECT count(*) FROM (SELECT 1 FROM shard LIMIT 1)`).Scan(&n))
}

// Migrate brings the schema of the database file up to date. Open does it by itself.
func Migrate(ctx context.Context, path string) error {
	return migrate(path, func(set *migration.Set) error { return set.Up(ctx) })
}

// Migrations returns the schema's migrations and which of them the database file has.
func Migrations(ctx context.Context, path string) (list []migration.Migration, err error) {
	err = migrate(path, func(set *migration.Set) error {
		list, err = set.Status(ctx)
		return err
	})
	return list, err
}

func migrate(path string, do func(*migration.Set) error) (err error) {
	// A file that is not in WAL mode yet becomes so here, before anybody else has it open.
	db, err := openPool(path, 1, "busy_timeout(5000)", "journal_mode(WAL)", "synchronous(FULL)")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	files, err := fs.Sub(embedded, "migrations")
	if err != nil {
		return err
	}
	set, err := migration.New(goose.DialectSQLite3, db, files)
	if err != nil {
		return err
	}
	return do(set)
}

// dsn returns the driver's name for the file with these pragmas set on each connection. Transactions
// take the right to write at once, so that none fails for it later.
func dsn(path string, pragmas ...string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("store: %w", err)
	}
	u := url.URL{Scheme: "file", Path: filepath.ToSlash(abs), RawQuery: url.Values{"_pragma": pragmas, "_txlock": {"immediate"}}.Encode()}
	return u.String(), nil
}

func openPool(path string, size int, pragmas ...string) (*sql.DB, error) {
	name, err := dsn(path, pragmas...)
	if err != nil {
		return nil, err
	}
	c, err := sqlite.NewConnector(name)
	if err != nil {
		return nil, fmt.Errorf("store: open %s: %w", path, err)
	}
	db := sql.OpenDB(c)
	db.SetMaxOpenConns(size)
	db.SetMaxIdleConns(size)
	return db, nil
}
