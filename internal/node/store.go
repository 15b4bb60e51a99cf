package node

import (
	"context"
	"errors"
	"net/url"
	"path/filepath"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/health"
	"github.com/esh3artech/esh3ar/internal/journal"
	"github.com/esh3artech/esh3ar/internal/store"
	"github.com/esh3artech/esh3ar/internal/store/breaker"
	"github.com/esh3artech/esh3ar/internal/store/migration"
	"github.com/esh3artech/esh3ar/internal/store/postgres"
	"github.com/esh3artech/esh3ar/internal/store/sqlite"
)

// storeFile is the embedded store's file in the data directory.
const storeFile = "esh3ar.db"

// sqlitePath returns the file of the embedded store, "" if the store is PostgreSQL.
func (c *Config) sqlitePath() string {
	if c.Store == "" {
		return filepath.Join(c.Data, storeFile)
	}
	u, err := url.Parse(string(c.Store))
	if err != nil || u.Scheme != "sqlite" {
		return ""
	}
	if u.Opaque != "" {
		return u.Opaque
	}
	return u.Host + u.Path
}

// openStore opens the configured store and brings its schema up to date. Cache bounds the page cache of the
// embedded store, in bytes; 0 leaves it to the store.
func openStore(ctx context.Context, c *Config, cache int) (store.Store, error) {
	// A nil pointer must not become a store that is not nil.
	if path := c.sqlitePath(); path != "" {
		s, err := sqlite.Open(ctx, path, sqlite.Options{CacheBytes: cache})
		if err != nil {
			return nil, err
		}
		return s, nil
	}
	s, err := postgres.Open(ctx, string(c.Store), postgres.Options{})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// storeMayCome reports whether an error of openStore may pass by itself. A file is there or is not.
func storeMayCome(err error) bool {
	return postgres.Unreachable(err) && !errors.Is(err, sqlite.ErrInUse)
}

// mayPass reports whether what hinders a store's opening may pass by itself: the store, or the journal that it is compared
// with, does not answer, or the journal is full.
func mayPass(err error) bool {
	return storeMayCome(err) || errors.Is(err, journal.ErrUnavailable) || errors.Is(err, journal.ErrUnknown) || errors.Is(err, journal.ErrFull)
}

// checkStore says how the store answers this node. Accepting goes on without it, if anybody is known.
func (n *Node) checkStore(ctx context.Context) error {
	err := n.store.Ping(ctx)
	away := n.peers != nil && n.peers.members.StoreAway()
	if err == nil && !away {
		return nil
	}
	absent := errors.Is(err, breaker.ErrAbsent)
	var why string
	switch _, vain := n.store.Commits(); {
	case err == nil && !vain.IsZero():
		why = "the database takes none of this node's commits"
	case err == nil:
		return health.Degrade(esh3ar.Errorf(esh3ar.KindUnavailable, "store_unavailable",
			"the database answers again; this node takes its share of the shards when it has done so for a while"))
	case absent:
		why = "the message store has not answered since the start"
	case n.cfg.sqlitePath() != "":
		return health.Degrade(err)
	default:
		why = postgres.Trouble(err)
	}
	if away {
		why += "; it answers other nodes, which serve this node's shards"
	}
	err = esh3ar.Errorf(esh3ar.KindUnavailable, "store_unavailable", "%s", why).Because(err)
	if absent && !n.keys.usable() {
		return err
	}
	return health.Degrade(err)
}

// Migrate brings the schema of the configured store up to date, which a start does by itself.
func Migrate(ctx context.Context, c Config) error {
	if path := c.sqlitePath(); path != "" {
		return sqlite.Migrate(ctx, path)
	}
	return postgres.Migrate(ctx, string(c.Store))
}

// Migrations returns the steps of the configured store's schema and which of them it has.
func Migrations(ctx context.Context, c Config) ([]migration.Migration, error) {
	if path := c.sqlitePath(); path != "" {
		return sqlite.Migrations(ctx, path)
	}
	return postgres.Migrations(ctx, string(c.Store))
}
