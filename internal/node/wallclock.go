package node

import (
	"os"
	"strings"
	"time"
)

// ClockFileVariable names an environment variable for tests alone, which is why it is no option: it
// names a file with how far the machine's clock is to seem off, such as "-5h0m0s". The file is read
// whenever the clock is compared with the machine's, so that a test can let it jump while the server
// runs. The chaos laboratory does.
const ClockFileVariable = "ESH3ARTEST_CLOCK_FILE"

// wallClock returns the machine's clock as a test has it, nil for as it is.
func wallClock() func() time.Time {
	path := os.Getenv(ClockFileVariable)
	if path == "" {
		return nil
	}
	return func() time.Time {
		text, err := os.ReadFile(path)
		if err != nil {
			return time.Now()
		}
		off, err := time.ParseDuration(strings.TrimSpace(string(text)))
		if err != nil {
			return time.Now()
		}
		return time.Now().Add(off)
	}
}
