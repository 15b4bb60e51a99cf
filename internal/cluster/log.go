package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// natsLogger hands the NATS server's log lines to slog. Its notices are about
// the life of the server alone and go to the debug level, and so does what is ordinary in a cluster.
type natsLogger struct {
	*slog.Logger
	// fatal is the last line after which the server expects the process to end.
	// It is how a server says why it does not start.
	fatal *atomic.Pointer[error]
	// disabled is why JetStream was turned off in a server that goes on. Of several servers each does that to
	// itself when it cannot write, and says why only here.
	disabled *atomic.Pointer[error]
	// route gets the errors of attempts to connect to other servers.
	route *failedRoute
}

func (l natsLogger) Noticef(format string, v ...any) { l.Debug("nats: " + fmt.Sprintf(format, v...)) }
func (l natsLogger) Debugf(format string, v ...any)  { l.Debug("nats: " + fmt.Sprintf(format, v...)) }
func (l natsLogger) Tracef(format string, v ...any)  { l.Debug("nats: " + fmt.Sprintf(format, v...)) }

// ordinary are the warnings and errors of a server that nobody needs to look at.
var ordinary = regexp.MustCompile("^(" + strings.Join([]string{
	// At each start of a cluster, and as long as a server is away. The nodes themselves tell that a majority is
	// missing, and routes which servers are.
	`Error trying to connect to route`,
	`\S+ - rid:\d+ - TLS route handshake error`,
	`Waiting for routing to be established`,
	// A server that has just started, or is busy, for a moment: it is said when we ask how it is.
	`JetStream (has not established contact|is not current) with (a|the) meta leader`,
	`JetStream is still recovering meta layer`,
	`RAFT \[.*\] (Falling behind in health check|Health check OK)`,
	// A server that dies, and the elections after it.
	`\S+ - rid:\d+ - Error flushing`,
	`RAFT \[.*\] Detected another leader with higher term`,
	// After kill -9: what was not written in order at the end is made anew from the messages themselves.
	`Filestore \[.*\] (Stream state outdated|\w+( \w+)? state is outdated; attempting to recover|Recovering stream state from index errored: prior state file)`,
	// The others have deleted what a server missed that was away.
	`Catchup for stream .* resetting first sequence`,
	// The directory of the streams is a few kilobytes.
	`Metalayer blocking snapshot (starting|took)`,
}, "|") + ")")

// routeError is a failed attempt to connect to another server, and why it failed.
var routeError = regexp.MustCompile(`^(?:Error trying to connect to route \(attempt \d+\)|\S+ - rid:\d+ - TLS route handshake error): (.*)`)

// line logs what the server says, at that level unless it is ordinary.
func (l natsLogger) line(level slog.Level, text string) {
	if ordinary.MatchString(text) {
		level = slog.LevelDebug
	}
	if m := routeError.FindStringSubmatch(text); m != nil {
		l.route.note(time.Now(), m[1])
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
