package balance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar/internal/balance/picker"
)

func nodesOf(t testing.TB, b *running) map[string]nodeReport {
	t.Helper()
	var out struct{ Nodes []nodeReport }
	if err := json.Unmarshal([]byte(ask(t, httpClient(t), "GET", b.admin+"/nodes", "").body), &out); err != nil {
		t.Fatal(err)
	}
	m := make(map[string]nodeReport)
	for _, n := range out.Nodes {
		m[n.Node] = n
	}
	return m
}

// health of a node, which the test sets.
type sayingNode struct {
	report atomic.Pointer[string]
	hits   atomic.Int64
	slow   atomic.Int64 // how long an answer takes, in nanoseconds
}

func saying(t *testing.T, report string) (*sayingNode, string) {
	n := &sayingNode{}
	n.report.Store(&report)
	mux := http.NewServeMux()
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		s := *n.report.Load()
		if strings.Contains(s, "unavailable") {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		io.WriteString(w, s)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		n.hits.Add(1)
		if d := n.slow.Load(); d > 0 {
			<-time.After(time.Duration(d))
		}
		w.WriteHeader(http.StatusAccepted)
	})
	s := &http.Server{Handler: mux}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(l) }()
	t.Cleanup(func() { s.Close(); <-done })
	return n, "http://" + l.Addr().String()
}

func (n *sayingNode) says(report string) { n.report.Store(&report) }

func TestNodesAreHeard(t *testing.T) {
	one, url1 := saying(t, `{"status":"ok","checks":{},"load":{"free":0.75}}`)
	two, url2 := saying(t, `{"status":"degraded","checks":{"store":{"status":"degraded","detail":"away"}}}`)
	b := start(t, newSetNodes(url1, url2), nil)
	eventually(t, "both have said how they are", func() bool {
		n := nodesOf(t, b)
		return n[url1].State == "ready" && n[url1].Free == 0.75 && n[url2].State == "degraded" && n[url2].Cause == "store: away" && n[url2].Usable
	})
	post := func(times int) (int64, int64) {
		before1, before2 := one.hits.Load(), two.hits.Load()
		for range times {
			if a := ask(t, httpClient(t), "POST", b.url+"/v1/messages", "{}"); a.status != 202 {
				t.Fatalf("answered %+v", a)
			}
		}
		return one.hits.Load() - before1, two.hits.Load() - before2
	}
	if h1, h2 := post(60); h1 == 0 || h2 == 0 {
		t.Errorf("60 requests went %d and %d", h1, h2)
	}
	two.says(`{"status":"unavailable","checks":{"drain":{"status":"unavailable","detail":"the process is stopping"}}}`)
	eventually(t, "the node drains", func() bool { return nodesOf(t, b)[url2].State == "draining" })
	if _, h2 := post(20); h2 != 0 {
		t.Errorf("a draining node got %d requests", h2)
	}
	two.says(`{"status":"unavailable","checks":{"disk":{"status":"unavailable","detail":"full"},"store":{"status":"ok"}}}`)
	eventually(t, "the node is unready", func() bool { n := nodesOf(t, b)[url2]; return n.State == "unready" && n.Cause == "disk: full" })
	if _, h2 := post(20); h2 != 0 {
		t.Errorf("an unready node got %d requests", h2)
	}
	two.says(`{"status":"ok","checks":{}}`)
	eventually(t, "the node is back", func() bool { return nodesOf(t, b)[url2].Usable })
	one.says(`{"status":"unavailable","checks":{"drain":{"status":"unavailable"}}}`)
	two.says(`{"status":"unavailable","checks":{"drain":{"status":"unavailable"}}}`)
	eventually(t, "both drain", func() bool { n := nodesOf(t, b); return n[url1].State == "draining" && n[url2].State == "draining" })
	if a := ask(t, httpClient(t), "POST", b.url+"/v1/messages", "{}"); a.status != 503 || a.code() != "no_node" || a.header.Get("Retry-After") == "" {
		t.Errorf("without a node: %+v", a)
	}
	if a := ask(t, httpClient(t), "GET", b.admin+"/readyz", ""); a.status != 503 {
		t.Errorf("/readyz without a node: %+v", a)
	}
	two.says(`{"status":"ok","checks":{}}`)
	eventually(t, "one is back", func() bool { return nodesOf(t, b)[url2].Usable })
	if got := metric(t, b, `esh3ar_balance_node_usable{node="`+url2+`"}`); got != 1 {
		t.Errorf("the metric says %v", got)
	}
	if a := ask(t, httpClient(t), "GET", b.admin+"/readyz", ""); a.status != 200 {
		t.Errorf("/readyz: %+v", a)
	}
}

