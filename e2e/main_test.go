// Package e2e tests the real program from outside: built as users build it (with the race detector
// on), started as a process, spoken to over the network, stopped and killed with signals.
package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

// program is the path of the program under test, set by TestMain alone.
var program string

func TestMain(m *testing.M) {
	os.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	if order := os.Getenv(floodOrder); order != "" {
		return flood(order)
	}
	dir, err := os.MkdirTemp("", "esh3ar-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "esh3ar")
	if given := os.Getenv("E2E_PROGRAM"); given != "" {
		// To try a binary built in some other way.
		program = given
	} else if out, err := exec.Command("go", "build", "-race", "-gcflags=modernc.org/sqlite/lib=-race=false", // as scripts/test has it
		"-o", program, "../cmd/esh3ar").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building the program: %v\n%s", err, out)
		return 1
	}
	status := m.Run()
	if status == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, errors.Join(errors.New("goroutines left behind by the tests"), err))
			return 1
		}
	}
	return status
}
