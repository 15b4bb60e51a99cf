package faultfs_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar/internal/chaos/faultfs"
)

// mount mounts a file system for a test and returns the directory.
func mount(t *testing.T) (*faultfs.FS, string) {
	t.Helper()
	dir := t.TempDir()
	fsys, err := faultfs.Mount(t.TempDir(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := fsys.Close(); err != nil {
			t.Error(err)
		}
	})
	return fsys, dir
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestPowerCut shows that what was synced stays, and that what was not goes back to it in whole pages.
func TestPowerCut(t *testing.T) {
	fsys, dir := mount(t)
	path := filepath.Join(dir, "file")
	old, young := bytes.Repeat([]byte("o"), 3*4096+100), bytes.Repeat([]byte("y"), 5*4096)
	partly, wholly := false, false
	for seed := range uint64(12) {
		f := must[*os.File](t)(os.Create(path))
		must[int](t)(f.Write(old))
		check(t, f.Sync())
		must[int](t)(f.WriteAt(young, 4096))
		check(t, f.Close())
		loss, err := fsys.PowerCut(rand.New(rand.NewPCG(seed, 0)))
		check(t, err)
		if loss.Files != 1 {
			t.Fatalf("loss %+v, want one file", loss)
		}
		got := must[[]byte](t)(os.ReadFile(path))
		if bytes.Equal(got, old) {
			wholly = true
			continue
		}
		partly = true
		if !bytes.Equal(got[:4096], old[:4096]) {
			t.Errorf("seed %d: a page that was not written after the sync has changed", seed)
		}
		for at := 4096; at < len(got); at += 4096 {
			switch page := got[at:min(at+4096, len(got))]; page[0] {
			case 'o', 'y', 0: // as synced, as written, or never there
			default:
				t.Errorf("seed %d: page at %d begins with %q", seed, at, page[:1])
			}
		}
	}
	if !wholly || !partly {
		t.Errorf("power cuts took all: %v; a part: %v; want both", wholly, partly)
	}
}

// TestSyncedSurvives shows that syncs of every kind make durable, and that a truncation does not stay
// without one.
func TestSyncedSurvives(t *testing.T) {
	fsys, dir := mount(t)
	content := bytes.Repeat([]byte("s"), 10000)
	for name, flags := range map[string]int{"O_SYNC": os.O_SYNC, "O_DSYNC": syscall.O_DSYNC, "fsync": 0} {
		f := must[*os.File](t)(os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_WRONLY|flags, 0o600))
		must[int](t)(f.Write(content))
		if flags == 0 {
			check(t, f.Sync())
		}
		check(t, f.Close())
	}
	check(t, os.Rename(filepath.Join(dir, "fsync"), filepath.Join(dir, "renamed")))
	must[fsLoss](t)(fsys.PowerCut(rand.New(rand.NewPCG(1, 1))))
	for _, name := range []string{"O_SYNC", "O_DSYNC", "renamed"} {
		if got := must[[]byte](t)(os.ReadFile(filepath.Join(dir, name))); !bytes.Equal(got, content) {
			t.Errorf("%s: %d bytes are left", name, len(got))
		}
	}
}

type fsLoss = faultfs.Loss

// TestFailedSync shows that a failed sync loses its pages for good unless they are written again.
func TestFailedSync(t *testing.T) {
	for seed := range uint64(20) {
		fsys, dir := mount(t)
		path := filepath.Join(dir, "file")
		f := must[*os.File](t)(os.Create(path))
		must[int](t)(f.Write(make([]byte, 2*4096)))
		check(t, f.Sync())
		must[int](t)(f.WriteAt([]byte("lost"), 0))
		fsys.FailSync(true)
		if err := f.Sync(); !errors.Is(err, syscall.EIO) {
			t.Fatalf("sync: %v, want EIO", err)
		}
		fsys.FailSync(false)
		must[int](t)(f.WriteAt([]byte("kept"), 4096))
		check(t, f.Sync())
		got := make([]byte, 4)
		must[int](t)(f.ReadAt(got, 0))
		if string(got) != "lost" {
			t.Fatalf("before the power cut: %q", got)
		}
		check(t, f.Close())
		loss, err := fsys.PowerCut(rand.New(rand.NewPCG(seed, 0)))
		check(t, err)
		all := must[[]byte](t)(os.ReadFile(path))
		if string(all[4096:4100]) != "kept" {
			t.Fatalf("what was synced after the failure is gone: %q", all[4096:4100])
		}
		if loss.Pages == 1 {
			if all[0] != 0 {
				t.Errorf("one page is lost, and yet there: %q", all[:4])
			}
			return
		}
	}
	t.Error("20 power cuts took nothing")
}

// TestFull shows that writes fit in part, then fail with ENOSPC, and that space comes back.
func TestFull(t *testing.T) {
	fsys, dir := mount(t)
	f := must[*os.File](t)(os.Create(filepath.Join(dir, "file")))
	defer f.Close()
	fsys.Limit(10000)
	var st syscall.Statfs_t
	check(t, syscall.Statfs(dir, &st))
	if free := st.Bavail * uint64(st.Bsize); free > 10000 {
		t.Errorf("%d bytes are said to be free", free)
	}
	n, err := f.Write(make([]byte, 16000))
	if n != 10000 || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%d bytes written, %v; want 10000 and ENOSPC", n, err)
	}
	if _, err := f.WriteAt(make([]byte, 100), 0); err != nil {
		t.Errorf("overwriting: %v", err)
	}
	if _, err := os.Create(filepath.Join(dir, "another")); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("creating: %v, want ENOSPC", err)
	}
	check(t, f.Truncate(4000))
	if _, err := f.WriteAt(make([]byte, 7000), 4000); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("after the truncation: %v, want ENOSPC", err)
	}
	if info := must[os.FileInfo](t)(f.Stat()); info.Size() != 10000 {
		t.Errorf("after the truncation the file has grown to %d bytes, want 10000", info.Size())
	}
	fsys.Unlimit()
	if _, err := f.Seek(0, io.SeekEnd); err != nil {
		t.Fatal(err)
	}
	must[int](t)(f.Write(make([]byte, 16000)))
}

// TestSlow shows that the disk can be slow.
func TestSlow(t *testing.T) {
	fsys, dir := mount(t)
	f := must[*os.File](t)(os.Create(filepath.Join(dir, "file")))
	defer f.Close()
	fsys.Slow(faultfs.Delays{Sync: 50 * time.Millisecond, Write: 20 * time.Millisecond})
	began := time.Now()
	must[int](t)(f.Write([]byte("x")))
	check(t, f.Sync())
	if took := time.Since(began); took < 70*time.Millisecond {
		t.Errorf("a write and a sync took %s", took)
	}
}
