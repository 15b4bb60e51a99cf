package loadgen

import (
	"cmp"
	"errors"
	"maps"
	"time"
)

// Report is what came of a run.
type Report struct {
	Work    Workload      `json:"workload"`
	Devices int64         `json:"devices"`
	Client  DeviceClient  `json:"device_client"`
	Warmup  float64       `json:"warmup_seconds"`
	Seconds float64       `json:"measured_seconds"`
	Settled float64       `json:"settled_seconds"`
	Verdict Verdict       `json:"verdict"`
	Rate    float64       `json:"accepted_per_second"`
	Accept  Percentiles   `json:"accept_latency_ms"`
	Lag     Percentiles   `json:"generator_lag_ms"`
	Receive Percentiles   `json:"accept_to_receive_ms"`
	Total   Percentiles   `json:"send_to_receive_ms"`
	Clients ClientStats   `json:"clients"`
	Phones  DeviceStats   `json:"device_counts"`
	Cost    Cost          `json:"generator_cost"`
	Server  ServerCost    `json:"server_cost"`
	Stages  []StageReport `json:"server_stages,omitempty"`
}

// ServerCost is what the servers' processes took in all, as they tell; 0 where they do not.
type ServerCost struct {
	// CPU is the processor time for an accepted message, in microseconds, from the start of the warm-up to the end
	// of sending. A database's is not in it.
	CPU float64 `json:"cpu_us"`
	// Unused is the resident memory before the first connection, Connected when clients and devices, so many, were connected and had been
	// idle for Options.Idle.
	Unused    int64 `json:"unused_bytes"`
	Connected int64 `json:"connected_bytes"`
	Devices   int64 `json:"devices"`
	// IdleCPU is the processor time that the servers took in all while these were idle, as a share of one processor.
	IdleCPU float64 `json:"idle_cpu"`
}

// DeviceKiB is what each connected device takes of the servers' memory, in KiB; 0 if they did not tell.
func (c ServerCost) DeviceKiB() float64 {
	if c.Unused <= 0 || c.Connected <= 0 {
		return 0
	}
	return float64(c.Connected-c.Unused) / 1024 / float64(max(c.Devices, 1))
}

// Cost is what the generator took from the machine that it shares with the server, from the start of
// the warm-up to the end. Where the system does not tell, it is 0.
type Cost struct {
	// Send is the processor time of the clients for an answered message, in microseconds; Receive that
	// of the devices for a receipt.
	Send    float64 `json:"send_cpu_us"`
	Receive float64 `json:"receive_cpu_us"`
	// Device is the devices' resident memory at its greatest for one of them, in bytes, that of the
	// processes included.
	Device int64 `json:"device_memory_bytes"`
}

// report sums up what the workers measured.
func (r *run) report(elapsed time.Duration) (*Report, error) {
	p := r.progress()
	accept, lag, accepted, sent := newHistogram(), newHistogram(), newHistogram(), newHistogram()
	for _, w := range r.workers {
		err := errors.Join(w.last.Accept.into(accept), w.last.Lag.into(lag), w.last.Accepted.into(accepted), w.last.Sent.into(sent))
		if err != nil {
			return nil, err
		}
	}
	maps.DeleteFunc(p.Clients.Errors, func(_ string, n int64) bool { return n == 0 })
	return &Report{
		Work: r.Work, Devices: int64(r.Work.Recipients) * int64(max(r.Devices, 1)), Client: cmp.Or(r.Client, GoClient),
		Warmup: r.Warmup.Seconds(), Seconds: elapsed.Seconds(),
		Rate:   float64(p.Clients.Measured) / elapsed.Seconds(),
		Accept: percentiles(accept), Lag: percentiles(lag), Receive: percentiles(accepted), Total: percentiles(sent),
		Clients: p.Clients, Phones: p.Devices, Cost: r.cost(p),
	}, nil
}

// cost sums up what the workers used.
func (r *run) cost(p Progress) (c Cost) {
	var send, receive time.Duration
	var memory, devices int64
	for _, w := range r.workers {
		if sends(w) {
			send += w.last.CPU
			continue
		}
		receive += w.last.CPU
		memory += w.last.Memory
		devices += int64(w.job.Audience.N * w.job.Audience.Devices)
	}
	per := func(d time.Duration, n int64) float64 {
		return float64(d) / float64(time.Microsecond) / float64(max(n, 1))
	}
	c.Send = per(send, p.Clients.Accepted+p.Clients.Refused+p.Clients.Unknown)
	c.Receive = per(receive, p.Devices.Receipts)
	c.Device = memory / max(devices, 1)
	return c
}
