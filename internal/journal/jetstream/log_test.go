package jetstream_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/esh3artech/esh3ar/internal/cluster"
	"github.com/esh3artech/esh3ar/internal/journal"
	"github.com/esh3artech/esh3ar/internal/journal/jetstream"
	"github.com/esh3artech/esh3ar/internal/journal/journaltest"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDirEnv); dir != "" {
		appendUntilKilled(dir, os.Getenv(crashNumberEnv))
	}
	goleak.VerifyTestMain(m)
}

// ownLog is a log together with its server.
type ownLog struct {
	*jetstream.Log
	server *cluster.Server
}

func (l ownLog) Close() error {
	return errors.Join(l.Log.Close(), l.server.Close())
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// openIn opens a log with a server of its own on the directory.
func openIn(dir string, logger *slog.Logger, o jetstream.Options) (ownLog, error) {
	server, err := cluster.Start(cluster.Options{
		Name: "journal-test", Dir: dir, MaxStore: 64 << 30, MaxMemory: 64 << 20, Logger: logger,
	})
	if err != nil {
		return ownLog{}, err
	}
	o.Server, o.Logger = server, logger
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	l, err := jetstream.Open(ctx, o)
	if err != nil {
		return ownLog{}, errors.Join(err, server.Close())
	}
	return ownLog{l, server}, nil
}

// closing closes what a test has opened.
func closing(t testing.TB, c io.Closer) {
	if err := c.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

// mustOpenIn is openIn until the end of the test.
func mustOpenIn(t testing.TB, dir string, o jetstream.Options) ownLog {
	t.Helper()
	l, err := openIn(dir, quiet(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closing(t, l) })
	return l
}

func TestConformance(t *testing.T) {
	journaltest.Run(t, func(t *testing.T) journaltest.Harness {
		dir := t.TempDir()
		return journaltest.Harness{Open: func(t testing.TB, o journaltest.Options) journal.Log {
			l, err := openIn(dir, quiet(), jetstream.Options{Shards: o.Shards, MaxBytes: o.MaxBytes})
			if err != nil {
				t.Fatal(err)
			}
			return l
		}}
	})
}
