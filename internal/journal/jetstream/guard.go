package jetstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/esh3artech/esh3ar/internal/journal"
)

const (
	// guardInterval is how often the guard looks at the server.
	guardInterval = 250 * time.Millisecond

	// reopenRoom is how much space must be free above the reserve before a
	// server that ran out of it is opened again: enough for it to come up, and
	// not to fall over with the next burst.
	reopenRoom = 16 << 20
)

// guard keeps appends away from a server that cannot write.
//
// Once a write has failed, JetStream refuses all later ones to that stream in
// silence, also when there is space again, until the server is closed and
// opened. So the guard fails what waits, refuses what comes, and opens the
// server again when there is space. Reading goes on meanwhile.
//
//	serving ──write error──► refusing ──no space: when there is some──► serving
//	                             │
//	                             └──any other error──► for good
//
// After any other error (an I/O error of the disk) the guard stays with
// refusing: the kernel may have dropped what it could not write, and a server
// that opened the same file again would append behind a hole.
type guard struct {
	host    Host
	reserve uint64
	logger  *slog.Logger

	room    atomic.Int64          // bytes that may be appended before the next look
	refusal atomic.Pointer[error] // why appends are refused; nil while serving
}

func newGuard(host Host, reserve uint64, logger *slog.Logger) *guard {
	g := &guard{host: host, reserve: reserve, logger: logger}
	g.look()
	return g
}

// admit refuses an append of size bytes that must not be tried now.
func (g *guard) admit(size int) error {
	if refusal := g.refusal.Load(); refusal != nil {
		return *refusal
	}
	if g.room.Add(int64(-size)) < 0 {
		return fmt.Errorf("%w: less than %d bytes of the disk are free", journal.ErrFull, g.reserve)
	}
	return nil
}

// look measures the room anew and returns it.
func (g *guard) look() int64 {
	free, err := g.host.FreeBytes()
	if err != nil {
		// What was measured last goes on counting down.
		g.logger.Warn("free space of the journal's disk is unknown", "error", err)
		return g.room.Load()
	}
	room := int64(free) - int64(g.reserve)
	g.room.Store(room)
	return room
}

// run watches the server until ctx ends. Fail is called with an error of kind
// ErrUnknown for all appends under way that will get no answer.
func (g *guard) run(ctx context.Context, fail func(error)) {
	tick := time.NewTicker(guardInterval)
	defer tick.Stop()
	full := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if now := g.look() < 0; now != full {
			full = now
			if full {
				g.logger.Error("journal refuses messages: the disk is full up to its reserve", "reserve_bytes", g.reserve)
			} else {
				g.logger.Info("journal accepts messages again: the disk has space")
			}
		}
		if err := g.host.WriteError(); err != nil {
			g.repair(ctx, tick.C, fail, err)
		}
	}
}

// repair refuses appends until the server can write again or ctx ends.
func (g *guard) repair(ctx context.Context, tick <-chan time.Time, fail func(error), cause error) {
	kind := journal.ErrUnavailable
	if isNoSpace(cause) {
		kind = journal.ErrFull
	}
	refusal := fmt.Errorf("%w: %w", kind, cause)
	g.refusal.Store(&refusal)
	fail(fmt.Errorf("%w: %w", journal.ErrUnknown, cause))
	if !errors.Is(refusal, journal.ErrFull) {
		g.logger.Error("journal refuses messages until the process is restarted: writing failed", "error", cause)
		<-ctx.Done()
		return
	}
	g.logger.Error("journal refuses messages: no space left on its disk", "error", cause)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick:
		}
		if g.look() < reopenRoom {
			continue
		}
		if err := g.host.Restart(); err != nil {
			g.logger.Error("journal could not be opened again", "error", err)
			continue
		}
		if err := g.host.WriteError(); err == nil {
			break
		}
	}
	g.refusal.Store(nil)
	g.logger.Info("journal accepts messages again: opened anew")
}

// isNoSpace says whether a write failed for lack of space. The server passes on
// only the text of the error.
func isNoSpace(err error) bool {
	text := err.Error()
	return strings.Contains(text, syscall.ENOSPC.Error()) || strings.Contains(text, syscall.EDQUOT.Error())
}
