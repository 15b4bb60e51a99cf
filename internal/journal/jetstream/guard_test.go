package jetstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/esh3artech/esh3ar/internal/journal"
)

// scriptedHost is a server whose disk does what a test says: an I/O error
// cannot be had from a real one at will.
type scriptedHost struct {
	Server

	mu       sync.Mutex
	free     uint64
	err      error
	restarts int
}

func (h *scriptedHost) set(free uint64, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.free, h.err = free, err
}

func (h *scriptedHost) FreeBytes() (uint64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.free, nil
}

func (h *scriptedHost) WriteError() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.err
}

func (h *scriptedHost) Restart() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.restarts++
	if h.restarts == 1 {
		return errors.New("not yet")
	}
	h.err = nil
	return nil
}

// runGuard runs a guard until the end of the test.
func runGuard(t *testing.T, h *scriptedHost, reserve uint64) (*guard, <-chan error) {
	g := newGuard(h, reserve, slog.New(slog.DiscardHandler))
	failed := make(chan error, 10)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		g.run(ctx, func(err error) { failed <- err })
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return g, failed
}

func wantAdmit(t *testing.T, g *guard, size int, want error) {
	t.Helper()
	if err := g.admit(size); !errors.Is(err, want) || (want == nil) != (err == nil) {
		t.Fatalf("admit %d: %v, want %v", size, err, want)
	}
}

func TestGuardKeepsTheReserve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &scriptedHost{free: 1100}
		g, _ := runGuard(t, h, 1000)
		wantAdmit(t, g, 60, nil)
		wantAdmit(t, g, 60, journal.ErrFull) // counted down since the last look
		h.set(1030, nil)
		time.Sleep(2 * guardInterval)
		wantAdmit(t, g, 31, journal.ErrFull)
		h.set(2000, nil)
		time.Sleep(2 * guardInterval)
		wantAdmit(t, g, 1000, nil)
	})
}

func TestGuardOpensAgainWhenThereIsSpace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &scriptedHost{free: 1 << 30}
		g, failed := runGuard(t, h, 1000)
		h.set(0, errors.New("write x.blk: no space left on device"))
		if err := <-failed; !errors.Is(err, journal.ErrUnknown) {
			t.Fatalf("appends under way fail with %v, want %v", err, journal.ErrUnknown)
		}
		wantAdmit(t, g, 1, journal.ErrFull)
		h.set(1000+reopenRoom-1, h.err)
		time.Sleep(time.Hour)
		wantAdmit(t, g, 1, journal.ErrFull)
		if h.restarts > 0 {
			t.Fatal("restarted without space")
		}
		h.set(1000+reopenRoom, h.err)
		time.Sleep(5 * guardInterval) // the first restart fails
		wantAdmit(t, g, 1, nil)
		if h.restarts != 2 {
			t.Fatalf("%d restarts, want 2", h.restarts)
		}
	})
}

func TestGuardStaysShutAfterAnIOError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &scriptedHost{free: 1 << 30}
		g, failed := runGuard(t, h, 1000)
		h.set(1<<30, fmt.Errorf("sync x.blk: input/output error"))
		if err := <-failed; !errors.Is(err, journal.ErrUnknown) {
			t.Fatalf("appends under way fail with %v, want %v", err, journal.ErrUnknown)
		}
		wantAdmit(t, g, 1, journal.ErrUnavailable)
		time.Sleep(time.Hour)
		wantAdmit(t, g, 1, journal.ErrUnavailable)
		if h.restarts > 0 {
			t.Fatal("restarted after an I/O error")
		}
	})
}
