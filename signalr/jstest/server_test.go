package jstest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar/signalr"
	"github.com/esh3artech/esh3ar/signalr/internal/cutproxy"
)

// A site is what the scenarios of one configuration talk to: hubs behind a proxy that can cut
// connections, all at once, and a control endpoint beside the proxy.
type site struct {
	web   *httptest.Server
	proxy *cutproxy.Proxy

	mu         sync.Mutex
	ended      map[string]chan string // by connection id
	forever    map[string]chan struct{}
	remembered map[string][]int
}

// config is what scenarios.mjs is told.
type config struct {
	Hub       string `json:"hub"`
	Ordered   string `json:"ordered"`   // runs one invocation after another, Hub four at a time
	Impatient string `json:"impatient"` // pings often and soon gives up silent clients
	Redirect  string `json:"redirect"`  // redirects to Hub
	Control   string `json:"control"`
	Transport string `json:"transport"`
	Protocol  string `json:"protocol"`
	Token     string `json:"token"`
}

func startSite(t *testing.T) *site {
	t.Helper()
	s := &site{ended: make(map[string]chan string), forever: make(map[string]chan struct{}), remembered: make(map[string][]int)}
	server, err := signalr.NewServer(signalr.Options{})
	if err != nil {
		t.Fatal(err)
	}
	options := signalr.HubOptions{
		Authenticate:           authenticate,
		AllowedOrigins:         []string{"*"},
		StatefulReconnect:      true,
		MaxParallelInvocations: 4,
		OutboxMessages:         5000,
		OnDisconnected: func(c *signalr.Conn, err error) {
			text := "no error"
			if err != nil {
				text = err.Error()
			}
			s.end(c.ID()) <- text
		},
	}
	hub, err := server.NewHub(options)
	if err != nil {
		t.Fatal(err)
	}
	s.register(hub)
	options.MaxParallelInvocations = 1
	ordered, err := server.NewHub(options)
	if err != nil {
		t.Fatal(err)
	}
	s.register(ordered)
	options.KeepAliveInterval, options.ClientTimeout = 200*time.Millisecond, 3*time.Second
	impatient, err := server.NewHub(options)
	if err != nil {
		t.Fatal(err)
	}
	s.register(impatient)
	redirecting, err := server.NewHub(signalr.HubOptions{
		AllowedOrigins: []string{"*"},
		Redirect: func(*http.Request, signalr.Identity) (signalr.Redirect, error) {
			return signalr.Redirect{URL: s.proxy.URL() + "/hub", AccessToken: "redirected"}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	hub.Mount(mux, "/hub")
	ordered.Mount(mux, "/ordered")
	impatient.Mount(mux, "/impatient")
	redirecting.Mount(mux, "/redirect")
	mux.HandleFunc("POST /control/cut", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "*")
		s.proxy.Cut()
	})
	mux.HandleFunc("POST /control/ended", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "*")
		select {
		case text := <-s.end(r.FormValue("id")):
			fmt.Fprint(w, text)
		case <-r.Context().Done():
		}
	})
	s.web = httptest.NewServer(mux)
	s.proxy = cutproxy.New(t, s.web.URL)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		s.web.CloseClientConnections()
		s.web.Close()
	})
	return s
}

func (s *site) config(transport, protocol string) config {
	return config{
		Hub: s.proxy.URL() + "/hub", Ordered: s.proxy.URL() + "/ordered", Impatient: s.proxy.URL() + "/impatient",
		Redirect: s.proxy.URL() + "/redirect", Control: s.web.URL + "/control",
		Transport: transport, Protocol: protocol, Token: "alice",
	}
}

// authenticate takes the token for the user id.
func authenticate(r *http.Request) (signalr.Identity, error) {
	token := signalr.AccessToken(r)
	if token == "" || token == "bad" {
		return signalr.Identity{}, errors.New("no good token")
	}
	return signalr.Identity{UserID: token}, nil
}

// end is the channel on which the end of a connection is told.
func (s *site) end(id string) chan string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended[id] == nil {
		s.ended[id] = make(chan string, 1)
	}
	return s.ended[id]
}

// foreverEnded is closed when the endless stream of a connection has ended.
func (s *site) foreverEnded(id string) chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.forever[id] == nil {
		s.forever[id] = make(chan struct{})
	}
	return s.forever[id]
}

// pace is the pause between the messages of slow streams.
const pace = 2 * time.Millisecond

