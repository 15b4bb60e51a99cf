package postgres_test

import (
	"database/sql"
	"fmt"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/esh3artech/esh3ar/internal/store"
	"github.com/esh3artech/esh3ar/internal/store/postgres"
	"github.com/esh3artech/esh3ar/internal/store/storetest"
)

func TestMigrateClients(t *testing.T) {
	url := server.Database(t)
	db, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	blob := func(b []byte) string { return fmt.Sprintf(`'\x%x'`, b) }
	storetest.RunMigrateClients(t, goose.DialectPostgres, db, blob, func(v bool) string { return fmt.Sprint(v) }, func() store.Store {
		return openURL(t, url, postgres.Options{})
	})
}
