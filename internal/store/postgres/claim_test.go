package postgres_test

import (
	"database/sql"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/esh3artech/esh3ar/internal/store"
	"github.com/esh3artech/esh3ar/internal/store/postgres"
	"github.com/esh3artech/esh3ar/internal/store/storetest"
)

func TestLostClaim(t *testing.T) {
	storetest.RunLostClaim(t, func(t *testing.T) (store.Store, *sql.DB) {
		url := server.Database(t)
		s := openURL(t, url, postgres.Options{})
		db, err := sql.Open("pgx", url)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		return s, db
	})
}
