package main

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/alecthomas/kong"

	"github.com/esh3artech/esh3ar/internal/node"
)

// migrateCmd is the schema of the message store.
type migrateCmd struct {
	Up     migrateUpCmd     `cmd:"" help:"Bring the schema up to date. A start of the server does it, too."`
	Adopt  migrateAdoptCmd  `cmd:"" help:"Make the store that of another deployment, whose journal it is to go on with. Stop all nodes before."`
	Status migrateStatusCmd `cmd:"" help:"Show the schema's steps and which of them the store has."`
}

type migrateUpCmd struct{ serverOptions }

// Run brings the schema up to date.
func (c *migrateUpCmd) Run(ctx context.Context, cmd *kong.Context, std stdio) error {
	if err := c.check(cmd); err != nil {
		return err
	}
	if err := node.Migrate(ctx, c.Node); err != nil {
		return err
	}
	return printMigrations(ctx, c.Node, std)
}

type migrateAdoptCmd struct {
	Deployment string `arg:"" help:"The identifier of the journal's deployment, as the refusal to start says it."`
	serverOptions
}

// Run makes the store the other deployment's.
func (c *migrateAdoptCmd) Run(ctx context.Context, cmd *kong.Context, std stdio) error {
	if err := c.check(cmd); err != nil {
		return err
	}
	if err := node.Adopt(ctx, c.Node, c.Deployment); err != nil {
		return err
	}
	_, err := fmt.Fprintf(std.out, "The store is that of deployment %s now.\n", c.Deployment)
	return err
}

type migrateStatusCmd struct{ serverOptions }

// Run prints the schema's steps.
func (c *migrateStatusCmd) Run(ctx context.Context, cmd *kong.Context, std stdio) error {
	if err := c.check(cmd); err != nil {
		return err
	}
	return printMigrations(ctx, c.Node, std)
}

func printMigrations(ctx context.Context, c node.Config, std stdio) error {
	list, err := node.Migrations(ctx, c)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "VERSION\tSTEP\tAPPLIED")
	for _, m := range list {
		applied := "pending"
		if !m.AppliedAt.IsZero() {
			applied = m.AppliedAt.UTC().Format(time.RFC3339)
		}
		fmt.Fprintf(w, "%d\t%s\t%s\n", m.Version, m.Name, applied)
	}
	return w.Flush()
}
