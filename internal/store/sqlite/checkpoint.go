package sqlite

import (
	"context"
	"errors"
	"time"
)

const (
	// checkpointRows is after how many written rows the log is due to be copied into the database
	// file. More of them means fewer copies of pages that change often, a longer log and a longer
	// start after a crash.
	checkpointRows = 8192
	// checkpointInterval is how long a few rows may lie in the log alone.
	checkpointInterval = 5 * time.Second
	// lastFrames is how much of the log, in pages, is small enough for the pass that commits wait for.
	lastFrames = 1024
	// maxPasses bounds the passes of one checkpoint, for a disk that cannot keep up.
	maxPasses = 4
)

// checkpointer copies the write-ahead log into the database file, beside the writer and on a
// connection of its own, so that commits do not wait for it.
//
// Only when all of the log is copied does the next commit write it from the start again; otherwise it
// grows. Since commits go on meanwhile, each pass leaves what they have added, which is less every
// time; the small rest is copied between two commits.
type checkpointer struct {
	c    *conn
	stmt *stmt
	w    *writer
	stop context.CancelFunc
	done chan struct{}
}

func newCheckpointer(ctx context.Context, path string, w *writer) (*checkpointer, error) {
	c, err := connect(ctx, path, "synchronous(FULL)", "wal_autocheckpoint(0)")
	if err != nil {
		return nil, err
	}
	k := &checkpointer{c: c, w: w, done: make(chan struct{})}
	if k.stmt, err = c.prepare(passive); err != nil {
		return nil, errors.Join(err, c.close())
	}
	ctx, k.stop = context.WithCancel(context.Background())
	go k.loop(ctx)
	return k, nil
}

// passive copies what no reader is in the way of and waits for nobody.
const passive = `PRAGMA wal_checkpoint(PASSIVE)`

// close ends a checkpoint after its pass under way. The last connection to the file to be closed
// copies all that is left.
func (k *checkpointer) close() error {
	k.stop()
	<-k.done
	return k.c.close()
}

func (k *checkpointer) loop(ctx context.Context) {
	defer close(k.done)
	tick := time.NewTicker(checkpointInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.w.checkpointDue:
		case <-tick.C:
		}
		// An error, of a full disk for instance, leaves the log as it is: the next time may go better,
		// and commits, which meet the same disk, tell their callers.
		_ = k.checkpoint(ctx)
	}
}

func (k *checkpointer) checkpoint(ctx context.Context) error {
	// A pass copies what is committed when it begins, and the next one what came meanwhile.
	before, err := runCheckpoint(k.stmt)
	for pass := 1; err == nil && pass < maxPasses; pass++ {
		var after int64
		if after, err = runCheckpoint(k.stmt); after-before <= lastFrames {
			break
		}
		before = after
	}
	if err != nil {
		return err
	}
	return k.w.between(ctx, func(w *writer) error {
		_, err := runCheckpoint(w.stmts.checkpoint)
		return err
	})
}

// runCheckpoint makes one pass and returns up to which frame the log is copied.
func runCheckpoint(s *stmt) (copied int64, err error) {
	row, err := s.row()
	if err != nil {
		return 0, classify(err)
	}
	return row[2].(int64), nil // of: busy, frames in the log, frames copied
}
