package jetstream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// feed is what comes from one consumer.
//
// nats.go's Messages would do the same, but keeps to itself what the server says other than messages: that nobody has got the
// request, because the consumer is so new that its server's word of it is still on the way, or that its server is being
// stopped. It would be noticed by the silence, a second later, in which nobody gets what is accepted.
type feed struct {
	server  string // that the consumer is at, "" if there is but one
	began   time.Time
	entries chan jetstream.Msg // unbuffered: what waits to be read is with nats.go, as much as was asked for

	lost  context.Context // ends when nothing more is to be expected; its cause says why
	lose  context.CancelCauseFunc
	quiet func() // ends the consuming
}

var errLeft = errors.New("the consumer has been left")

// consume begins to read from a consumer.
func consume(consumer jetstream.Consumer, opts ...jetstream.PullConsumeOpt) (*feed, error) {
	f := &feed{began: time.Now(), entries: make(chan jetstream.Msg), server: serverOf(consumer)}
	f.lost, f.lose = context.WithCancelCause(context.Background())
	consuming, err := consumer.Consume(func(m jetstream.Msg) {
		select {
		case f.entries <- m:
		case <-f.lost.Done():
		}
	}, append(opts, jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) { f.lose(err) }))...)
	if err != nil {
		f.lose(err)
		return nil, fmt.Errorf("read from the consumer: %w", err)
	}
	f.quiet = consuming.Stop
	return f, nil
}

// serverOf returns the name of the server that a consumer is at, "" if there is but one server.
func serverOf(c jetstream.Consumer) string {
	if cluster := c.CachedInfo().Cluster; cluster != nil {
		return cluster.Leader
	}
	return ""
}

// next waits for the next message. After an error, but for ctx's, the feed is of no more use.
func (f *feed) next(ctx context.Context) (jetstream.Msg, error) {
	select {
	case m := <-f.entries:
		return m, nil
	case <-f.lost.Done():
		return nil, context.Cause(f.lost)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// stop leaves the consumer, which the server will forget.
func (f *feed) stop() {
	f.lose(errLeft)
	f.quiet()
}
