package cluster

import (
	"bytes"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// logged is a logger of lines without times, and what returns and forgets them.
func logged(level slog.Level) (*slog.Logger, func() string) {
	var b bytes.Buffer
	log := slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	return log, func() string { defer b.Reset(); return b.String() }
}

// TestRoutes: a server that is away is a line after seconds, a line every ten minutes, and a line when it is back.
func TestRoutes(t *testing.T) {
	log, lines := logged(slog.LevelInfo)
	r := newRoutes(log)
	now := time.Unix(1_800_000_000, 0)
	pass := func(d time.Duration, failing string, connected ...string) (all string) {
		names := make(map[string]bool)
		for _, name := range connected {
			names[name] = true
		}
		for end := now.Add(d); now.Before(end); now = now.Add(time.Second) {
			r.step(now, names, failing)
		}
		return lines()
	}
	want := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: the log says %q, and not %q", what, got, want)
		}
	}
	want("a start", pass(unmetGrace/2, "refused"), "")
	there := "level=INFO msg=\"another node's NATS server is connected\" node="
	want("one comes", pass(unmetGrace/4, "refused", "a"), there+"a\n")
	want("all are there", pass(time.Minute, "", "a", "b"), there+"b\n")
	want("one restarts", pass(routeGrace, "refused", "a"), "")
	want("and is back", pass(time.Minute, "", "a", "b"), "")
	away := "level=WARN msg=\"no connection to another node's NATS server\""
	want("one is away", pass(routeReminder, "refused", "a"), away+" for=3s error=refused node=b\n")
	want("for long", pass(routeReminder, "no such host", "a"), away+" for=10m3s error=\"no such host\" node=b\n")
	text := pass(time.Minute, "")
	if !strings.Contains(text, away+" for=3s node=a\n") || !strings.Contains(text, away+" for=20m3s node=b\n") || strings.Count(text, "\n") != 2 {
		t.Errorf("the other, too: the log says %q", text)
	}
	text = pass(time.Minute, "", "a", "b")
	back := "level=INFO msg=\"another node's NATS server is connected again\" after="
	if strings.Count(text, back) != 2 || strings.Count(text, "\n") != 2 {
		t.Errorf("both are back: the log says %q", text)
	}
	want("a route to nowhere", pass(2*time.Minute, "no such host", "a", "b"),
		"level=WARN msg=\"no connection to a server that is named in the routes\" for=30s error=\"no such host\"\n")
	want("which is mended", pass(time.Minute, "", "a", "b"),
		"level=INFO msg=\"no attempt to connect to a server that is named in the routes fails any more\" after=2m0s\n")
}

// TestNATSLines: what is ordinary in a cluster is neither a warning nor an error, and everything else stays what it is.
func TestNATSLines(t *testing.T) {
	log, lines := logged(slog.LevelWarn)
	failed := new(failedRoute)
	l := natsLogger{log, new(atomic.Pointer[error]), new(atomic.Pointer[error]), failed}
	for _, text := range []string{
		"Waiting for routing to be established...",
		"JetStream has not established contact with a meta leader",
		"JetStream is not current with the meta leader",
		"RAFT [NxxZFuJy - _meta_] Falling behind in health check, commit 13 != applied 10",
		"RAFT [NxxZFuJy - _meta_] Health check OK, no longer falling behind",
		"Filestore [KV_ESH3AR_CLUSTER_1] TTL state is outdated; attempting to recover using linear scan (seq 1 to 20)",
		"Filestore [_meta_] Stream state outdated, last block has additional entries, will rebuild",
		"Filestore [_meta_] Recovering stream state from index errored: prior state file",
		"127.0.0.1:46519 - rid:29 - Error flushing: writev tcp 127.0.0.1:59592->127.0.0.1:46519: writev: broken pipe",
		"Metalayer blocking snapshot starting",
		"Metalayer blocking snapshot took 0.003s (streams: 8, consumers: 39, compacted: 45.63 KB)",
		"Catchup for stream '$G > ESH3AR_JOURNAL_0' resetting first sequence: 6 on catchup request",
	} {
		l.Warnf("%s", text)
		if got := lines(); got != "" {
			t.Errorf("logged %s", got)
		}
	}
	if reason := failed.reason(time.Now()); reason != "" {
		t.Errorf("a failed attempt: %s", reason)
	}
	for text, want := range map[string]string{
		"Error trying to connect to route (attempt 7): dial tcp 10.0.0.1:6222: connect: connection refused": "dial tcp 10.0.0.1:6222: connect: connection refused",
		"10.0.0.1:6222 - rid:12 - TLS route handshake error: tls: bad certificate":                          "tls: bad certificate",
	} {
		l.Errorf("%s", text)
		if got := lines(); got != "" {
			t.Errorf("logged %s", got)
		}
		if reason := failed.reason(time.Now()); reason != want {
			t.Errorf("the reason of a failed attempt: %q, want %q", reason, want)
		}
	}
	if reason := failed.reason(time.Now().Add(routeFailing)); reason != "" {
		t.Errorf("long after a failed attempt: %q", reason)
	}
	for _, text := range []string{
		"JetStream cluster stream '$G > ESH3AR_JOURNAL_0' has NO quorum, stalled",
		"RAFT [NxxZFuJy - _meta_] Snapshot corrupt, checksums did not match",
		"Filestore [_meta_] Stream state checksum did not match",
		"Filestore [_meta_] Recovering stream state from index errored: corrupt state file",
	} {
		l.Warnf("%s", text)
		if got, want := lines(), "level=WARN msg=\"nats: "; !strings.HasPrefix(got, want) {
			t.Errorf("of %s: logged %q", text, got)
		}
	}
}
