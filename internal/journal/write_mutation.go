//go:build mutation_ack_early

package journal

import (
	"bytes"
	"context"
	"time"
)

// write has done called before data is durable, as a log does that syncs every few milliseconds and
// does not wait for it. This is wrong, and here to show that the chaos laboratory finds it.
func (a *Appender) write(ctx context.Context, p Partition, data []byte, done func(uint64, error)) {
	data = bytes.Clone(data)
	done(0, nil)
	time.Sleep(20 * time.Millisecond)
	_, _ = a.log.Append(context.WithoutCancel(ctx), p, data)
}
