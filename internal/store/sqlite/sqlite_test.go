package sqlite_test

import (
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
	"github.com/esh3artech/esh3ar/internal/store/sqlite"
	"github.com/esh3artech/esh3ar/internal/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open returns a fresh store that is closed when the test ends.
func open(t testing.TB, opts sqlite.Options) *sqlite.Store {
	t.Helper()
	return openFile(t, filepath.Join(t.TempDir(), "store.db"), opts)
}

func openFile(t testing.TB, path string, opts sqlite.Options) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), path, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return open(t, sqlite.Options{}) })
}

// TestConformanceWhileIndexing has the index of recipients merged behind almost every commit.
func TestConformanceWhileIndexing(t *testing.T) {
	storetest.RunMessages(t, func(t *testing.T) store.Store { return open(t, sqlite.Options{IndexRows: 7}) })
}

// TestReopen finds everything again, indexed or not.
func TestReopen(t *testing.T) {
	for _, rows := range []int{1 << 20, 1, 40} {
		path := filepath.Join(t.TempDir(), "store.db")
		changes := storetest.Deliverable(1, 100, true)
		for i := range changes {
			changes[i].Message.To = "r"
		}
		for i := range 4 {
			s, err := sqlite.Open(t.Context(), path, sqlite.Options{IndexRows: rows})
			if err != nil {
				t.Fatal(err)
			}
			claim, err := s.Claim(t.Context(), 1)
			if err != nil {
				t.Fatal(err)
			}
			b := &store.Batch{Shard: 1, Epoch: claim.Epoch, At: time.Now(), Changes: changes[i*25 : i*25+25]}
			if err := s.Commit(t.Context(), b); err != nil {
				t.Fatal(err)
			}
			page, err := s.Messages(t.Context(), store.Query{Client: "client-1", To: "r", Limit: 1000})
			if err != nil {
				t.Fatal(err)
			}
			if want := 25 * (i + 1); len(page.Rows) != want {
				t.Fatalf("after opening %d times %d rows are listed, want %d", i+1, len(page.Rows), want)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestInUse keeps a second store from the file, and lets the next one have it.
func TestInUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s := openFile(t, path, sqlite.Options{})
	if _, err := sqlite.Open(t.Context(), path, sqlite.Options{}); !errors.Is(err, sqlite.ErrInUse) {
		t.Fatalf("a second store: got error %v, want ErrInUse", err)
	}
	if err := s.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	list, err := sqlite.Migrations(t.Context(), path)
	if err != nil || len(list) == 0 || list[0].AppliedAt.IsZero() {
		t.Fatalf("migrations of an open store: %+v, error %v", list, err)
	}
}

var errCut = errors.New("cut")

// TestRollback fails each step of a commit with an error.
func TestRollback(t *testing.T) {
	storetest.RunCuts(t, func(t *testing.T, atStep func(store.Step) error) storetest.Crash {
		s := open(t, sqlite.Options{AtStep: atStep})
		return storetest.Crash{
			Store:  s,
			Cut:    func() error { return errCut },
			Reopen: func(*testing.T) store.Store { return s },
		}
	})
}

// TestKill takes the files as they are at each step of a commit, which is what a killed process
// leaves, and opens those.
func TestKill(t *testing.T) {
	storetest.RunCuts(t, func(t *testing.T, atStep func(store.Step) error) storetest.Crash {
		path := filepath.Join(t.TempDir(), "store.db")
		left := filepath.Join(t.TempDir(), "store.db")
		return storetest.Crash{
			Store: openFile(t, path, sqlite.Options{AtStep: atStep}),
			Cut: func() error {
				copyFiles(t, path, left)
				return errCut
			},
			Reopen: func(t *testing.T) store.Store { return openFile(t, left, sqlite.Options{}) },
		}
	})
}

// copyFiles copies a database and its log.
func copyFiles(t testing.TB, from, to string) {
	t.Helper()
	for _, suffix := range []string{"", "-wal"} {
		b, err := os.ReadFile(from + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to+suffix, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTornLog cuts the write-ahead log at many lengths within the last commit, which is what a power
// cut may leave: the commit before it is whole, and of it there is all or nothing.
func TestTornLog(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "store.db")
	s := openFile(t, path, sqlite.Options{})
	claim, err := s.Claim(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	size := make([]int64, 2)
	batches := make([]*store.Batch, 2)
	for i := range batches {
		b := &store.Batch{Shard: 1, Epoch: claim.Epoch, At: time.Now(), Positions: [esh3ar.Tiers]uint64{uint64(i + 1)}}
		b.Changes = storetest.Deliverable(1, 50, true)
		if err := s.Commit(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path + "-wal")
		if err != nil {
			t.Fatal(err)
		}
		size[i], batches[i] = info.Size(), b
	}
	count := func(s *sqlite.Store, b *store.Batch) int {
		ids := make([]esh3ar.ID, len(b.Changes))
		for i := range b.Changes {
			ids[i] = b.Changes[i].Message.ID
		}
		rows, err := s.Rows(t.Context(), 1, ids)
		if err != nil {
			t.Fatal(err)
		}
		return len(rows)
	}
	whole := 0
	for i := range int64(30) {
		length := size[0] + (size[1]-size[0])*i/29 - (29-i)%3*500
		torn := filepath.Join(t.TempDir(), "store.db")
		copyFiles(t, path, torn)
		if err := os.Truncate(torn+"-wal", length); err != nil {
			t.Fatal(err)
		}
		s, err := sqlite.Open(t.Context(), torn, sqlite.Options{})
		if err != nil {
			t.Fatalf("log of %d of %d bytes: %v", length, size[1], err)
		}
		claim, err := s.Claim(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		first, second := count(s, batches[0]), count(s, batches[1])
		if first != 0 && first != 50 || length >= size[0] && first != 50 || second != 0 && second != 50 ||
			int(claim.Positions[0]) != (first+second)/50 {
			t.Errorf("log of %d of %d bytes: %d and %d rows at position %d", length, size[1], first, second, claim.Positions[0])
		}
		whole += second / 50
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if whole == 0 {
		t.Error("the whole log shows nothing of the last commit")
	}
}

func TestPoison(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s := openFile(t, path, sqlite.Options{})
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(`CREATE TRIGGER poison BEFORE INSERT ON message WHEN NEW.recipient = '` + storetest.Poison + `'
		BEGIN SELECT RAISE (ABORT, 'refused'); END`); err != nil {
		t.Fatal(err)
	}
	storetest.RunPoison(t, s)
}

// TestLogStaysShort writes without a pause: the log is copied and begun anew all the same.
func TestLogStaysShort(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s := openFile(t, path, sqlite.Options{})
	claim, err := s.Claim(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	b := &store.Batch{Shard: 1, Epoch: claim.Epoch}
	for part := range slices.Chunk(storetest.Deliverable(1, 60_000, false), 500) {
		b.Changes, b.At = part, time.Now()
		if err := s.Commit(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	log, err := os.Stat(path + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if log.Size() > data.Size() {
		t.Errorf("the log has %d bytes beside %d of data", log.Size(), data.Size())
	}
}
