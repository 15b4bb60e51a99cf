package health_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/health"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func get(t *testing.T, h *health.Health, path string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w.Code, w.Body.String()
}

func readyz(t *testing.T, h *health.Health) (int, health.Report) {
	t.Helper()
	code, body := get(t, h, "/readyz")
	var r health.Report
	if err := json.Unmarshal([]byte(body), &r); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	return code, r
}

func TestLiveWithoutChecks(t *testing.T) {
	h := health.New(slog.New(slog.DiscardHandler))
	if code, body := get(t, h, "/healthz"); code != 200 || body != `{"status":"ok"}`+"\n" {
		t.Errorf("healthz %d %s", code, body)
	}
	if code, r := readyz(t, h); code != 200 || r.Status != health.OK || r.Checks == nil {
		t.Errorf("readyz %d %+v", code, r)
	}
}

func TestReadinessTellsTheLoad(t *testing.T) {
	h := health.New(slog.New(slog.DiscardHandler))
	if _, r := readyz(t, h); r.Load != nil {
		t.Errorf("load %+v although nobody tells it", r.Load)
	}
	load := health.Load{Free: 0.5, InFlight: 3, Limit: 100}
	h.TellLoad(func() health.Load { return load })
	for range 2 { // it is asked every time, unlike the checks
		load.InFlight++
		if _, r := readyz(t, h); r.Load == nil || *r.Load != load {
			t.Errorf("load %+v, want %+v", r.Load, load)
		}
	}
}

func TestReadinessFollowsChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		h := health.New(slog.New(slog.NewTextHandler(&log, nil)))
		var storeErr, journalErr error
		var runs int
		h.Add("store", func(context.Context) error { runs++; return storeErr })
		h.Add("journal", func(context.Context) error { return journalErr })

		if code, r := readyz(t, h); code != 200 || r.Status != health.OK || len(r.Checks) != 2 {
			t.Fatalf("%d %+v", code, r)
		}
		storeErr = health.Degrade(errors.New("dial tcp 10.0.0.7: refused"))
		if code, r := readyz(t, h); code != 200 || r.Status != health.OK || runs != 1 {
			t.Fatalf("within a second: %d %+v after %d runs", code, r, runs)
		}
		time.Sleep(time.Second) // synctest's clock
		code, r := readyz(t, h)
		if code != 200 || r.Status != health.Degraded || r.Checks["store"].Status != health.Degraded {
			t.Fatalf("degraded: %d %+v", code, r)
		}
		if strings.Contains(r.Checks["store"].Detail, "10.0.0.7") {
			t.Errorf("internals are shown: %+v", r)
		}
		journalErr = esh3ar.Errorf(esh3ar.KindInsufficientStorage, "disk_full", "the disk reserve is reached")
		time.Sleep(time.Second)
		if code, r = readyz(t, h); code != 503 || r.Status != health.Unavailable || r.Checks["journal"].Detail != "the disk reserve is reached" {
			t.Fatalf("unavailable: %d %+v", code, r)
		}
		for range 5 {
			time.Sleep(time.Second)
			readyz(t, h)
		}
		storeErr, journalErr = nil, nil
		time.Sleep(time.Second)
		if code, r = readyz(t, h); code != 200 || r.Status != health.OK {
			t.Fatalf("recovered: %d %+v", code, r)
		}
		if n := strings.Count(log.String(), "\n"); n != 4 {
			t.Errorf("%d log lines, want one for each change:\n%s", n, &log)
		}
		if !strings.Contains(log.String(), "10.0.0.7") {
			t.Errorf("the log lacks the cause:\n%s", &log)
		}
	})
}

// TestStartIsNoWarning: what a start brings is told, and is a warning only if it does not pass.
func TestStartIsNoWarning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		h := health.New(slog.New(slog.NewTextHandler(&log, nil)))
		alone := esh3ar.Errorf(esh3ar.KindUnavailable, "alone", "the others are not there")
		err := health.Starting(alone)
		h.Add("cluster", func(context.Context) error { return err })
		logs := func(line string) {
			t.Helper()
			for range 3 {
				time.Sleep(time.Second)
				readyz(t, h)
			}
			if got := log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, line) {
				t.Errorf("want one line of %s, got:\n%s", line, got)
			}
			log.Reset()
		}
		logs("level=INFO")
		if _, r := readyz(t, h); r.Checks["cluster"].Status != health.Degraded || r.Checks["cluster"].Detail != alone.Message {
			t.Errorf("it says %+v", r.Checks["cluster"])
		}
		err = health.Degrade(alone)
		logs("level=WARN")
		err = nil
		logs("recovered")
	})
}

func TestHangingCheckIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := health.New(slog.New(slog.DiscardHandler))
		h.Add("store", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		start := time.Now()
		code, r := readyz(t, h)
		if code != 503 || r.Checks["store"].Detail != "did not answer in time" {
			t.Errorf("%d %+v", code, r)
		}
		if took := time.Since(start); took != 2*time.Second {
			t.Errorf("took %s", took)
		}
	})
}

func TestChecksRunOnceForAll(t *testing.T) {
	h := health.New(slog.New(slog.DiscardHandler))
	var runs atomic.Int32
	started, release := make(chan struct{}), make(chan struct{})
	h.Add("store", func(context.Context) error {
		if runs.Add(1) == 1 {
			close(started)
		}
		<-release
		return nil
	})
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() { h.Ready(t.Context()) })
	}
	<-started
	close(release)
	all.Wait()
	if n := runs.Load(); n != 1 {
		t.Errorf("%d runs", n)
	}
}

func TestDrain(t *testing.T) {
	h := health.New(slog.New(slog.DiscardHandler))
	h.Drain()
	if code, r := readyz(t, h); code != 503 || r.Checks["drain"].Status != health.Unavailable {
		t.Errorf("%d %+v", code, r)
	}
	if code, _ := get(t, h, "/healthz"); code != 200 {
		t.Errorf("healthz %d while draining", code)
	}
}

func TestSecondCheckOfANameReplacesTheFirst(t *testing.T) {
	h := health.New(slog.New(slog.DiscardHandler))
	h.Add("store", func(context.Context) error { return errors.New("old") })
	h.Add("store", func(context.Context) error { return nil })
	if code, r := readyz(t, h); code != 200 || len(r.Checks) != 1 {
		t.Errorf("%d %+v", code, r)
	}
}

func TestMetrics(t *testing.T) {
	h := health.New(slog.New(slog.DiscardHandler))
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: "esh3ar_test_total", Help: "A test."})
	h.Registry().MustRegister(c)
	c.Inc()
	h.Add("store", func(context.Context) error { return health.Degrade(errors.New("slow")) })
	code, body := get(t, h, "/metrics")
	if code != 200 {
		t.Fatalf("status %d", code)
	}
	for _, want := range []string{"esh3ar_test_total 1\n", `esh3ar_check_status{check="store"} 0.5` + "\n", "go_goroutines "} {
		if !strings.Contains(body, want) {
			t.Errorf("no %q in the metrics", want)
		}
	}
}

func TestOnlyGet(t *testing.T) {
	h := health.New(slog.New(slog.DiscardHandler))
	w := httptest.NewRecorder()
	h.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/readyz", nil))
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST /readyz: %d", w.Code)
	}
}
