package jetstream_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/esh3artech/esh3ar/internal/cluster"
	"github.com/esh3artech/esh3ar/internal/journal"
	"github.com/esh3artech/esh3ar/internal/journal/jetstream"
)

// smallDisk mounts a file system of the given size until the end of the test.
func smallDisk(t *testing.T, bytes int) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", bytes)); err != nil {
		t.Fatalf("this test mounts a small tmpfs, which takes root (or CAP_SYS_ADMIN): %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

// ballast fills the disk up to the last byte.
func ballast(t *testing.T, dir string) (remove func()) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "ballast"))
	if err != nil {
		t.Fatal(err)
	}
	for chunk := make([]byte, 1<<20); err == nil; {
		_, err = f.Write(chunk)
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(f.Name()); err != nil {
			t.Error(err)
		}
	}
}

// eventually calls f until it says true.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !f() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("gave up waiting: %s", what)
		}
	}
}

// wantEntries checks that the partition holds the entries with these sequences
// and contents, and perhaps others between.
func wantEntries(t *testing.T, l journal.Log, p journal.Partition, want map[uint64]string) {
	t.Helper()
	have := map[uint64]string{}
	for _, e := range allEntries(t, l, p) {
		have[e.Seq] = string(e.Data)
	}
	for seq, data := range want {
		if have[seq] != data {
			t.Errorf("acknowledged entry %d: %.20q, want %.20q", seq, have[seq], data)
		}
	}
}

func TestDiskReserve(t *testing.T) {
	const reserve = 24 << 20
	dir := smallDisk(t, 64<<20)
	l := mustOpenIn(t, dir, jetstream.Options{Shards: 1, DiskReserve: reserve})
	p := journal.Partition{}
	acknowledged := map[uint64]string{}
	for n := 0; ; n++ {
		data := fmt.Sprintf("%d %0*d", n, 256<<10, 0)
		seq, err := l.Append(t.Context(), p, []byte(data))
		if err != nil {
			if !errors.Is(err, journal.ErrFull) {
				t.Fatal(err)
			}
			break
		}
		acknowledged[seq] = data
	}
	if free, err := l.server.FreeBytes(); err != nil || free < reserve-1<<20 {
		t.Errorf("%d bytes free, error %v; the reserve is %d", free, err, reserve)
	}
	wantEntries(t, l, p, acknowledged)

	// It accepts again when there is space again.
	for seq := range acknowledged {
		if err := l.Purge(t.Context(), p, seq); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "append after a purge", func() bool {
		_, err := l.Append(t.Context(), p, []byte("small"))
		if err != nil && !errors.Is(err, journal.ErrFull) {
			t.Fatal(err)
		}
		return err == nil
	})
}

// unseeing is a server whose disk seems to have space until told otherwise.
type unseeing struct {
	*cluster.Server
	seeing atomic.Bool
}

func (u *unseeing) FreeBytes() (uint64, error) {
	if u.seeing.Load() {
		return u.Server.FreeBytes()
	}
	return 1 << 40, nil
}

// TestNoSpace takes the last byte of the disk away behind the log's back. What
// was acknowledged stays, what is not is refused at once, reading goes on, and
// when there is space again the log works as before.
func TestNoSpace(t *testing.T) {
	dir := smallDisk(t, 64<<20)
	server, err := cluster.Start(cluster.Options{
		Name: "journal-test", Dir: filepath.Join(dir, "journal"), MaxStore: 64 << 30, MaxMemory: 64 << 20, Logger: quiet(),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer closing(t, server)
	host := &unseeing{Server: server}
	l, err := jetstream.Open(t.Context(), jetstream.Options{Server: host, Shards: 2, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	defer closing(t, l)
	p := journal.Partition{Shard: 1, Tier: 1}
	acknowledged := map[uint64]string{}
	appendOne := func(n int) error {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		data := fmt.Sprintf("%d %0*d", n, 100_000, 0)
		seq, err := l.Append(ctx, p, []byte(data))
		if err == nil {
			acknowledged[seq] = data
		}
		return err
	}
	reader, err := l.Read(t.Context(), p, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	n := 0
	for round := range 2 {
		for range 5 {
			if err := appendOne(n); err != nil {
				t.Fatal(err)
			}
			n++
		}
		host.seeing.Store(false)
		remove := ballast(t, dir)
		start := time.Now()
		for ; ; n++ {
			if err := appendOne(n); err != nil {
				// Nobody can say of this one.
				if !errors.Is(err, journal.ErrUnknown) && !errors.Is(err, journal.ErrFull) {
					t.Fatalf("round %d: append on the full disk: %v", round, err)
				}
				break
			}
		}
		if took := time.Since(start); took > 4*time.Second {
			t.Errorf("round %d: %v until the failure was known", round, took)
		}
		host.seeing.Store(true)
		n++
		for range 10 {
			if err := appendOne(n); !errors.Is(err, journal.ErrFull) {
				t.Fatalf("round %d: append after the failed one: error %v, want %v", round, err, journal.ErrFull)
			}
			n++
		}
		wantEntries(t, l, p, acknowledged)

		remove()
		eventually(t, "append when there is space again", func() bool {
			// While the connection comes back it may fail in other ways.
			err := appendOne(n)
			n++
			return err == nil
		})
		wantEntries(t, l, p, acknowledged)
	}

	// The reader from before sees it all.
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	last, err := l.Last(ctx, p)
	if err != nil {
		t.Fatal(err)
	}
	var seq uint64
	for seq < last {
		e, err := reader.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if e.Seq <= seq {
			t.Fatalf("entry %d after %d", e.Seq, seq)
		}
		seq = e.Seq
		if want, ok := acknowledged[seq]; ok && want != string(e.Data) {
			t.Errorf("entry %d: %.20q, want %.20q", seq, e.Data, want)
		}
		delete(acknowledged, seq)
	}
	if len(acknowledged) > 0 {
		t.Errorf("%d acknowledged entries did not reach the reader", len(acknowledged))
	}
}
