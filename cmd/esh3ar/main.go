// Command esh3ar is the Esh3ar messaging platform: the server and the tools around it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/esh3artech/esh3ar/internal/node"
)

// commands is the command line: one subcommand a field, each in a file of its own. A subcommand is a
// struct with its flags and a method Run, whose parameters may be, in any order, context.Context
// (ended by the first SIGINT or SIGTERM), stdio and *kong.Context. Run returns an error for main to
// print, or an exitCode for the rare one that has already said what there is to say.
type commands struct {
	Serve     serveCmd     `cmd:"" help:"Run the server."`
	Balance   balanceCmd   `cmd:"" help:"Spread requests over several servers."`
	Autoscale autoscaleCmd `cmd:"" help:"Add nodes to a deployment when it is loaded, and drain them when it is not."`
	Cluster   clusterCmd   `cmd:"" help:"Run several nodes, a PostgreSQL and a balancer on this machine, to try."`
	Send      sendCmd      `cmd:"" help:"Send a message."`
	Status    statusCmd    `cmd:"" help:"Show what became of a message."`
	Listen    listenCmd    `cmd:"" help:"Be a device: print and acknowledge a recipient's messages."`
	Dlq       dlqCmd       `cmd:"" help:"Work on the dead-letter queue: the messages that were given up."`
	Webhooks  webhooksCmd  `cmd:"" help:"Manage a business client's webhooks: where its events are posted to."`
	Clients   clientsCmd   `cmd:"" help:"Manage business clients and their API keys, as the operator of a server."`
	Top       topCmd       `cmd:"" help:"Show how all nodes of a deployment are, live."`
	Health    healthCmd    `cmd:"" help:"Say whether one server is ready: for containers and scripts."`
	Audit     auditCmd     `cmd:"" help:"Show who did what to clients, keys, dead letters and webhooks."`
	Bench     benchCmd     `cmd:"" help:"Put load on a server and account for every message."`
	Chaos     chaosCmd     `cmd:"" help:"Break a server of its own in every way and account for every message."`
	Config    configCmd    `cmd:"" help:"Print the server's effective configuration and where each value comes from."`
	Migrate   migrateCmd   `cmd:"" help:"Look at the message store's schema and bring it up to date."`
	Version   versionCmd   `cmd:"" help:"Print the version."`
}

// stdio is what a subcommand reads and writes instead of the process's own streams.
type stdio struct {
	in       io.Reader
	out, err io.Writer
}

// exitCode ends the program with that status and without a word.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit status %d", int(c)) }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// After the first signal the next one has its default effect again: it ends the process at once.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], stdio{os.Stdin, os.Stdout, os.Stderr}))
}

// run carries out one command line and returns the process's exit status: 0, 1 for a failure, 2 for
// a command line or a configuration that is wrong.
func run(ctx context.Context, args []string, std stdio) int {
	err := execute(ctx, args, std)
	var code exitCode
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	}
	fmt.Fprintln(std.err, "esh3ar:", err)
	if _, ok := errors.AsType[*kong.ParseError](err); ok {
		return 2
	}
	if _, ok := errors.AsType[*node.OptionError](err); ok {
		return 2
	}
	return 1
}

func execute(ctx context.Context, args []string, std stdio) error {
	parser, err := newParser(ctx, std)
	if err != nil {
		return err
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	cmd, err := parser.Parse(args)
	if err != nil {
		return err
	}
	return cmd.Run()
}

// newParser returns the parser of the command line, with ctx and std bound for the subcommands.
func newParser(ctx context.Context, std stdio) (*kong.Kong, error) {
	return kong.New(
		&commands{
			Serve:  serveCmd{serverOptions: defaultServerOptions()},
			Config: configCmd{serverOptions: defaultServerOptions()},
			Migrate: migrateCmd{
				Up:     migrateUpCmd{serverOptions: defaultServerOptions()},
				Adopt:  migrateAdoptCmd{serverOptions: defaultServerOptions()},
				Status: migrateStatusCmd{serverOptions: defaultServerOptions()},
			},
		},
		kong.Name("esh3ar"),
		kong.Description("Real-time messaging that loses nothing it accepted."),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Writers(std.out, std.err),
		kong.PostBuild(describeServerOptions),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(std),
	)
}