// The same as the picker's simulation, with real connections and real time: one of three equal nodes answers ten times as slowly
// from one moment to the next, and within seconds its share has fallen accordingly, and stays there.
func TestEqualNodesAndASlowOne(t *testing.T) {
	const (
		usual  = 20 * time.Millisecond // so that a busy machine does not even out what the nodes differ by
		slowed = 10 * usual
		most   = 0.1             // of the requests
		within = 5 * time.Second // of the change
	)
	var nodes []*sayingNode
	var urls []string
	for range 3 {
		n, url := saying(t, `{"status":"ok","checks":{}}`)
		n.slow.Store(int64(usual))
		nodes, urls = append(nodes, n), append(urls, url)
	}
	b := start(t, newSetNodes(urls...), nil)
	ctx, cancel := context.WithCancel(context.Background())
	var clients [16]chan struct{}
	for i := range clients {
		clients[i] = make(chan struct{})
		c := httpClient(t)
		go func() {
			defer close(clients[i])
			for ctx.Err() == nil {
				r, _ := http.NewRequestWithContext(ctx, "POST", b.url+"/v1/messages", strings.NewReader("{}"))
				if resp, err := c.Do(r); err == nil {
					resp.Body.Close()
				}
			}
		}()
	}
	defer func() {
		cancel()
		for _, c := range clients {
			<-c
		}
	}()
	// shares waits for n requests and returns how they were spread.
	shares := func(n int64) []float64 {
		before := make([]int64, len(nodes))
		for i := range nodes {
			before[i] = nodes[i].hits.Load()
		}
		got := make([]float64, len(nodes))
		eventually(t, "enough requests were served", func() bool {
			var sum int64
			for i := range nodes {
				sum += nodes[i].hits.Load() - before[i]
			}
			for i := range nodes {
				got[i] = float64(nodes[i].hits.Load()-before[i]) / float64(max(sum, 1))
			}
			return sum >= n
		})
		return got
	}
	shares(300)
	even := shares(1500)
	var squares float64
	for _, s := range even {
		squares += s * s
	}
	if jain := 1 / (float64(len(even)) * squares); jain < 0.99 {
		t.Errorf("three equal nodes get %.3f; Jain's index %.4f", even, jain)
	}
	nodes[0].slow.Store(int64(slowed))
	changed := time.Now()
	var share float64
	for share = 1; share >= most && time.Since(changed) < 4*within; {
		share = shares(50)[0] // few, so that a machine that serves few in a second is seen to change in time, too
	}
	took := time.Since(changed)
	if took > within {
		t.Errorf("the share of a node that is ten times as slow fell to %.3f within %v", share, took)
	}
	after := shares(1000)
	t.Logf("three equal nodes had %.3f; %v after the first became slow it had less than %v of the requests; then they had %.3f", even, took, most, after)
	if after[0] == 0 || after[0] > most {
		t.Errorf("of a thousand requests a node that is ten times as slow has %.3f", after[0])
	}
}

func TestNodesThatLeave(t *testing.T) {
	one, two := raw(t, accepts), raw(t, accepts)
	source := newSetNodes(one.url, two.url)
	b := start(t, source, nil)
	c := httpClient(t)
	for range 40 {
		ask(t, c, "POST", b.url+"/v1/x", "{}")
	}
	source.change <- []string{two.url, "ftp://nonsense", two.url + "/"}
	eventually(t, "one node is left", func() bool { return len(b.nodes()) == 1 })
	before := one.requests()
	for range 40 {
		if a := ask(t, c, "POST", b.url+"/v1/x", "{}"); a.status != 202 {
			t.Fatalf("answered %+v", a)
		}
	}
	if one.requests() != before {
		t.Error("a node that left was asked")
	}
	if got := metric(t, b, `esh3ar_balance_attempts_total{node="`+one.url+`",result="served"}`); got != 0 {
		t.Errorf("a node that left has metrics still: %v", got)
	}
}

// watched collects what a source of nodes says.
func watched(t *testing.T, n Nodes) (sets chan []string, faults chan error) {
	ctx, cancel := context.WithCancel(context.Background())
	sets, faults = make(chan []string, 100), make(chan error, 100)
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.Watch(ctx, func(s []string) { sets <- slices.Clone(s) }, func(err error) {
			select {
			case faults <- err:
			default:
			}
		})
	}()
	t.Cleanup(func() { cancel(); <-done })
	return sets, faults
}

func TestNodesOfAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "nodes")
	sets, faults := watched(t, File{Path: path, Every: 2 * time.Millisecond})
	if err := <-faults; !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a file: %v", err)
	}
	write(t, path, []byte("# ours\nhttp://b:1\n\n http://a:1 \nhttp://b:1\n"))
	if got := <-sets; !slices.Equal(got, []string{"http://a:1", "http://b:1"}) {
		t.Errorf("read %q", got)
	}
	for len(faults) > 0 {
		<-faults
	}
	for _, bad := range []string{"", "ftp://a:1\n"} {
		write(t, path, []byte(bad))
		<-faults
	}
	write(t, path, []byte("http://c:1\n"))
	if got := <-sets; !slices.Equal(got, []string{"http://c:1"}) {
		t.Errorf("read %q", got)
	}
}

