package loadgen

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"syscall"
	"time"
)

// job is what a worker process does: be clients or be devices.
type job struct {
	Target Target   `json:"target"`
	Work   Workload `json:"work"`
	// Ledger is the path of the file to create.
	Ledger string `json:"ledger"`
	// First and Clients are the range of clients to be, if any.
	First   uint32 `json:"first,omitempty"`
	Clients uint32 `json:"clients,omitempty"`
	// Audience is the devices to be, if any. The first Online devices connect at once, the others
	// when told to join.
	Audience *Audience `json:"audience,omitempty"`
	Online   int       `json:"online,omitempty"`
}

// order is what a parent tells its worker. Exactly one field is set.
type order struct {
	Job   *job      `json:"job,omitempty"`
	Start *Schedule `json:"start,omitempty"`
	Join  bool      `json:"join,omitempty"`
	Stop  bool      `json:"stop,omitempty"`
}

// news is what a worker tells its parent. The stats come with every one.
type news struct {
	// Ready: everything that had to be connected is. Finished: the clients are done by the schedule.
	// Bye: the ledger is closed and this is the last of it.
	Ready    bool         `json:"ready,omitempty"`
	Finished bool         `json:"finished,omitempty"`
	Bye      bool         `json:"bye,omitempty"`
	Failed   string       `json:"failed,omitempty"`
	Clients  *ClientStats `json:"clients,omitempty"`
	Devices  *DeviceStats `json:"devices,omitempty"`
	// With the last one. CPU is what the process has used since it was told to start, Memory the most
	// that it had resident, in bytes.
	CPU      time.Duration `json:"cpu,omitempty"`
	Memory   int64         `json:"memory,omitempty"`
	Accept   packed        `json:"accept,omitempty"`
	Lag      packed        `json:"lag,omitempty"`
	Accepted packed        `json:"accepted,omitempty"`
	Sent     packed        `json:"sent,omitempty"`
}

var errOrder = errors.New("an order at the wrong time")

// newsInterval is how often a worker tells its counts.
const newsInterval = 200 * time.Millisecond

// ServeWorker is the body of a worker process of Run. It takes its orders from in and returns when it
// is told to stop, or when in ends, because then its parent is gone.
func ServeWorker(ctx context.Context, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// A generator makes much short-lived garbage and has memory; the processor belongs to the server.
	debug.SetGCPercent(800)
	orders := make(chan order)
	// It ends with in, which the parent closes; the process does not outlive it by much otherwise.
	go func() {
		dec := json.NewDecoder(in)
		for {
			var o order
			if err := dec.Decode(&o); err != nil {
				cancel(fmt.Errorf("the parent is gone: %w", err))
				return
			}
			select {
			case orders <- o:
			case <-ctx.Done():
				return
			}
		}
	}()
	w := &worker{orders: orders, enc: json.NewEncoder(out)}
	err := w.serve(ctx)
	if err != nil {
		// The parent is told why, if it is still there.
		_ = w.enc.Encode(news{Failed: err.Error()})
	}
	return err
}

type worker struct {
	orders  <-chan order
	enc     *json.Encoder
	started time.Duration // the processor time at the start
}

// start notes that connecting is over.
func (w *worker) start() { w.started, _ = usage() }

// next waits for the parent's next order.
func (w *worker) next(ctx context.Context) (order, error) {
	select {
	case o := <-w.orders:
		return o, nil
	case <-ctx.Done():
		return order{}, context.Cause(ctx)
	}
}

func (w *worker) serve(ctx context.Context) error {
	o, err := w.next(ctx)
	if err != nil {
		return err
	}
	if o.Job == nil {
		return errors.New("the first order is no job")
	}
	limit, err := RaiseFileLimit()
	if err != nil {
		return fmt.Errorf("the limit of open files: %w", err)
	}
	ledger, err := CreateLedger(o.Job.Ledger)
	if err != nil {
		return err
	}
	var last news
	if o.Job.Audience != nil {
		last, err = w.devices(ctx, o.Job, ledger)
	} else {
		last, err = w.clients(ctx, o.Job, ledger)
	}
	if errors.Is(err, syscall.EMFILE) {
		err = fmt.Errorf("%w: the limit of this process is %d open files; see ulimit -n", err, limit)
	}
	if err := errors.Join(err, ledger.Close()); err != nil {
		return err
	}
	cpu, memory := usage()
	last.CPU, last.Memory = cpu-w.started, memory
	last.Bye = true
	return w.enc.Encode(last)
}

// clients is the life of a worker that sends.
func (w *worker) clients(ctx context.Context, j *job, ledger *Ledger) (last news, err error) {
	c, err := NewClients(j.Target, j.Work, j.First, j.Clients, ledger)
	if err != nil {
		return last, err
	}
	defer c.Close()
	tell := func(n news) error {
		stats := c.Stats()
		n.Clients = &stats
		return w.enc.Encode(n)
	}
	if err := w.telling(ctx, tell, c.Connect); err != nil {
		return last, err
	}
	if err := tell(news{Ready: true}); err != nil {
		return last, err
	}
	o, err := w.next(ctx)
	switch {
	case err != nil || o.Stop: // stopped before it began
		return last, err
	case o.Start == nil:
		return last, errOrder
	}
	w.start()
	err = w.telling(ctx, tell, func(ctx context.Context) error {
		c.Run(ctx, *o.Start)
		return context.Cause(ctx)
	})
	if err != nil {
		return last, err
	}
	if err := tell(news{Finished: true}); err != nil {
		return last, err
	}
	switch o, err = w.next(ctx); {
	case err != nil:
		return last, err
	case !o.Stop:
		return last, errOrder
	}
	stats := c.Stats()
	last.Clients = &stats
	var e1, e2 error
	last.Accept, e1 = pack(c.accept)
	last.Lag, e2 = pack(c.lag)
	return last, errors.Join(e1, e2)
}

// devices is the life of a worker that receives.
func (w *worker) devices(ctx context.Context, j *job, ledger *Ledger) (last news, err error) {
	d, err := NewDevices(j.Target, j.Work.Run, *j.Audience, ledger)
	if err != nil {
		return last, err
	}
	defer d.Close()
	tell := func(n news) error {
		stats := d.Stats()
		n.Devices = &stats
		return w.enc.Encode(n)
	}
	connect := func(from, end int) error {
		err := w.telling(ctx, tell, func(ctx context.Context) error { return d.Connect(ctx, from, end) })
		if err == nil {
			err = tell(news{Ready: true})
		}
		return err
	}
	if err := connect(0, j.Online); err != nil {
		return last, err
	}
	for stopped := false; !stopped; {
		var o order
		err := w.telling(ctx, tell, func(ctx context.Context) (err error) {
			o, err = w.next(ctx)
			return err
		})
		switch {
		case err != nil:
			return last, err
		case o.Start != nil:
			w.start()
			d.SetMeasure(o.Start.Measure)
		case o.Join:
			if err := connect(j.Online, d.Len()); err != nil {
				return last, err
			}
		case o.Stop:
			stopped = true
		default:
			return last, errOrder
		}
	}
	d.Close() // before the last counts
	stats := d.Stats()
	last.Devices = &stats
	var e1, e2 error
	last.Accepted, e1 = pack(d.accepted)
	last.Sent, e2 = pack(d.sent)
	return last, errors.Join(e1, e2)
}

// telling runs f and tells the counts until it returns.
func (w *worker) telling(ctx context.Context, tell func(news) error, f func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	tick := time.NewTicker(newsInterval)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-tick.C:
			if err := tell(news{}); err != nil {
				cancel(err)
				return errors.Join(err, <-done)
			}
		}
	}
}
