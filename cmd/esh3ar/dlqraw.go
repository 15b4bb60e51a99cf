package main

import (
	"context"
	"fmt"
	"io"

	"github.com/esh3artech/esh3ar/client"
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
	return list[client.Reject]{
		limit: c.Limit, json: c.JSON,
		head: "NUMBER\tAT\tREASON\tCLIENT\tMESSAGE\tBYTES\tDETAIL",
		row: func(w io.Writer, r *client.Reject) {
			fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%d\t%s\n", r.Number, clock(r.At), terminal(r.Reason), terminal(r.Client), r.MessageID, len(r.Record), terminal(r.Detail))
		},
	}.print(std, admin.Rejects(ctx))
}
