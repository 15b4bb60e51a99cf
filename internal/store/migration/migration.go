// Package migration brings a store's database to the schema that this version needs, by versioned SQL
// files that the backends embed.
package migration

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/pressly/goose/v3"
)

// Migration is one step of the schema.
type Migration struct {
	Version int64
	// Name is the file's.
	Name string
	// AppliedAt is zero while the step is pending.
	AppliedAt time.Time
}

// Set is a database and the migrations that belong to it. Close does not close the database.
type Set struct {
	provider *goose.Provider
}

// New returns the set of *.sql files at the root of files. The options are for what one dialect alone
// needs, such as a lock against other nodes that migrate at the same time.
func New(dialect goose.Dialect, db *sql.DB, files fs.FS, opts ...goose.ProviderOption) (*Set, error) {
	p, err := goose.NewProvider(dialect, db, files, append(opts, goose.WithDisableGlobalRegistry(true))...)
	if err != nil {
		return nil, fmt.Errorf("store: read migrations: %w", err)
	}
	return &Set{provider: p}, nil
}

// ErrNewer means that a newer version of the program has changed the schema.
var ErrNewer = errors.New("store: the database's schema is newer than this version of the program")

// Up applies what is pending, in order, each file in a transaction of its own. Errors: ErrNewer, and what the
// database says.
func (s *Set) Up(ctx context.Context) error {
	if _, err := s.provider.Up(ctx); err != nil {
		return fmt.Errorf("store: migrate: %w", err)
	}
	has, knows, err := s.provider.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("store: ask for the schema's version: %w", err)
	}
	if has > knows {
		return fmt.Errorf("%w: it is %d, and this version knows %d", ErrNewer, has, knows)
	}
	return nil
}

// Pending reports whether Up has something to do.
func (s *Set) Pending(ctx context.Context) (bool, error) {
	pending, err := s.provider.HasPending(ctx)
	if err != nil {
		return false, fmt.Errorf("store: look for pending migrations: %w", err)
	}
	return pending, nil
}

// Status returns all migrations, lowest version first.
func (s *Set) Status(ctx context.Context) ([]Migration, error) {
	status, err := s.provider.Status(ctx)
	if err != nil {
		return nil, fmt.Errorf("store: migration status: %w", err)
	}
	list := make([]Migration, 0, len(status))
	for _, st := range status {
		m := Migration{Version: st.Source.Version, Name: st.Source.Path}
		if st.State == goose.StateApplied {
			m.AppliedAt = st.AppliedAt
		}
		list = append(list, m)
	}
	return list, nil
}
