package memory_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/esh3artech/esh3ar/internal/journal"
	"github.com/esh3artech/esh3ar/internal/journal/journaltest"
	"github.com/esh3artech/esh3ar/internal/journal/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	journaltest.Run(t, func(*testing.T) journaltest.Harness {
		disk := new(memory.Disk)
		return journaltest.Harness{Open: func(t testing.TB, o journaltest.Options) journal.Log {
			l, err := memory.Open(disk, memory.Options{Shards: o.Shards, MaxBytes: o.MaxBytes})
			if err != nil {
				t.Fatal(err)
			}
			return l
		}}
	})
}
