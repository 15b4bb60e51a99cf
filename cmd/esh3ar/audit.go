package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"
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
	w := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
	out := json.NewEncoder(std.out)
	listed := 0
	q := client.AuditQuery{Client: c.Client, Actor: c.Actor, Action: c.Action, From: c.From, Until: c.Until}
	for e, err := range admin.Audit(ctx, q) {
		if err != nil {
			return errors.Join(w.Flush(), err)
		}
		if c.Limit > 0 && listed == c.Limit {
			fmt.Fprintf(std.err, "esh3ar: there are more than %d; see --limit\n", c.Limit)
			break
		}
		if listed++; c.JSON {
			if err := out.Encode(e); err != nil {
				return err
			}
			continue
		}
		if listed == 1 {
			fmt.Fprintln(w, "AT\tWHO\tFROM\tWHAT\tCLIENT\tOBJECT\tDETAIL")
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", clock(e.At), terminal(e.Actor), terminal(e.Address), terminal(e.Action),
			terminal(e.Client), terminal(e.Object), terminal(string(e.Detail)))
	}
	return w.Flush()
}
