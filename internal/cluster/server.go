// Package cluster is the ground that nodes stand on together: the NATS server inside this process, alone
// or as one of several, or servers elsewhere (External); who is there (Members); and who may try to own
// which shard (Leases).
package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// MaxPayload is the longest message that the server takes, in bytes. It is also
// NATS's own default, so that an external server needs no setting for us.
const MaxPayload = 1 << 20

// readyTimeout is how long a started server may take until it accepts
// connections. The recovery of its streams is not part of that time.
const readyTimeout = 10 * time.Second

// startInterval is how long the server is asked at a time whether it is there.
const startInterval = 100 * time.Millisecond

// readyInterval is how often Ready looks.
const readyInterval = 20 * time.Millisecond

// reconnectWait is the pause between two attempts to reach a server that went
// away.
const reconnectWait = 50 * time.Millisecond

// errNotRunning is between a restart that failed and the next, and after Close.
var errNotRunning = errors.New("cluster: the embedded NATS server is not running")

// Options configures a Server.
type Options struct {
	// Name is the server's name, unique among the servers that know each
	// other. Required.
	Name string

	// Dir keeps the streams. It is created if absent and belongs to one
	// Server at a time, over all processes. Required.
	Dir string

	// MaxStore and MaxMemory bound what JetStream may keep on disk and in
	// memory, in bytes. The size limits of all streams must fit into them.
	// Both are required.
	MaxStore, MaxMemory int64

	// Logger gets what the server reports. Required.
	Logger *slog.Logger

	// Peers makes the server one of several. Nil means that it is alone.
	Peers *Peers

	// Clients has the server listen for clients. Nil means that connections
	// are made in memory alone.
	Clients *Clients
}

// Server is a NATS server with JetStream inside this process, alone or one of
// several that keep streams together. Every write to a stream is synced to disk
// before it is acknowledged. Connections are made in memory; without Peers and
// Clients it listens nowhere.
//
// It can be restarted, and connections from Connect come back by themselves.
// All methods may be called concurrently.
type Server struct {
	opts  Options
	lock  *os.File // holds the directory
	token string   // admits connections in memory to a server that asks for one

	// disabled is why the server has turned JetStream off by itself, if it has.
	disabled atomic.Pointer[error]

	mu      sync.RWMutex
	running *server.Server // nil while a restart has not succeeded and after Close
	closed  bool

	watching sync.WaitGroup     // what watches the running server's peers
	endWatch context.CancelFunc // ends it
}

// Start starts a server and returns when its streams are recovered and it
// accepts connections.
func Start(o Options) (*Server, error) {
	switch {
	case o.Name == "" || o.Dir == "" || o.Logger == nil:
		return nil, errors.New("cluster: name, directory and logger are required")
	case o.MaxStore <= 0 || o.MaxMemory <= 0:
		return nil, fmt.Errorf("cluster: limits of %d bytes on disk and %d in memory: both must be positive", o.MaxStore, o.MaxMemory)
	}
	if err := errors.Join(o.Peers.check(), o.Clients.check()); err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("cluster: journal directory: %w", err)
	}
	lock, err := lockDir(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("cluster: journal directory %s: %w", o.Dir, err)
	}
	s := &Server{opts: o, lock: lock, token: rand.Text()}
	if o.Clients != nil {
		s.token = o.Clients.Token
	}
	if s.running, err = s.start(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return s, nil
}

// start starts one incarnation of the server.
func (s *Server) start() (*server.Server, error) {
	o := &server.Options{
		ServerName:             s.opts.Name,
		NoSigs:                 true,
		JetStream:              true,
		DisableJetStreamBanner: true,
		StoreDir:               s.opts.Dir,
		JetStreamMaxStore:      s.opts.MaxStore,
		JetStreamMaxMemory:     s.opts.MaxMemory,
		SyncAlways:             syncAlways,
		MaxPayload:             MaxPayload,
	}
	if err := s.listen(o); err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	if err := removeProbes(filepath.Join(s.opts.Dir, server.JetStreamStoreDir)); err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	srv, err := server.NewServer(o)
	if err != nil {
		return nil, fmt.Errorf("cluster: NATS server: %w", err)
	}
	s.disabled.Store(nil)
	logger := natsLogger{s.opts.Logger, new(atomic.Pointer[error]), &s.disabled, new(failedRoute)}
	srv.SetLogger(logger, false, false)
	srv.Start()
	if err := awaitStart(srv, logger.fatal); err != nil {
		srv.Shutdown()
		srv.WaitForShutdown()
		return nil, fmt.Errorf("cluster: NATS server with streams in %s: %w", s.opts.Dir, err)
	}
	s.keepPorts(srv)
	var ctx context.Context
	ctx, s.endWatch = context.WithCancel(context.Background())
	if s.opts.Peers != nil {
		s.watching.Go(func() { watchPeers(ctx, srv, logger.route, s.opts.Logger) })
	}
	return srv, nil
}

