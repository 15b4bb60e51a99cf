package jetstream

import (
	"context"
	"errors"
	"log/slog"
	"testing"
)

// The data of an entry is not free while the connection still reads it, whatever ends the wait.
func TestDataIsKeptWhileItIsSent(t *testing.T) {
	lost := errors.New("connection lost")
	for name, end := range map[string]func(*publisher, context.CancelFunc){
		"the time is up":         func(_ *publisher, cancel context.CancelFunc) { cancel() },
		"the connection is lost": func(p *publisher, _ context.CancelFunc) { p.failAll(lost) },
		"it is acknowledged":     func(p *publisher, _ context.CancelFunc) { p.settle(1, 7, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			p := newPublisher(0, slog.New(slog.DiscardHandler))
			reading := true
			p.request = func(*published, string) error {
				end(p, cancel)
				reading = false
				return nil
			}
			told := make(chan bool, 2)
			p.send(ctx, 0, "subject", []byte("data"), func(uint64, error) { told <- reading })
			if <-told {
				t.Error("told while the data is read")
			}
			if len(p.waiting) > 0 {
				t.Error("it still waits")
			}
		})
	}
}
