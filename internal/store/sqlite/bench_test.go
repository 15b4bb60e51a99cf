package sqlite_test

import (
	"testing"

	"github.com/esh3artech/esh3ar/internal/store"
	"github.com/esh3artech/esh3ar/internal/store/sqlite"
	"github.com/esh3artech/esh3ar/internal/store/storetest"
)

// BenchmarkStore stores messages in durable commits of 500. Enough of them, such as -benchtime
// 500000x, show the checkpoints too.
func BenchmarkStore(b *testing.B) {
	storetest.Bench(b, func(b *testing.B) store.Store { return open(b, sqlite.Options{}) })
}
