package ingest

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/esh3artech/esh3ar/internal/cluster"
	"github.com/esh3artech/esh3ar/internal/journal"
	"github.com/esh3artech/esh3ar/internal/journal/jetstream"
	"github.com/esh3artech/esh3ar/internal/journal/memory"
)

// wrkScript posts to many recipients in turn, from requests built beforehand.
const wrkScript = `
local requests, turn = {}, 0
function init()
  for n = 1, 1000 do
    requests[n] = wrk.format("POST", "/v1/messages",
      { ["Content-Type"] = "application/json", ["Authorization"] = "Bearer ` + benchKey + `" },
      string.format('{"to":"+9627%08d","type":"otp","content":"Your code is 482913. It is valid for five minutes; do not share it."}', n))
  end
end
function request()
  turn = turn % 1000 + 1
  return requests[turn]
end
function done(summary)
  io.write(string.format("RESULT %d %d %d\n", summary.requests, summary.duration, summary.errors.status))
end
`

// BenchmarkWrk measures a server over loopback connections with wrk, which must be installed: a handler
// that only decodes and answers, this API without a journal, with one in memory and with JetStream,
// synced, and the last behind a Front. Run it with -benchtime 1x; ESH3AR_WRK_CONNECTIONS (default 1000) and ESH3AR_WRK_TIME (5s)
// change the load. A -cpuprofile shows where the server's time goes.
func BenchmarkWrk(b *testing.B) {
	serve := func(b *testing.B, j Journal) *API {
		a, err := New(Options{Keys: oneKey{}, Journal: j, Messages: noMessages{}, Operator: struct{ Operator }{}, Auditor: struct{ Auditor }{}, Shards: 2, IdempotencyWindow: time.Hour})
		if err != nil {
			b.Fatal(err)
		}
		return a
	}
	appender := func(b *testing.B, log journal.Log) Journal {
		a, err := journal.NewAppender(log, journal.AppenderOptions{Shards: 2, Tiers: 3})
		if err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- a.Run(ctx) }()
		b.Cleanup(func() {
			cancel()
			if err := <-done; err != nil {
				b.Error(err)
			}
		})
		return a
	}
	b.Run("bare", func(b *testing.B) { runWrk(b, http.HandlerFunc(bareHandler), nil) })
	b.Run("no-journal", func(b *testing.B) { runWrk(b, serve(b, noJournal{}), nil) })
	b.Run("memory", func(b *testing.B) {
		log, err := memory.Open(new(memory.Disk), memory.Options{Shards: 2})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { log.Close() })
		runWrk(b, serve(b, appender(b, log)), nil)
	})
	synced := func(b *testing.B) *API {
		quiet := slog.New(slog.DiscardHandler)
		s, err := cluster.Start(cluster.Options{Name: "bench", Dir: b.TempDir(), MaxStore: 20 << 30, MaxMemory: 64 << 20, Logger: quiet})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { s.Close() })
		log, err := jetstream.Open(context.Background(), jetstream.Options{Server: s, Shards: 2, Logger: quiet})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { log.Close() })
		return serve(b, appender(b, log))
	}
	b.Run("jetstream", func(b *testing.B) { runWrk(b, synced(b), nil) })
	b.Run("jetstream-front", func(b *testing.B) {
		api := synced(b)
		runWrk(b, api, api)
	})
}

// cpuTime is what this process has used so far. On a machine that others use too it is the steadier
// measure.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// runWrk serves h, behind a Front of front if that is not nil, and reports what wrk gets out of it.
func runWrk(b *testing.B, h http.Handler, front *API) {
	wrk, err := exec.LookPath("wrk")
	if err != nil {
		b.Fatalf("wrk is missing, on Debian apt-get install wrk: %v", err)
	}
	env := func(name, otherwise string) string {
		if v := os.Getenv(name); v != "" {
			return v
		}
		return otherwise
	}
	script := filepath.Join(b.TempDir(), "accept.lua")
	if err := os.WriteFile(script, []byte(wrkScript), 0o600); err != nil {
		b.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	addr := l.Addr()
	if front != nil {
		f := NewFront(front, l, FrontOptions{
			HeaderTimeout: 10 * time.Second, BodyTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute, Metrics: prometheus.NewRegistry(),
		})
		ran := make(chan error, 1)
		go func() { ran <- f.Run() }()
		defer func() {
			if err := f.Shutdown(context.Background()); err != nil {
				b.Error(err)
			}
			if err := <-ran; err != nil {
				b.Error(err)
			}
		}()
		l = f
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 40 * time.Second, IdleTimeout: 2 * time.Minute}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = srv.Serve(l) // until Close
	}()
	defer func() {
		srv.Close()
		<-served
	}()
	var requests, micros float64
	before := cpuTime(b)
	for b.Loop() {
		out, err := exec.Command(wrk, "-t1", "-c"+env("ESH3AR_WRK_CONNECTIONS", "1000"), "-d"+env("ESH3AR_WRK_TIME", "5s"),
			"-s", script, fmt.Sprintf("http://%s/", addr)).CombinedOutput()
		if err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
		_, result, found := strings.Cut(string(out), "RESULT ")
		fields := strings.Fields(result)
		if !found || len(fields) < 3 || fields[2] != "0" {
			b.Fatalf("wrk: %s", out)
		}
		for i, sum := range []*float64{&requests, &micros} {
			v, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				b.Fatal(err)
			}
			*sum += v
		}
	}
	b.ReportMetric(requests/micros*1e6, "requests/s")
	b.ReportMetric(float64((cpuTime(b)-before).Nanoseconds())/1e3/requests, "cpu-µs/request")
	b.ReportMetric(0, "ns/op")
}
