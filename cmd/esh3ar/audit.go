package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/esh3artech/esh3ar/client"
)

// auditCmd shows the audit log.
type auditCmd struct {
	operator
	Client string    `placeholder:"ID" help:"Only what concerns this client."`
	Actor  string    `placeholder:"WHO" help:"Only what this one did: admin, or a client's id and its key's, as in shop/a1b2c3d4e5."`
	Action string    `placeholder:"WORD" help:"Only this, such as key.revoke."`
	From   time.Time `placeholder:"TIME" help:"Only from this time on (RFC 3339)."`
	Until  time.Time `placeholder:"TIME" help:"Only before this time (RFC 3339)."`
	Limit  int       `default:"100" placeholder:"N" help:"List at most so many; 0 lists all."`
	JSON   bool      `name:"json" help:"Print a line of JSON for each entry."`
}

// Run prints the entries, newest first.
func (c *auditCmd) Run(ctx context.Context, std stdio) error {
	admin, ctx, done, err := c.dial(ctx)
	if err != nil {
		return err
	}
	defer done()
	return list[client.AuditEntry]{
		limit: c.Limit, json: c.JSON,
		head: "AT\tWHO\tFROM\tWHAT\tCLIENT\tOBJECT\tDETAIL",
		row: func(w io.Writer, e *client.AuditEntry) {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", clock(e.At), terminal(e.Actor), terminal(e.Address), terminal(e.Action),
				terminal(e.Client), terminal(e.Object), terminal(string(e.Detail)))
		},
	}.print(std, admin.Audit(ctx, client.AuditQuery{Client: c.Client, Actor: c.Actor, Action: c.Action, From: c.From, Until: c.Until}))
}
