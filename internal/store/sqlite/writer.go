package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"sync"

	"modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"

	"github.com/esh3artech/esh3ar/internal/store"
)

// maxGroup bounds the rows of one transaction over several callers, and with it how long a caller
// waits for the work of others.
const maxGroup = 4096

var errClosed = errors.New("store: closed")

// writer owns the writing connection. Callers hand it jobs; each waits in do until a transaction with
// its job is on disk. There is no queue: a job that the writer has not taken yet is its caller's, so
// that at most one job a caller is under way.
type writer struct {
	c      *conn
	atStep func(store.Step) error

	tx driver.Tx // of the transaction under way
	// seq is the highest number of a row of the table message. It is not given out again when the
	// transaction that took it fails.
	seq int64
	// inserted are the rows that the transaction under way has added to that table.
	inserted []indexEntry
	// onInsert is told of them when they are committed, before their callers are.
	onInsert func([]indexEntry)
	stmts    statements

	started bool
	jobs    chan *job
	quit    chan struct{}
	closing sync.Once
	done    chan struct{} // closed when the writer's goroutine has ended

	// checkpointDue holds a token when enough is written to copy the log.
	checkpointDue chan struct{}
	written       int // rows since the last token
}

// job is one caller's part of a transaction.
type job struct {
	ctx  context.Context
	rows int // about how many it writes
	run  func(*writer) error
	// alone makes it run by itself and outside of a transaction.
	alone bool
	err   error
	done  chan struct{} // closed when err is final
}

// newWriter connects and prepares. Nothing is written until start.
func newWriter(ctx context.Context, path string, opts Options) (*writer, error) {
	c, err := connect(ctx, path,
		"synchronous(FULL)",
		fmt.Sprintf("busy_timeout(%d)", opts.BusyTimeout.Milliseconds()),
		fmt.Sprintf("cache_size(%d)", -opts.CacheBytes>>10),
		"wal_autocheckpoint(0)",        // see checkpointer
		"journal_size_limit(67108864)", // a log grown longer is cut when it begins anew
	)
	if err != nil {
		return nil, err
	}
	w := &writer{
		c:      c,
		atStep: opts.AtStep,
		jobs:   make(chan *job),
		quit:   make(chan struct{}),
		done:   make(chan struct{}),

		checkpointDue: make(chan struct{}, 1),
	}
	if err := w.stmts.prepare(c); err != nil {
		return nil, errors.Join(err, c.close())
	}
	row, err := w.stmts.lastSeq.row()
	if err != nil {
		return nil, errors.Join(classify(err), c.close())
	}
	w.seq = row[0].(int64)
	return w, nil
}

// start lets the writer work until close.
func (w *writer) start() {
	w.started = true
	go w.loop()
}

// close ends the goroutine after the transaction under way and closes the connection.
func (w *writer) close() error {
	var err error
	w.closing.Do(func() {
		close(w.quit)
		if w.started {
			<-w.done
		}
		err = w.c.close()
	})
	return err
}

// do runs a job in a transaction and returns when that is on disk. When ctx ends before the writer
// took the job nothing is written; afterwards the outcome is waited for, since the job's data belong
// to the caller again when do returns.
func (w *writer) do(ctx context.Context, rows int, run func(*writer) error) error {
	return w.submit(&job{ctx: ctx, rows: rows, run: run})
}

// between runs something on the writer's connection between two transactions.
func (w *writer) between(ctx context.Context, run func(*writer) error) error {
	return w.submit(&job{ctx: ctx, run: run, alone: true})
}

func (w *writer) submit(j *job) error {
	j.done = make(chan struct{})
	select {
	case w.jobs <- j:
	case <-j.ctx.Done():
		return j.ctx.Err()
	case <-w.quit:
		return errClosed
	}
	<-j.done
	return j.err
}

func (w *writer) loop() {
	defer close(w.done)
	for {
		select {
		case <-w.quit:
			return
		case j := <-w.jobs:
			w.write(w.gather(j))
		}
	}
}

// gather returns the job and those that are waiting beside it, up to maxGroup rows.
func (w *writer) gather(first *job) []*job {
	group := []*job{first}
	for rows := first.rows; rows < maxGroup; {
		select {
		case j := <-w.jobs:
			group = append(group, j)
			rows += j.rows
		default:
			return group
		}
	}
	return group
}

// write runs the group, its transactional jobs together, and answers its callers.
//
// A job that fails before it has written anything, such as one of a former owner, leaves the others
// unharmed. If one fails later, each runs again in a transaction of its own, so that it fails alone.
func (w *writer) write(group []*job) {
	together := make([]*job, 0, len(group))
	for _, j := range group {
		if !j.alone {
			together = append(together, j)
		}
	}
	if len(together) > 0 && !w.together(together) {
		for _, j := range together {
			w.together([]*job{j})
		}
	}
	for _, j := range group {
		if j.alone {
			j.err = j.run(w)
		}
		w.written += j.rows
		close(j.done)
	}
	if w.written >= checkpointRows {
		w.written = 0
		select {
		case w.checkpointDue <- struct{}{}:
		default: // one is due already
		}
	}
}

// together runs the jobs in one transaction and sets their errors. It reports false, with everything
// rolled back, when one of several jobs failed in its writes.
func (w *writer) together(group []*job) bool {
	fail := func(err error) {
		for _, j := range group {
			j.err = err
		}
	}
	w.inserted = w.inserted[:0]
	if err := w.step(store.StepBegin); err != nil {
		fail(err)
		return true
	}
	var err error
	if w.tx, err = w.c.begin(); err != nil {
		fail(classify(err))
		return true
	}
	for _, j := range group {
		if j.err = j.ctx.Err(); j.err != nil {
			continue
		}
		before := w.c.writes
		if j.err = j.run(w); j.err == nil || w.c.writes == before {
			continue
		}
		if err := w.undo(); err != nil {
			fail(err)
			return true
		}
		return len(group) == 1
	}
	if err := w.step(store.StepCommit); err != nil {
		fail(errors.Join(err, w.undo()))
		return true
	}
	if err := w.tx.Commit(); err != nil { // the driver has rolled back
		fail(classify(err))
		return true
	}
	w.onInsert(w.inserted)
	if err := w.step(store.StepCommitted); err != nil {
		fail(err)
	}
	return true
}

// undo rolls the transaction back. SQLite may have done so itself, after a full disk for instance, and
// then says with SQLITE_ERROR that there is none.
func (w *writer) undo() error {
	err := w.tx.Rollback()
	if e, ok := errors.AsType[*sqlite.Error](err); ok && e.Code() == lib.SQLITE_ERROR {
		return nil
	}
	return classify(err)
}

func (w *writer) step(s store.Step) error {
	if w.atStep == nil {
		return nil
	}
	return w.atStep(s)
}
