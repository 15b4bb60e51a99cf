// Package postgres keeps the message store in PostgreSQL: the backend for production and clusters.
//
// A commit takes two round trips: the first locks the shard's row and looks up what is known of the
// batch's messages, the second writes everything and commits. Statements take whole columns as
// arrays, so that hundreds of rows cost one statement.
package postgres

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"github.com/esh3artech/esh3ar/internal/store"
	"github.com/esh3artech/esh3ar/internal/store/migration"
)

// Options tune a Store. The zero value is what production uses.
type Options struct {
	// Conns is the largest number of connections, 16 if zero. Each shard of this node needs one
	// while it commits; the rest serve reads.
	Conns int32
	// NoMigrate keeps Open from changing the schema: it fails if a migration is pending. For
	// deployments where the program may not.
	NoMigrate bool
	// Dial, if set, makes the network connections.
	Dial pgconn.DialFunc
}

// Store is the PostgreSQL store. Its methods are safe for concurrent use, also over several nodes.
type Store struct {
	pool *pgxpool.Pool
	days *days
	// keysForgotten is the time, in microseconds, before which keys are forgotten even if their day is kept.
	keysForgotten atomic.Int64
	// answered is when a call last had an answer, in nanoseconds.
	answered atomic.Int64
}

var (
	_ store.Store        = (*Store)(nil)
	_ store.Pruner       = (*Store)(nil)
	_ store.RejectReader = (*Store)(nil)
)

//go:embed migrations/*.sql
var embedded embed.FS

// connectTimeout bounds the making of a connection where the connection string does not. The pool makes
// them for itself, so that no caller's context would.
const connectTimeout = 5 * time.Second

// pingTimeout bounds the question whether a connection that was idle still answers, before it is used.
const pingTimeout = 2 * time.Second

// errReadOnly means that a server answers and takes no writes: it is a standby, or was made read-only.
var errReadOnly = errors.New("the server takes no writes: it is a standby or read-only")

// migrationWait is how long a node waits for another one that migrates.
const migrationWait = time.Hour

// settings of every connection, where the connection string does not say otherwise.
//
// All our queries find rows by an index, and few of them. The planner is told so, because statistics
// of tables that grow by the hour mislead it, and a plan made for an empty table is kept for long.
// A connection that holds a shard's row and falls silent gives it up, so that the next owner's claim
// does not wait for a dead node.
var settings = map[string]string{
	"application_name":                    "esh3ar",
	"enable_seqscan":                      "off",
	"enable_bitmapscan":                   "off",
	"enable_hashjoin":                     "off",
	"enable_mergejoin":                    "off",
	"jit":                                 "off",
	"plan_cache_mode":                     "force_generic_plan",
	"idle_in_transaction_session_timeout": "10s",
}

// Open connects to the database of a connection string (a URL or key=value pairs), brings its schema
// up to date and makes today's partitions. Of several hosts in it the first that takes writes is connected
// to, whatever its target_session_attrs are. Poolers that do not keep a session for
// a client, such as PgBouncer's transaction mode, will not do: statements are prepared by name.
func Open(ctx context.Context, url string, opts Options) (*Store, error) {
	if opts.Conns == 0 {
		opts.Conns = 16
	}
	config, err := configure(url, opts)
	if err != nil {
		return nil, err
	}
	if err := withMigrations(config.ConnConfig, func(set *migration.Set) error {
		if !opts.NoMigrate {
			return set.Up(ctx)
		}
		pending, err := set.Pending(ctx)
		if err == nil && pending {
			err = errors.New("store: the database needs a migration first")
		}
		return err
	}); err != nil {
		return nil, err
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	s := &Store{pool: pool, days: newDays(pool)}
	for _, table := range []partitioned{messages, keys} {
		if err := s.days.ensure(ctx, table, dayOf(time.Now().UnixMicro())); err != nil {
			pool.Close()
			return nil, fmt.Errorf("store: postgres: %w", err)
		}
	}
	return s, nil
}

func configure(url string, opts Options) (*pgxpool.Config, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("store: connection string: %w", err)
	}
	for k, v := range settings {
		if _, set := config.ConnConfig.RuntimeParams[k]; !set {
			config.ConnConfig.RuntimeParams[k] = v
		}
	}
	if config.ConnConfig.DialFunc = opts.Dial; opts.Dial == nil {
		// A machine that is gone says nothing, and the pool holds idle connections for long: this finds out
		// within about ten seconds.
		alive := net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3}
		config.ConnConfig.DialFunc = (&net.Dialer{KeepAliveConfig: alive}).DialContext
	}
	config.ConnConfig.ValidateConnect = takesWrites
	if config.ConnConfig.ConnectTimeout == 0 {
		config.ConnConfig.ConnectTimeout = connectTimeout
	}
	config.MaxConns = opts.Conns
	config.PingTimeout = pingTimeout
	config.AfterConnect = prepare
	return config, nil
}

