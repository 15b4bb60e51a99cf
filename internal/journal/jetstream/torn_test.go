package jetstream_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar/internal/journal"
	"github.com/esh3artech/esh3ar/internal/journal/jetstream"
)

// TestTornTail opens journals whose last block file was damaged behind what had
// been acknowledged, as a power cut may leave it: cut off at any byte, or with
// zeros or rubbish where the file system had not written the data yet. What was
// acknowledged is there, what lies behind is there or gone as whole entries,
// and the next entries follow.
func TestTornTail(t *testing.T) {
	const acknowledged, tail = 20, 3
	entry := func(n int) []byte { return bytes.Repeat([]byte{byte('a' + n)}, 40+n) }
	p := journal.Partition{}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	// The directory of a killed process: the server has had no time to write
	// more than it does for each entry.
	master, killed := t.TempDir(), t.TempDir()
	l := mustOpenIn(t, master, jetstream.Options{Shards: 1})
	var from int64
	for n := range acknowledged + tail {
		if n == acknowledged {
			from = size(t, blockFile(t, master))
		}
		if _, err := l.Append(ctx, p, entry(n)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.CopyFS(killed, os.DirFS(master)); err != nil {
		t.Fatal(err)
	}
	to := size(t, blockFile(t, killed))

	damages := map[string]func(f *os.File, at int64) error{
		"cut off": func(f *os.File, at int64) error { return f.Truncate(at) },
		"zeros": func(f *os.File, at int64) error {
			_, err := f.WriteAt(make([]byte, to-at), at)
			return err
		},
		"rubbish": func(f *os.File, at int64) error {
			_, err := f.WriteAt(bytes.Repeat([]byte{0xA5}, int(to-at)), at)
			return err
		},
	}
	for name, damage := range damages {
		for at := from; at <= to; at += 13 {
			t.Run(fmt.Sprintf("%s/%d", name, at-from), func(t *testing.T) {
				dir := t.TempDir()
				if err := os.CopyFS(dir, os.DirFS(killed)); err != nil {
					t.Fatal(err)
				}
				f, err := os.OpenFile(blockFile(t, dir), os.O_RDWR, 0)
				if err != nil {
					t.Fatal(err)
				}
				if err := damage(f, at); err != nil {
					t.Fatal(err)
				}
				if err := f.Close(); err != nil {
					t.Fatal(err)
				}
				l := mustOpenIn(t, dir, jetstream.Options{Shards: 1})
				check := func(entries []journal.Entry) {
					t.Helper()
					for n, e := range entries {
						if e.Seq != uint64(n+1) || !bytes.Equal(e.Data, entry(n)) {
							t.Fatalf("entry %d: %d %.10q", n, e.Seq, e.Data)
						}
					}
				}
				entries := allEntries(t, l, p)
				if len(entries) < acknowledged {
					t.Fatalf("%d entries, %d were acknowledged", len(entries), acknowledged)
				}
				check(entries)
				for n := len(entries); n < acknowledged+tail+5; n++ {
					if seq, err := l.Append(ctx, p, entry(n)); err != nil || seq != uint64(n+1) {
						t.Fatalf("append: sequence %d, error %v; want %d", seq, err, n+1)
					}
				}
				check(allEntries(t, l, p))
			})
		}
	}
}

// blockFile is the only block file of the only stream in the directory.
func blockFile(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "jetstream", "*", "streams", "*", "msgs", "*.blk"))
	if err != nil || len(files) != 1 {
		t.Fatalf("block files %q, error %v; want one", files, err)
	}
	return files[0]
}

func size(t *testing.T, file string) int64 {
	t.Helper()
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}
