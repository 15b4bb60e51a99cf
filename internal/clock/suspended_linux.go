package clock

import (
	"time"

	"golang.org/x/sys/unix"
)

// suspended returns how long the machine has slept since it was started: what CLOCK_BOOTTIME counts
// and CLOCK_MONOTONIC does not.
func suspended() time.Duration {
	var boot, mono unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &mono) != nil || unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot) != nil {
		return 0
	}
	return max(time.Duration(boot.Nano()-mono.Nano()), 0).Truncate(time.Millisecond)
}
