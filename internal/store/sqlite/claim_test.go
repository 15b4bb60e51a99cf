package sqlite_test

import (
	"database/sql"
	"path/filepath"
	"testing"

	"github.com/esh3artech/esh3ar/internal/store"
	"github.com/esh3artech/esh3ar/internal/store/sqlite"
	"github.com/esh3artech/esh3ar/internal/store/storetest"
)

func TestLostClaim(t *testing.T) {
	storetest.RunLostClaim(t, func(t *testing.T) (store.Store, *sql.DB) {
		path := filepath.Join(t.TempDir(), "store.db")
		s := openFile(t, path, sqlite.Options{})
		db, err := sql.Open("sqlite", "file:"+filepath.ToSlash(path)+"?_pragma=busy_timeout(10000)")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		return s, db
	})
}
