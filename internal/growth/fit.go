package growth

import (
	"errors"
	"math"
)

// Model is what was fitted.
type Model struct {
	Wait     Wait
	Server   Server
	Database Database
	Memory   Memory
}

// Residual is what the model says of a run beside what was measured.
type Residual struct {
	Run      *Run
	Counts   Counts // that were measured
	Server   Said   // processor time of the nodes in a second, from the measured counts
	Database Said   // processor time of the database in a second; nothing without a PostgreSQL
	WAL      Said   // bytes of WAL in a second, likewise
	Entries  Said   // a second, from the work
	Commits  Said   // a second, from the work
	Work     Said   // as Server, from the work alone
}

// Said is a figure as the model says it and as it was measured.
type Said struct{ Model, Measured float64 }

// Off is how much more the model says, as a share of what was measured.
func (s Said) Off() float64 { return s.Model/s.Measured - 1 }

// ErrTooFew means that the runs do not determine the model.
var ErrTooFew = errors.New("too few runs for a fit: idle ones and loads with a PostgreSQL are needed, of several rates, batches, nodes and shards")

// longest is the greatest time, in seconds, that is tried for those that the model is not linear in.
const longest = 0.006

// Fit fits the model to the runs that were not disturbed, with a PostgreSQL alone.
func Fit(runs []Run) (*Model, error) {
	var idle, loads []*Run
	for i := range runs {
		switch r := &runs[i]; {
		case r.Kind == Idle || r.Kind == Connected:
			idle = append(idle, r)
		case r.Kind == Fitted && r.Store == postgres && r.Undisturbed():
			loads = append(loads, r)
		}
	}
	if len(idle) < 3 || len(loads) < 8 {
		return nil, ErrTooFew
	}
	var m Model
	m.fitIdle(idle)
	m.fitWait(loads)
	m.fitServer(loads)
	m.fitDatabase(loads)
	return &m, nil
}

// fitIdle fits what nodes, shards and devices take without load.
func (m *Model) fitIdle(idle []*Run) {
	var forCPU, forMemory [][]float64
	var cpu, memory []float64
	for _, r := range idle {
		devices, took, resident := 0.0, r.CPU/r.Seconds, r.Memory
		if r.Kind == Connected {
			s := r.Load.Server
			devices, took, resident = s.Devices, s.IdleCPU, s.Connected
		}
		forCPU, cpu = append(forCPU, []float64{r.nodes(), r.clustered(), devices}), append(cpu, took)
		forMemory, memory = append(forMemory, []float64{r.nodes(), r.copies(), devices}), append(memory, resident)
	}
	c, _ := leastSquares(forCPU, cpu)
	m.Server.Node, m.Server.Shard, m.Server.Device = c[0], c[1], c[2]
	c, _ = leastSquares(forMemory, memory)
	m.Memory = Memory{c[0], c[1], c[2]}
}

func (m *Model) fitWait(loads []*Run) {
	off := func(w Wait) (sum float64) {
		for _, r := range loads {
			off := Said{Count(r.Shape, r.work(), w).Entries, r.counts().Entries}.Off()
			sum += off * off
		}
		return sum
	}
	joined := func(alone float64) float64 {
		return best(func(joined float64) float64 { return off(Wait{alone, joined}) })
	}
	m.Wait.Alone = best(func(alone float64) float64 { return off(Wait{alone, joined(alone)}) })
	m.Wait.Joined = joined(m.Wait.Alone)
}

func (m *Model) fitServer(loads []*Run) {
	y := make([]float64, len(loads))
	for i, r := range loads {
		y[i] = r.serverCPU() - m.Server.idle(r.Shape, r.work().Devices)
	}
	try := func(awake float64) (c []float64, sum float64) {
		x := make([][]float64, len(loads))
		for i, r := range loads {
			n := r.counts()
			x[i] = []float64{n.Requests, n.Messages, n.Commits, Server{Awake: awake}.wakes(r.Shape, n)}
		}
		return leastSquares(x, y)
	}
	s := &m.Server
	s.Awake = best(func(awake float64) float64 { _, sum := try(awake); return sum })
	c, _ := try(s.Awake)
	s.Request, s.Message, s.Commit, s.Wake = c[0], c[1], c[2], c[3]
}

func (m *Model) fitDatabase(loads []*Run) {
	var x [][]float64
	var cpu, wal []float64
	for _, r := range loads {
		if r.Database.CPU == 0 {
			continue
		}
		n := r.counts()
		x, cpu, wal = append(x, []float64{n.Messages, n.Commits}), append(cpu, r.databaseCPU()), append(wal, r.wal())
	}
	if len(x) < 2 {
		return
	}
	c, _ := leastSquares(x, cpu)
	m.Database.MessageCPU, m.Database.CommitCPU = c[0], c[1]
	c, _ = leastSquares(x, wal)
	m.Database.MessageWAL, m.Database.CommitWAL = c[0], c[1]
}

// Hold holds the model against a run with load.
func (m *Model) Hold(r *Run) Residual {
	n, said := r.counts(), Count(r.Shape, r.work(), m.Wait)
	res := Residual{
		Run: r, Counts: n,
		Server:  Said{m.Server.CPU(r.Shape, n), r.serverCPU()},
		Work:    Said{m.Server.CPU(r.Shape, said), r.serverCPU()},
		Entries: Said{said.Entries, n.Entries},
		Commits: Said{said.Commits, n.Commits},
	}
	if r.Database.CPU > 0 {
		res.Database, res.WAL = Said{m.Database.CPU(said), r.databaseCPU()}, Said{m.Database.WAL(said), r.wal()}
	}
	return res
}

// best returns the time at which f is least: of a few over the whole range, then of more and more around the best so far.
func best(f func(time float64) float64) (time float64) {
	const (
		points = 13
		finer  = 4
	)
	least, low, step := math.Inf(1), 0.0, longest/(points-1)
	for range finer {
		for i := range points {
			t := max(0, low+float64(i)*step)
			if v := f(t); v < least {
				least, time = v, t
			}
		}
		low, step = time-step, 2*step/(points-1)
	}
	return time
}

// leastSquares returns coefficients of which none is negative, for which the sum of squares of the relative errors of x·c beside y is least,
// and that sum. It goes from one coefficient to the next until none moves.
func leastSquares(x [][]float64, y []float64) (c []float64, sum float64) {
	const (
		rounds = 20_000
		still  = 1e-9
	)
	n := len(x[0])
	c = make([]float64, n)
	errs := make([]float64, len(y)) // 1 - x·c/y
	norm := make([]float64, n)
	for i := range y {
		errs[i] = 1
		for j := range n {
			norm[j] += x[i][j] * x[i][j] / (y[i] * y[i])
		}
	}
	for range rounds {
		moved := 0.0
		for j := range n {
			if norm[j] == 0 {
				continue
			}
			dot := 0.0
			for i := range y {
				dot += errs[i] * x[i][j] / y[i]
			}
			next := max(0, c[j]+dot/norm[j])
			if d := next - c[j]; d != 0 {
				moved = max(moved, math.Abs(d)*math.Sqrt(norm[j]))
				c[j] = next
				for i := range y {
					errs[i] -= d * x[i][j] / y[i]
				}
			}
		}
		if moved < still {
			break
		}
	}
	for _, e := range errs {
		sum += e * e
	}
	return c, sum
}