func (s *site) register(h *signalr.Hub) {
	type (
		ctx  = context.Context
		conn = signalr.Conn
	)
	h.Handle("Echo", signalr.Func1(func(_ ctx, _ *conn, v any) (any, error) { return v, nil }))
	h.Handle("Add", signalr.Func2(func(_ ctx, _ *conn, a, b int) (int, error) { return a + b, nil }))
	h.Handle("Nothing", signalr.Action0(func(ctx, *conn) error { return nil }))
	h.Handle("Refuse", signalr.Action1(func(_ ctx, _ *conn, text string) error { return &signalr.HubError{Message: text} }))
	h.Handle("Fail", signalr.Action0(func(ctx, *conn) error { return errors.New("secret") }))
	h.Handle("WhoAmI", signalr.Func0(func(_ ctx, c *conn) (string, error) { return c.UserID(), nil }))
	h.Handle("ConnectionID", signalr.Func0(func(_ ctx, c *conn) (string, error) { return c.ID(), nil }))
	h.Handle("Push", signalr.Action1(func(_ ctx, c *conn, n int) error {
		for i := range n {
			if err := c.Send(signalr.NewMessage("Number", i)); err != nil {
				return err
			}
		}
		return nil
	}))
	// A stream without items: streams run beside the reader also where
	// invocations do not.
	h.Handle("PushSlowly", signalr.Stream1(func(ctx ctx, c *conn, n int, _ *signalr.StreamWriter[int]) error {
		return slowly(ctx, n, func(i int) error { return c.Send(signalr.NewMessage("Number", i)) })
	}))
	h.Handle("Count", signalr.Stream1(func(_ ctx, _ *conn, n int, out *signalr.StreamWriter[int]) error {
		for i := range n {
			if err := out.Send(i); err != nil {
				return err
			}
		}
		return nil
	}))
	h.Handle("CountSlowly", signalr.Stream1(func(ctx ctx, _ *conn, n int, out *signalr.StreamWriter[int]) error {
		return slowly(ctx, n, out.Send)
	}))
	h.Handle("CountAndFail", signalr.Stream1(func(_ ctx, _ *conn, n int, out *signalr.StreamWriter[int]) error {
		for i := range n {
			if err := out.Send(i); err != nil {
				return err
			}
		}
		return &signalr.HubError{Message: "enough"}
	}))
	h.Handle("Forever", signalr.Stream0(func(ctx ctx, c *conn, out *signalr.StreamWriter[int]) error {
		defer close(s.foreverEnded(c.ID()))
		return slowly(ctx, 1<<30, out.Send)
	}))
	h.Handle("ForeverEnded", signalr.Func0(func(ctx ctx, c *conn) (bool, error) {
		select {
		case <-s.foreverEnded(c.ID()):
			return true, nil
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}))
	h.Handle("Sum", signalr.Func1(func(ctx ctx, _ *conn, in *signalr.StreamReader[int]) (int, error) {
		items, err := readAll(ctx, in)
		sum := 0
		for _, n := range items {
			sum += n
		}
		return sum, err
	}))
	h.Handle("Collect", signalr.Func1(func(ctx ctx, _ *conn, in *signalr.StreamReader[int]) ([]int, error) {
		return readAll(ctx, in)
	}))
	h.Handle("Double", signalr.Stream1(func(ctx ctx, _ *conn, in *signalr.StreamReader[int], out *signalr.StreamWriter[int]) error {
		for {
			n, err := in.Next(ctx)
			if err == io.EOF {
				return nil
			}
			if err == nil {
				err = out.Send(2 * n)
			}
			if err != nil {
				return err
			}
		}
	}))
	h.Handle("Remember", signalr.Action2(func(_ ctx, _ *conn, key string, n int) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.remembered[key] = append(s.remembered[key], n)
		return nil
	}))
	h.Handle("Remembered", signalr.Func1(func(_ ctx, _ *conn, key string) ([]int, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.remembered[key], nil
	}))
	h.Handle("Join", signalr.Action1(func(_ ctx, c *conn, group string) error { return c.JoinGroup(group) }))
	h.Handle("TellGroup", signalr.Func2(func(_ ctx, _ *conn, group, text string) (int, error) {
		return h.Group(group).Send(signalr.NewMessage("Tell", text)), nil
	}))
	h.Handle("CloseMe", signalr.Action2(func(_ ctx, c *conn, text string, allowReconnect bool) error {
		c.Close(text, allowReconnect)
		return nil
	}))
	h.Handle("AskMe", signalr.Func1(func(ctx ctx, c *conn, n int) (int, error) {
		result, err := c.Invoke(ctx, signalr.NewMessage("Ask", n))
		if err != nil {
			return 0, &signalr.HubError{Message: err.Error()}
		}
		var answer int
		err = result.Decode(&answer)
		return answer, err
	}))
}

// slowly calls f for the numbers below n, with a pause after each.
func slowly(ctx context.Context, n int, f func(i int) error) error {
	ticker := time.NewTicker(pace)
	defer ticker.Stop()
	for i := range n {
		if err := f(i); err != nil {
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func readAll(ctx context.Context, in *signalr.StreamReader[int]) ([]int, error) {
	var items []int
	for {
		n, err := in.Next(ctx)
		if err == io.EOF {
			return items, nil
		}
		if err != nil {
			return items, err
		}
		items = append(items, n)
	}
}

// result is a line of a runner's output.
type result struct {
	Name  string `json:"name"`
	OK    bool   `json:"ok"`
	Error string `json:"error"`
}

// results runs one subtest for each line.
func results(t *testing.T, lines <-chan string, want int) {
	t.Helper()
	n := 0
	for line := range lines {
		var r result
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Errorf("the runner said %q", line)
			continue
		}
		n++
		t.Run(r.Name, func(t *testing.T) {
			if !r.OK {
				t.Error(r.Error)
			}
		})
	}
	if n < want {
		t.Errorf("only %d scenarios ran", n)
	}
}
