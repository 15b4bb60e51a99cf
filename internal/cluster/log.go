package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"syscall"
)

// natsLogger hands the NATS server's log lines to slog. Its notices are about
// the life of the server alone and go to the debug level.
type natsLogger struct {
	*slog.Logger
	// fatal is the last line after which the server expects the process to end.
	// It is how a server says why it does not start.
	fatal *atomic.Pointer[error]
	// disabled is why JetStream was turned off in a server that goes on. Of several servers each does that to
	// itself when it cannot write, and says why only here.
	disabled *atomic.Pointer[error]
}

func (l natsLogger) Noticef(format string, v ...any) { l.Debug("nats: " + fmt.Sprintf(format, v...)) }
func (l natsLogger) Debugf(format string, v ...any)  { l.Debug("nats: " + fmt.Sprintf(format, v...)) }
func (l natsLogger) Tracef(format string, v ...any)  { l.Debug("nats: " + fmt.Sprintf(format, v...)) }

// starting begins the lines that every start of a cluster brings, until enough servers have started. That a majority
// is missing is told by the nodes themselves.
var starting = [...]string{
	"Error trying to connect to route (attempt 1)", "Waiting for routing to be established",
	"JetStream has not established contact with a meta leader",
}

// line logs what the server says, at that level unless it says nothing.
func (l natsLogger) line(level slog.Level, text string) {
	for _, s := range starting {
		if strings.HasPrefix(text, s) {
			level = slog.LevelDebug
		}
	}
	l.Log(context.Background(), level, "nats: "+text)
}

func (l natsLogger) Warnf(format string, v ...any) { l.line(slog.LevelWarn, fmt.Sprintf(format, v...)) }

func (l natsLogger) Fatalf(format string, v ...any) {
	err := fmt.Errorf(format, v...)
	l.fatal.Store(&err)
	l.Error("nats: " + err.Error())
}

func (l natsLogger) Errorf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	l.line(slog.LevelError, text)
	var err error
	switch {
	case strings.HasPrefix(text, "JetStream out of"):
		err = fmt.Errorf("%s: %w", text, syscall.ENOSPC)
	case strings.HasSuffix(text, "disabling JetStream"):
		err = errors.New(text)
	default:
		return
	}
	l.disabled.Store(&err)
}