// takesWrites is the condition for a connection: errReadOnly if its server takes no writes.
func takesWrites(ctx context.Context, conn *pgconn.PgConn) error {
	results, err := conn.Exec(ctx, "SHOW transaction_read_only").ReadAll()
	if err != nil {
		return err
	}
	if string(results[0].Rows[0][0]) == "on" {
		return errReadOnly
	}
	return nil
}

// closeTimeout bounds the closing of the connections. One whose query was given up waits for the server to
// hear of it; a server that hangs does not, and must not keep the process from ending.
const closeTimeout = time.Second

// Close implements store.Store. Connections that a server which hangs does not let go are left to the end
// of the process.
func (s *Store) Close() error {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		s.pool.Close()
	}()
	timer := time.NewTimer(closeTimeout)
	defer timer.Stop()
	select {
	case <-closed:
	case <-timer.C:
	}
	return nil
}

// pingSize is how much a ping sends and is sent back, in bytes: more than fits into any packet. A line that loses all long
// packets, because they are longer than its narrowest part takes and nobody is told, answers short questions as ever.
const pingSize = 16 << 10

// pingQuestion sends and is sent pingSize, and asks whether the server takes writes.
const pingQuestion = `SELECT repeat('.', length($1)), current_setting('transaction_read_only')`

// Ping implements store.Store.
func (s *Store) Ping(ctx context.Context) error {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", store.ErrBusy, err)
		}
		return s.classify(err)
	}
	defer conn.Release()
	r := conn.Conn().PgConn().ExecParams(ctx, pingQuestion, [][]byte{bytes.Repeat([]byte{'.'}, pingSize)}, []uint32{oidText}, nil, nil).Read()
	switch {
	case r.Err != nil:
		return s.classify(r.Err)
	case string(r.Rows[0][1]) == "on":
		// The other connections are to a server that takes no writes, too. New ones look for one that does.
		s.pool.Reset()
		return fmt.Errorf("store: postgres: %w", errReadOnly)
	}
	return s.classify(nil)
}

// Migrate brings the schema of a database up to date. Open does it by itself unless told not to.
// Several nodes may do it at the same time: one does the work, the others wait.
func Migrate(ctx context.Context, url string) error {
	return withURL(url, func(set *migration.Set) error { return set.Up(ctx) })
}

// Migrations returns the schema's migrations and which of them the database has.
func Migrations(ctx context.Context, url string) (list []migration.Migration, err error) {
	err = withURL(url, func(set *migration.Set) error {
		list, err = set.Status(ctx)
		return err
	})
	return list, err
}

func withURL(url string, do func(*migration.Set) error) error {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return fmt.Errorf("store: connection string: %w", err)
	}
	config.ValidateConnect = takesWrites
	return withMigrations(config, do)
}

func withMigrations(config *pgx.ConnConfig, do func(*migration.Set) error) (err error) {
	config = config.Copy()
	// A migration may be long in one transaction and may need any plan.
	for k := range settings {
		delete(config.RuntimeParams, k)
	}
	db := stdlib.OpenDB(*config)
	defer func() { err = errors.Join(err, db.Close()) }()
	files, err := fs.Sub(embedded, "migrations")
	if err != nil {
		return err
	}
	// Asked for once a second, for as long as a long migration of another node may take.
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, uint64(migrationWait/time.Second)))
	if err != nil {
		return fmt.Errorf("store: migration lock: %w", err)
	}
	set, err := migration.New(goose.DialectPostgres, db, files, goose.WithSessionLocker(locker))
	if err != nil {
		return err
	}
	return do(set)
}
