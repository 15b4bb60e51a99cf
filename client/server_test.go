package client_test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"

	"github.com/esh3artech/esh3ar/client"
)

// request is what a test's server saw of one request.
type request struct {
	Method, Path, Query, Key, Auth string
	Body                           []byte
}

// server is an HTTP server on in-memory connections, so that it works inside a synctest bubble. Its
// script answers the n-th request, n ≥ 1.
type server struct {
	mu   sync.Mutex
	seen []request
}

func (s *server) requests() []request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]request(nil), s.seen...)
}

// serve starts a server for the test and returns it with a client of it.
func serve(t *testing.T, script func(n int, w http.ResponseWriter, r request), opts ...client.Option) (*server, *client.Client) {
	t.Helper()
	s := &server{}
	ln := &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("reading the request: %v", err)
		}
		seen := request{
			Method: r.Method, Path: r.URL.Path, Query: r.URL.RawQuery, Body: body,
			Key: r.Header.Get("Idempotency-Key"), Auth: r.Header.Get("Authorization"),
		}
		s.mu.Lock()
		s.seen = append(s.seen, seen)
		n := len(s.seen)
		s.mu.Unlock()
		script(n, w, seen)
	})}
	served := make(chan struct{})
	go func() {
		defer close(served)
		srv.Serve(ln)
	}()
	transport := &http.Transport{DialContext: ln.dial}
	c, err := client.New("http://esh3ar.test/base", "esh_key", append([]client.Option{
		client.WithHTTPClient(&http.Client{Transport: transport}),
	}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		srv.Close()
		<-served
	})
	return s, c
}

// pipeListener is a listener of in-memory connections.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (l *pipeListener) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case l.conns <- there:
		return here, nil
	case <-l.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

// answer writes a JSON answer.
func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body)
}

// refuse writes a problem.
func refuse(w http.ResponseWriter, p client.Problem) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	json.NewEncoder(w).Encode(p)
}

// hangUp breaks the connection in place of an answer.
func hangUp(http.ResponseWriter) { panic(http.ErrAbortHandler) }

func accepted(w http.ResponseWriter, id string) {
	answer(w, http.StatusAccepted, map[string]string{
		"id": id, "status": "accepted", "to": "amina", "accepted_at": "2026-11-24T20:00:00.5Z",
	})
}
