package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/esh3artech/esh3ar/client"
)

// statusCmd shows what became of a message.
type statusCmd struct {
	remote
	ID      string        `arg:"" help:"The message's tracking id."`
	Timeout time.Duration `default:"20s" help:"Give up after this time."`
	JSON    bool          `name:"json" help:"Print JSON."`
}

// Run prints the message and its timeline.
func (c *statusCmd) Run(ctx context.Context, std stdio) error {
	return c.call(ctx, c.Timeout, func(ctx context.Context, api *client.Client) error {
		d, err := api.Message(ctx, c.ID)
		if err != nil {
			return err
		}
		return printMessage(std.out, &d, c.JSON)
	})
}

// printMessage shows a message and its life.
func printMessage(out io.Writer, d *client.Details, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(out).Encode(d)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "%s\t%s\n", d.ID, d.Status)
	row := func(name string, value any) { fmt.Fprintf(w, "%s\t%v\n", name, value) }
	row("to", d.To)
	if d.Type != "" {
		row("type", d.Type)
	}
	switch {
	case d.Data != nil:
		row("data", string(d.Data))
	default:
		row("content", d.Content)
	}
	at := func(name string, t *time.Time) {
		if t != nil {
			row(name, clock(*t))
		}
	}
	at("send at", d.SendAt)
	at("expires", d.ExpiresAt)
	at("next attempt", d.NextAttemptAt)
	if err := w.Flush(); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(out); err != nil {
		return err
	}
	for i := range d.Timeline {
		t := &d.Timeline[i]
		fmt.Fprintf(w, "%s\t%s", clock(t.At), t.Status)
		if t.Attempt > 0 {
			fmt.Fprintf(w, "\tattempt %d", t.Attempt)
		} else {
			fmt.Fprint(w, "\t")
		}
		fmt.Fprintf(w, "\t%s\n", t.Reason)
	}
	return w.Flush()
}
