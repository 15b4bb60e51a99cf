package loadgen

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// process is a worker as its parent sees it.
type process struct {
	job   *job
	stdin io.WriteCloser
	enc   *json.Encoder

	mu       sync.Mutex // guards what follows
	last     news       // with the newest stats
	ready    int        // how often it was ready
	finished bool
	bye      bool
	failed   error
}

// maxStderr bounds what is kept of a worker's standard error.
const maxStderr = 4 << 10

// spawn starts a worker and gives it its job.
func (r *run) spawn(ctx context.Context, j *job) error {
	cmd := r.Worker(ctx)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	stderr := &tail{}
	cmd.Stderr = stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	p := &process{job: j, stdin: stdin, enc: json.NewEncoder(stdin)}
	r.workers = append(r.workers, p)
	r.wg.Go(func() {
		dec := json.NewDecoder(stdout)
		var err error
		for {
			var n news
			if err = dec.Decode(&n); err != nil {
				break
			}
			p.take(n)
			r.signal()
		}
		if errors.Is(err, io.EOF) {
			err = nil
		}
		err = errors.Join(err, cmd.Wait())
		p.mu.Lock()
		if !p.bye && p.failed == nil {
			p.failed = fmt.Errorf("a worker process ended early: %w %s", err, stderr.String())
		}
		p.mu.Unlock()
		r.signal()
	})
	return p.enc.Encode(order{Job: j})
}

func (p *process) take(n news) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n.Ready {
		p.ready++
	}
	p.finished = p.finished || n.Finished
	p.bye = p.bye || n.Bye
	if n.Failed != "" && p.failed == nil {
		p.failed = errors.New(n.Failed)
	}
	p.last = n
}

// tail keeps the beginning of what is written to it.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, b[:min(len(b), maxStderr-len(t.b))]...)
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b)
}
