package autoscale

import (
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// nodeManner has the test's own program be a node: one that ends when it is told to, or one that does not.
const nodeManner = "AUTOSCALE_TEST_NODE"

// nodeReady names the file by which a stubborn node says that it is.
const nodeReady = "AUTOSCALE_TEST_READY"

func TestMain(m *testing.M) {
	switch os.Getenv(nodeManner) {
	case "":
		goleak.VerifyTestMain(m)
	case "obedient":
		told := make(chan os.Signal, 1)
		signal.Notify(told, syscall.SIGTERM)
		<-told
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
		if err := os.WriteFile(os.Getenv(nodeReady), nil, 0o600); err != nil {
			os.Exit(3)
		}
		<-time.After(time.Minute)
	default:
		os.Exit(3)
	}
}

// patience bounds what must happen.
const patience = 30 * time.Second

// eventually waits until the condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}
