package sqlite

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// checkpointRows is after how many written rows the log is due to be copied into the database
	// file. More of them means fewer copies of pages that change often, a longer log and a longer
	// start after a crash.
	checkpointRows = 8192
	// checkpointInterval is how long a few rows may lie in the log alone.
	checkpointInterval = 5 * time.Second
	// lastFrames is how much of the log may be left to the pass that commits have to wait for.
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
	for range maxPasses {
		left, err := runCheckpoint(k.stmt)
		if err != nil || left == 0 {
			return err
		}
		if left <= lastFrames {
			break
		}
	}
	return k.w.between(ctx, func(w *writer) error {
		_, err := runCheckpoint(w.stmts.checkpoint)
		return err
	})
}

// runCheckpoint makes one pass and returns how many frames of the log are left.
func runCheckpoint(s *stmt) (left int64, err error) {
	row, err := s.row()
	if err != nil {
		return 0, classify(err)
	}
	// busy, frames in the log, frames copied; -1 when there is no log.
	if row[0].(int64) != 0 {
		return 0, nil // somebody else makes a checkpoint, a backup tool for instance
	}
	left = row[1].(int64) - row[2].(int64)
	if left < 0 {
		return 0, fmt.Errorf("store: a checkpoint of %d frames copied %d", row[1], row[2])
	}
	return left, nil
}
