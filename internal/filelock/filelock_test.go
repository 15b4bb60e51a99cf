package filelock_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/esh3artech/esh3ar/internal/filelock"
)

func TestLockIsOnes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	mine, err := filelock.Take(path)
	if err != nil {
		t.Fatal(err)
	}
	if f, err := filelock.Take(path); !errors.Is(err, filelock.ErrTaken) {
		t.Errorf("taken twice: %v, %v", f, err)
	}
	other, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if taken, err := filelock.Try(other); taken || err != nil {
		t.Errorf("taken %t, %v, while it is somebody else's", taken, err)
	}
	if err := mine.Close(); err != nil {
		t.Fatal(err)
	}
	if taken, err := filelock.Try(other); !taken || err != nil {
		t.Errorf("taken %t, %v, when it is free", taken, err)
	}
	if _, err := filelock.Take(filepath.Join(path, "none")); err == nil || errors.Is(err, filelock.ErrTaken) {
		t.Errorf("a file that cannot be: %v", err)
	}
}
