package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/esh3artech/esh3ar/client"
)

// dlqCmd works on the dead-letter queue: the messages that were given up.
type dlqCmd struct {
	List    dlqListCmd    `cmd:"" name:"ls" help:"List the messages that were given up, the latest accepted first."`
	Show    dlqShowCmd    `cmd:"" help:"Show a message and its life."`
	Replay  dlqReplayCmd  `cmd:"" help:"Queue messages again."`
	Discard dlqDiscardCmd `cmd:"" help:"Take messages out of the queue for good."`
	Raw     dlqRawCmd     `cmd:"" help:"List, as the operator, the records that could not be read or stored."`
}

// deadFilter selects messages of the dead-letter queue.
type deadFilter struct {
	To     string    `placeholder:"RECIPIENT" help:"Only those to this recipient."`
	Type   string    `placeholder:"LABEL" help:"Only those with this label."`
	Reason string    `placeholder:"WORD" help:"Only those given up for this reason, such as attempts_exhausted."`
	From   time.Time `placeholder:"TIME" help:"Only those accepted at this time or later (RFC 3339)."`
	Until  time.Time `placeholder:"TIME" help:"Only those accepted before this time (RFC 3339)."`
}

func (f *deadFilter) query() client.DeadLetterQuery {
	return client.DeadLetterQuery{To: f.To, Type: f.Type, Reason: f.Reason, From: f.From, Until: f.Until}
}

func (f *deadFilter) empty() bool { return *f == deadFilter{} }

// dlqListCmd lists dead letters.
type dlqListCmd struct {
	remote
	deadFilter
	Limit   int           `default:"100" placeholder:"N" help:"List at most so many; 0 lists all."`
	Timeout time.Duration `default:"1m" help:"Give up after this time."`
	JSON    bool          `name:"json" help:"Print a line of JSON for each message."`
}

// Run prints the list.
func (c *dlqListCmd) Run(ctx context.Context, std stdio) error {
	return c.call(ctx, c.Timeout, func(ctx context.Context, api *client.Client) error { return c.list(ctx, std, api) })
}

func (c *dlqListCmd) list(ctx context.Context, std stdio, api *client.Client) error {
	return list[client.DeadLetter]{
		limit: c.Limit, json: c.JSON,
		head: "ID\tTO\tTYPE\tATTEMPTS\tGIVEN UP\tREASON",
		row: func(w io.Writer, d *client.DeadLetter) {
			fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\n", d.ID, terminal(d.To), terminal(d.Type), d.Attempts, clock(d.UndeliveredAt), terminal(d.Reason))
		},
	}.print(std, api.DeadLetters(ctx, c.query()))
}

// dlqShowCmd shows one dead letter.
type dlqShowCmd struct{ statusCmd }

// dlqReplayCmd queues dead letters again.
type dlqReplayCmd struct {
	remote
	deadFilter
	IDs     []string      `arg:"" optional:"" name:"id" help:"The messages' tracking ids."`
	All     bool          `help:"Replay all that the other flags select, or all there are."`
	Timeout time.Duration `default:"10m" help:"Give up after this time."`
}

// Run replays the named messages, or those that were selected.
func (c *dlqReplayCmd) Run(ctx context.Context, std stdio) error {
	switch {
	case c.All && len(c.IDs) > 0, !c.All && len(c.IDs) == 0:
		return errors.New("give either ids or --all")
	case !c.All && !c.empty():
		return errors.New("to select messages by a filter add --all")
	}
	return c.call(ctx, c.Timeout, func(ctx context.Context, api *client.Client) error {
		if c.All {
			n, err := api.ReplayAll(ctx, c.query())
			fmt.Fprintf(std.out, "replayed %d, skipped %d\n", n.Replayed, n.Skipped)
			return err
		}
		return each(std, c.IDs, func(id string) (client.Details, error) { return api.Replay(ctx, id) })
	})
}

// dlqDiscardCmd takes dead letters out of the queue.
type dlqDiscardCmd struct {
	remote
	IDs     []string      `arg:"" name:"id" help:"The messages' tracking ids."`
	Reason  string        `required:"" placeholder:"WORDS" help:"Why; it is kept in the messages' timelines."`
	Timeout time.Duration `default:"1m" help:"Give up after this time."`
}

// Run discards the named messages.
func (c *dlqDiscardCmd) Run(ctx context.Context, std stdio) error {
	return c.call(ctx, c.Timeout, func(ctx context.Context, api *client.Client) error {
		return each(std, c.IDs, func(id string) (client.Details, error) { return api.Discard(ctx, id, c.Reason) })
	})
}

// each does something to one message after the other, and tells what they are then. What fails for one
// does not keep it from the others.
func each(std stdio, ids []string, do func(id string) (client.Details, error)) error {
	var failed []error
	for _, id := range ids {
		d, err := do(id)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		fmt.Fprintf(std.out, "%s %s\n", d.ID, d.Status)
	}
	return errors.Join(failed...)
}
