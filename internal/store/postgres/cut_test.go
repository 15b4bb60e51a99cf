package postgres_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/esh3artech/esh3ar/internal/store"
	"github.com/esh3artech/esh3ar/internal/store/postgres"
	"github.com/esh3artech/esh3ar/internal/store/storetest"
)

var errCut = errors.New("connection cut")

// cutConn watches what a client and the server say to each other and breaks the connection where it
// is told to: before or inside the message that begins a step, or instead of the server's word that
// it has committed.
type cutConn struct {
	net.Conn
	inside bool
	mu     sync.Mutex // atStep is called by readers and writers
	atStep func(store.Step) error
}

// Write forwards whole flushes of the client, each of which begins with a message.
func (c *cutConn) Write(p []byte) (int, error) {
	for at := 0; at+5 <= len(p) && p[0] != 0; { // the first message of a connection has no type
		size := 1 + int(binary.BigEndian.Uint32(p[at+1:]))
		if at+size > len(p) {
			break
		}
		if p[at] == 'B' { // Bind: portal, then statement
			names := bytes.SplitN(p[at+5:at+size], []byte{0}, 3)
			step, _, _ := strings.Cut(string(names[1]), "_")
			if err := c.step(store.Step(step)); err != nil {
				if c.inside {
					at += size / 2
				}
				n, _ := c.Conn.Write(p[:at])
				_ = c.Close()
				return n, err
			}
		}
		at += size
	}
	return c.Conn.Write(p)
}

func (c *cutConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if bytes.Contains(p[:n], []byte("COMMIT\x00")) {
		if err := c.step(store.StepCommitted); err != nil {
			_ = c.Close()
			return 0, err
		}
	}
	return n, err
}

func (c *cutConn) step(s store.Step) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.atStep(s)
}

// TestCut cuts the real connection to a real server at every step of a commit.
func TestCut(t *testing.T) {
	for name, inside := range map[string]bool{"before": false, "inside": true} {
		t.Run(name, func(t *testing.T) {
			storetest.RunCuts(t, func(t *testing.T, atStep func(store.Step) error) storetest.Crash {
				url := server.Database(t)
				var dialer net.Dialer
				return storetest.Crash{
					Store: openURL(t, url, postgres.Options{
						Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
							conn, err := dialer.DialContext(ctx, network, addr)
							if err != nil {
								return nil, err
							}
							return &cutConn{Conn: conn, inside: inside, atStep: atStep}, nil
						},
					}),
					Cut:    func() error { return errCut },
					Reopen: func(t *testing.T) store.Store { return openURL(t, url, postgres.Options{}) },
				}
			})
		})
	}
}
