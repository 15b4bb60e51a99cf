package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"
)

// dlqRawCmd lists the raw dead letters.
type dlqRawCmd struct {
	operator
	Limit int  `default:"100" placeholder:"N" help:"List at most so many; 0 lists all."`
	JSON  bool `name:"json" help:"Print a line of JSON for each record, with the record in base64."`
}

// Run prints the list, oldest first.
func (c *dlqRawCmd) Run(ctx context.Context, std stdio) error {
	admin, ctx, done, err := c.dial(ctx)
	if err != nil {
		return err
	}
	defer done()
	w := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
	out := json.NewEncoder(std.out)
	listed := 0
	for r, err := range admin.Rejects(ctx) {
		if err != nil {
			return errors.Join(w.Flush(), err)
		}
		if c.Limit > 0 && listed == c.Limit {
			fmt.Fprintf(std.err, "esh3ar: there are more than %d; see --limit\n", c.Limit)
			break
		}
		if listed++; c.JSON {
			if err := out.Encode(r); err != nil {
				return err
			}
			continue
		}
		if listed == 1 {
			fmt.Fprintln(w, "NUMBER\tAT\tREASON\tCLIENT\tMESSAGE\tBYTES\tDETAIL")
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%d\t%s\n", r.Number, clock(r.At), terminal(r.Reason), terminal(r.Client), r.MessageID, len(r.Record), terminal(r.Detail))
	}
	return w.Flush()
}
