package autoscale

import (
	"context"
	"log/slog"
	"time"
)

// ProcessOptions configures Process.
type ProcessOptions struct {
	// Dir is where it keeps what it knows. Autoscalers of one deployment on one machine share it. Required.
	Dir string

	// Prefix is what the nodes' names begin with; a number follows. It must differ between machines. Required.
	Prefix string

	// Command returns the program, its arguments and its environment for a node of that name whose data is to be in dir.
	// Required.
	Command func(ctx context.Context, name, dir string) (line, env []string, err error)

	// DrainTimeout is how long a node may take to end after SIGTERM, before it is killed. Required.
	DrainTimeout time.Duration

	Logger *slog.Logger // required
}
