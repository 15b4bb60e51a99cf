package cluster_test

import (
	"errors"
	"fmt"
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