// names answers look-ups with what is in it, in turn.
type namesInTurn struct{ answers chan []netip.Addr }

func (n *namesInTurn) LookupNetIP(ctx context.Context, _, host string) ([]netip.Addr, error) {
	select {
	case a := <-n.answers:
		if a == nil {
			return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
		}
		return a, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func TestNodesOfAName(t *testing.T) {
	resolver := &namesInTurn{make(chan []netip.Addr, 3)}
	sets, faults := watched(t, DNS{HostPort: "nodes.internal:8080", Every: 2 * time.Millisecond, Resolver: resolver})
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("2001:db8::1")
	resolver.answers <- []netip.Addr{b, a}
	if got := <-sets; !slices.Equal(got, []string{"http://10.0.0.1:8080", "http://[2001:db8::1]:8080"}) {
		t.Errorf("resolved to %q", got)
	}
	resolver.answers <- nil
	if err := <-faults; err == nil {
		t.Error("a name that is gone is no fault")
	}
	resolver.answers <- []netip.Addr{a, b} // no change
	resolver.answers <- []netip.Addr{b}
	if got := <-sets; !slices.Equal(got, []string{"http://[2001:db8::1]:8080"}) {
		t.Errorf("resolved to %q", got)
	}
}

// TestNewsOfNodes: the log warns of nodes that are out of use alone, and says why.
func TestNewsOfNodes(t *testing.T) {
	for _, c := range []struct {
		view  picker.View
		level slog.Level
		state string
		cause string
	}{
		{picker.View{State: picker.Ready}, slog.LevelInfo, "ready", ""},
		{picker.View{State: picker.Degraded, Cause: "store: away"}, slog.LevelInfo, "degraded", "store: away"},
		{picker.View{State: picker.Draining, Cause: "is about to stop"}, slog.LevelInfo, "draining", "is about to stop"},
		{picker.View{State: picker.Unready, Cause: "does not answer"}, slog.LevelWarn, "unready", "does not answer"},
		{picker.View{State: picker.Degraded, Cause: "store: away", Ejected: time.Now()}, slog.LevelWarn, "ejected", "failed too often in a row"},
	} {
		if level, state, cause := news(c.view); level != c.level || state != c.state || cause != c.cause {
			t.Errorf("%+v: %v, %s, %q", c.view, level, state, cause)
		}
	}
}

// logLines gets the lines of a log.
type logLines chan string

// Write implements io.Writer.
func (l logLines) Write(p []byte) (int, error) {
	l <- string(p)
	return len(p), nil
}

// TestLogOfNodes: a line for each change, without a cause where there is none.
func TestLogOfNodes(t *testing.T) {
	node, url := saying(t, `{"status":"ok","checks":{}}`)
	lines := make(logLines, 100)
	start(t, newSetNodes(url), func(o *Options) { o.Logger = slog.New(slog.NewTextHandler(lines, nil)) })
	want := func(end string) {
		t.Helper()
		for {
			select {
			case line := <-lines:
				if !strings.Contains(line, "a node's state has changed") || strings.Contains(line, "state=unknown") {
					continue
				}
				if want := "node=" + url + " " + end + "\n"; !strings.HasSuffix(line, want) {
					t.Errorf("the line is %q, and not of %q", line, want)
				}
				return
			case <-time.After(10 * time.Second):
				t.Fatalf("no line of %s", end)
			}
		}
	}
	want("state=ready")
	node.says(`{"status":"unavailable","checks":{"disk":{"status":"unavailable","detail":"full"}}}`)
	want(`state=unready cause="disk: full"`)
	node.says(`{"status":"ok","checks":{}}`)
	want("state=ready")
}

func TestReadHealth(t *testing.T) {
	for in, want := range map[string]string{
		`200 {"status":"ok","checks":{},"load":{"free":0.5}}`:                                                         "ready 0.5 ",
		`200 {"status":"degraded","checks":{"b":{"status":"degraded"},"a":{"status":"degraded","detail":"x"}}}`:       "degraded 1 a: x",
		`503 {"status":"unavailable","checks":{"a":{"status":"degraded"},"b":{"status":"unavailable","detail":"y"}}}`: "unready 1 b: y",
		`503 {"status":"ok","checks":{}}`: "unready 1 ",
		`404 not found`:                   "ready 1 does not tell how it is",
	} {
		code, body, _ := strings.Cut(in, " ")
		status, _ := strconv.Atoi(code)
		h, err := readHealth(status, []byte(body))
		if got := fmt.Sprintf("%s %v %s", h.State, h.Free, h.Cause); err != nil || got != want {
			t.Errorf("%s: %s, %v; want %s", in, got, err, want)
		}
	}
	if _, err := readHealth(502, []byte("bad gateway")); err == nil {
		t.Error("502 without a report is no failure")
	}
}