// removeProbes removes the files by which a starting server tries whether it can write to its directory. One that was
// killed in that moment leaves its file, which later ones take for an account that they do not know: they would never
// be well again.
func removeProbes(dir string) error {
	probes, err := filepath.Glob(filepath.Join(dir, "_test_*"))
	if err != nil {
		return err
	}
	for _, p := range probes {
		if info, err := os.Lstat(p); err != nil || !info.Mode().IsRegular() {
			continue
		}
		if err := os.Remove(p); err != nil {
			return err
		}
	}
	return nil
}

// awaitStart waits until a server accepts connections. One that has said why it
// cannot start is not waited for.
func awaitStart(srv *server.Server, fatal *atomic.Pointer[error]) error {
	for deadline := time.Now().Add(readyTimeout); ; {
		ready := srv.ReadyForConnections(startInterval)
		switch err := fatal.Load(); {
		case err != nil:
			return *err
		case ready && srv.JetStreamEnabled():
			return nil
		case time.Now().After(deadline):
			return errors.New("it did not start in time")
		}
	}
}

// Ready waits until the server can serve its streams: at once if it is alone,
// else when the servers have a leader and this one knows what the leader knows.
// It returns ctx's error if that does not come to pass before ctx ends, and
// WriteError's as soon as there is one: the server has given up, and only
// Restart would have it try again.
func (s *Server) Ready(ctx context.Context) error {
	tick := time.NewTicker(readyInterval)
	defer tick.Stop()
	for {
		state := s.metaState()
		if state == nil {
			return nil
		}
		if err := s.WriteError(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("cluster: %w: %w", context.Cause(ctx), state)
		case <-tick.C:
		}
	}
}

// metaState says what keeps the server from being ready.
func (s *Server) metaState() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.running == nil {
		return errNotRunning
	}
	if h := s.running.Healthz(&server.HealthzOptions{JSMetaOnly: true}); h.Error != "" {
		return errors.New(h.Error)
	}
	return nil
}

// Connect connects to the server. The connection comes back by itself after a
// restart, for as long as it takes; what is published meanwhile is refused
// rather than kept, so that its outcome is known at once. Options may change
// this.
func (s *Server) Connect(options ...nats.Option) (*nats.Conn, error) {
	options = append(append(reconnecting(), nats.InProcessServer(s), nats.Token(s.token)), options...)
	nc, err := nats.Connect("", options...)
	if err != nil {
		return nil, fmt.Errorf("cluster: connect to the embedded NATS server: %w", err)
	}
	return nc, nil
}

// InProcessConn opens a connection in memory; it is what makes a Server an
// nats.InProcessConnProvider.
func (s *Server) InProcessConn() (net.Conn, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.running == nil {
		return nil, errNotRunning
	}
	return s.running.InProcessConn()
}

// WriteError returns the error that has stopped writes to a stream or kept it
// from being recovered, or nil. It stays until Restart.
func (s *Server) WriteError() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.running == nil {
		return errNotRunning
	}
	if disabled := s.disabled.Load(); disabled != nil {
		return fmt.Errorf("cluster: %w", *disabled)
	}
	// Health has more to it than we ask: a server that is only slow to answer
	// has not failed to write, and one of several is not healthy while it has no
	// leader or catches up.
	for _, e := range s.running.Healthz(&server.HealthzOptions{Details: true}).Errors {
		if e.Type != server.HealthzErrorStream && e.Type != server.HealthzErrorJetStream {
			continue
		}
		if s.opts.Peers == nil || strings.Contains(e.Error, "write error") {
			return fmt.Errorf("cluster: %s", e.Error)
		}
	}
	return nil
}

// FreeBytes returns how many bytes may still be written to the file system of
// the server's directory.
func (s *Server) FreeBytes() (uint64, error) {
	free, err := freeBytes(s.opts.Dir)
	if err != nil {
		return 0, fmt.Errorf("cluster: free space of %s: %w", s.opts.Dir, err)
	}
	return free, nil
}

// Restart closes the server and opens it again on the same directory. If that
// fails there is no server until a later Restart succeeds.
func (s *Server) Restart() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errors.New("cluster: the embedded NATS server is closed")
	}
	s.shutdown()
	var err error
	s.running, err = s.start()
	return err
}

// Close stops the server and frees its directory. Closing again does nothing.
func (s *Server) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	s.shutdown()
	return s.lock.Close()
}

// shutdown stops the running incarnation, if any. The lock must be held.
func (s *Server) shutdown() {
	if s.running != nil {
		s.endWatch()
		s.watching.Wait()
		if s.opts.Peers != nil && !majority(s.running) {
			endGroups(s.running)
		}
		s.running.Shutdown()
		s.running.WaitForShutdown()
		s.running = nil
	}
}

// lockPath is the file whose lock says that a directory is in use.
func lockPath(dir string) string { return filepath.Join(dir, "in-use") }
