package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/esh3artech/esh3ar/internal/cluster"
)

func TestCheckSync(t *testing.T) {
	for _, always := range []bool{true, false} {
		t.Run(fmt.Sprint(always), func(t *testing.T) {
			s, err := server.NewServer(&server.Options{
				ServerName: "monitored", Host: "127.0.0.1", Port: server.RANDOM_PORT, HTTPHost: "127.0.0.1", HTTPPort: server.RANDOM_PORT,
				JetStream: true, StoreDir: t.TempDir(), SyncAlways: always, NoSigs: true, NoLog: true,
			})
			if err != nil {
				t.Fatal(err)
			}
			s.Start()
			defer s.WaitForShutdown()
			defer s.Shutdown()
			if !s.ReadyForConnections(10 * time.Second) {
				t.Fatal("the server does not start")
			}
			err = cluster.CheckSync(t.Context(), "http://"+s.MonitorAddr().String())
			if errors.Is(err, cluster.ErrNotSynced) == always || always && err != nil {
				t.Error(err)
			}
		})
	}
	if err := cluster.CheckSync(t.Context(), "http://127.0.0.1:1"); err == nil || errors.Is(err, cluster.ErrNotSynced) {
		t.Errorf("a server that is not there: %v", err)
	}
}

// A server that takes the connection and says nothing is not held on to.
func TestCheckSyncOfASilentServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := cluster.CheckSync(ctx, "https://"+l.Addr().String()); err == nil || errors.Is(err, cluster.ErrNotSynced) {
		t.Error(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection is left open")
	}
}
