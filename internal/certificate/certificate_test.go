package certificate_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar/internal/certificate"
	"github.com/esh3artech/esh3ar/internal/certificate/certificatetest"
)

func TestFilesThatCannotBeUsed(t *testing.T) {
	one, _ := certificatetest.Write(t, t.TempDir(), "one")
	two, _ := certificatetest.Write(t, t.TempDir(), "two")
	if _, err := certificate.Pair(one.Cert, two.Key); err == nil {
		t.Error("a key of another certificate is taken")
	}
	if _, err := certificate.Roots(one.Key); err == nil {
		t.Error("a key is taken for an authority")
	}
	if _, err := certificate.Roots(one.Cert + ".missing"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a file: %v", err)
	}
}

// Every change is told once, and what cannot be used changes nothing.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	files, _ := certificatetest.Write(t, dir, "one")
	s, err := certificate.Roots(files.Cert)
	if err != nil {
		t.Fatal(err)
	}
	first := s.Current()
	told := make(chan error, 100)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, time.Millisecond, func(err error) { told <- err }) }()
	if err := os.Remove(files.Cert); err != nil {
		t.Fatal(err)
	}
	if err := <-told; err == nil || s.Current() != first {
		t.Errorf("a file that is gone: %v", err)
	}
	replace(t, files.Cert, func(path string) { write(t, path, "nonsense") })
	if err := <-told; err == nil || s.Current() != first {
		t.Errorf("nonsense: %v", err)
	}
	other, _ := certificatetest.Write(t, t.TempDir(), "two")
	content, err := os.ReadFile(other.Cert)
	if err != nil {
		t.Fatal(err)
	}
	replace(t, files.Cert, func(path string) { write(t, path, string(content)) })
	if err := <-told; err != nil || s.Current() == first {
		t.Errorf("a new authority: %v", err)
	}
	cancel()
	if err := <-ended; err == nil {
		t.Error("the end of a context is no error")
	}
	if len(told) > 0 {
		t.Errorf("told more: %v", <-told)
	}
}

// replace makes a file beside another and puts it in its place, so that no reader sees half of it.
func replace(t *testing.T, path string, make func(string)) {
	t.Helper()
	make(path + ".new")
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
