//go:build !mutation_ack_early

package journal

import "context"

// write hands data to the log and has done called once it is durable, or failed to become so.
func (a *Appender) write(ctx context.Context, p Partition, data []byte, done func(uint64, error)) {
	if a.async != nil {
		a.async.AppendAsync(ctx, p, data, done)
		return
	}
	done(a.log.Append(ctx, p, data))
}
