package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/esh3artech/esh3ar/client"
)

// webhooksCmd manages the webhooks of a business client.
type webhooksCmd struct {
	List    webhooksListCmd    `cmd:"" name:"ls" help:"List the webhooks."`
	Create  webhooksCreateCmd  `cmd:"" help:"Make a webhook and print its secret, which nobody can show again."`
	Set     webhooksSetCmd     `cmd:"" help:"Change a webhook."`
	Remove  webhooksRemoveCmd  `cmd:"" name:"rm" help:"Forget webhooks."`
	Enable  webhooksEnableCmd  `cmd:"" help:"Have posting go on from where it was stopped."`
	Disable webhooksDisableCmd `cmd:"" help:"Stop posting; enable goes on from there."`
	Rotate  webhooksRotateCmd  `cmd:"" help:"Give a webhook another secret and print it."`
	Test    webhooksTestCmd    `cmd:"" help:"Post a test event and show what came of it."`
	Replay  webhooksReplayCmd  `cmd:"" help:"Post events again."`
	Log     webhooksLogCmd     `cmd:"" help:"Show the last requests to a webhook, newest first."`
}

// webhookRemote is how a subcommand of webhooks reaches a server.
type webhookRemote struct {
	remote
	Timeout time.Duration `default:"1m" help:"Give up after this time."`
}

// with runs do with a client of the server.
func (r *webhookRemote) with(ctx context.Context, do func(context.Context, *client.Client) error) error {
	api, err := r.dial()
	if err != nil {
		return err
	}
	defer api.Close()
	ctx, cancel := context.WithTimeout(ctx, r.Timeout)
	defer cancel()
	return do(ctx, api)
}

// one runs do and prints the webhook that it returns.
func (r *webhookRemote) one(ctx context.Context, std stdio, do func(context.Context, *client.Client) (client.Webhook, error)) error {
	return r.with(ctx, func(ctx context.Context, api *client.Client) error {
		w, err := do(ctx, api)
		if err != nil {
			return err
		}
		fmt.Fprintf(std.out, "%s %s %s\n", w.ID, webhookState(&w), terminal(w.URL))
		if w.Secret != "" {
			fmt.Fprintln(std.out, w.Secret)
		}
		return nil
	})
}

func webhookState(w *client.Webhook) string {
	switch {
	case w.Status == "disabled":
		return "disabled (" + terminal(w.DisabledReason) + ")"
	case !w.FailingSince.IsZero():
		return "failing since " + clock(w.FailingSince)
	}
	return terminal(w.Status)
}

// webhooksListCmd lists webhooks.
type webhooksListCmd struct {
	webhookRemote
	JSON bool `name:"json" help:"Print a line of JSON for each webhook."`
}

// Run prints the list.
func (c *webhooksListCmd) Run(ctx context.Context, std stdio) error {
	return c.with(ctx, func(ctx context.Context, api *client.Client) error {
		hooks, err := api.Webhooks(ctx)
		if err != nil {
			return err
		}
		return list[client.Webhook]{
			json: c.JSON,
			head: "ID\tURL\tSTATE\tPARKED\tLAST SUCCESS\tDESCRIPTION",
			row: func(w io.Writer, h *client.Webhook) {
				fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\n", h.ID, terminal(h.URL), webhookState(h), h.Parked, clockOr(h.LastSuccessAt, "-"), terminal(h.Description))
			},
		}.print(std, values(hooks))
	})
}

// webhookFlags are the settings of a webhook as flags; one that is not given changes nothing.
type webhookFlags struct {
	Types       []string `placeholder:"TYPE" help:"Types of events, such as message.delivered; all without it."`
	Description *string  `placeholder:"WORDS" help:"What it is for."`
	Format      *string  `placeholder:"FORMAT" enum:"event,cloudevents" help:"Form of the bodies: event or cloudevents."`
	BatchMax    *int     `placeholder:"N" help:"Events of one request at most; with more than 1 bodies are arrays."`
}

func (f *webhookFlags) settings(url *string) client.WebhookSettings {
	return client.WebhookSettings{URL: url, Types: f.Types, Description: f.Description, Format: f.Format, BatchMax: f.BatchMax}
}

// webhooksCreateCmd makes a webhook.
type webhooksCreateCmd struct {
	webhookRemote
	webhookFlags
	Endpoint string `arg:"" name:"url" help:"Where events are posted to."`
}

// Run makes it.
func (c *webhooksCreateCmd) Run(ctx context.Context, std stdio) error {
	return c.one(ctx, std, func(ctx context.Context, api *client.Client) (client.Webhook, error) {
		return api.CreateWebhook(ctx, c.settings(&c.Endpoint))
	})
}

// webhooksSetCmd changes a webhook.
type webhooksSetCmd struct {
	webhookRemote
	webhookFlags
	ID       string  `arg:"" help:"The webhook's id."`
	Endpoint *string `name:"endpoint" placeholder:"URL" help:"Where events are posted to."`
}

// Run changes it.
func (c *webhooksSetCmd) Run(ctx context.Context, std stdio) error {
	return c.one(ctx, std, func(ctx context.Context, api *client.Client) (client.Webhook, error) {
		return api.UpdateWebhook(ctx, c.ID, c.settings(c.Endpoint))
	})
}

// webhooksRemoveCmd forgets webhooks.
type webhooksRemoveCmd struct {
	webhookRemote
	IDs []string `arg:"" name:"id" help:"The webhooks' ids."`
}

// Run forgets them. What fails for one does not keep it from the others.
func (c *webhooksRemoveCmd) Run(ctx context.Context, _ stdio) error {
	return c.with(ctx, func(ctx context.Context, api *client.Client) error {
		var failed []error
		for _, id := range c.IDs {
			failed = append(failed, api.DeleteWebhook(ctx, id))
		}
		return errors.Join(failed...)
	})
}

// webhooksEnableCmd enables a webhook.
type webhooksEnableCmd struct {
	webhookRemote
	ID string `arg:"" help:"The webhook's id."`
}

// Run enables it.
func (c *webhooksEnableCmd) Run(ctx context.Context, std stdio) error {
	return c.one(ctx, std, func(ctx context.Context, api *client.Client) (client.Webhook, error) {
		return api.EnableWebhook(ctx, c.ID)
	})
}

// webhooksDisableCmd disables a webhook.
type webhooksDisableCmd struct {
	webhookRemote
	ID string `arg:"" help:"The webhook's id."`
}

// Run disables it.
func (c *webhooksDisableCmd) Run(ctx context.Context, std stdio) error {
	return c.one(ctx, std, func(ctx context.Context, api *client.Client) (client.Webhook, error) {
		off := false
		return api.UpdateWebhook(ctx, c.ID, client.WebhookSettings{Enabled: &off})
	})
}

// webhooksRotateCmd gives a webhook another secret.
type webhooksRotateCmd struct {
	webhookRemote
	ID      string        `arg:"" help:"The webhook's id."`
	Overlap time.Duration `default:"24h" help:"How long the old secret signs requests, too; at most 168h."`
}

// Run rotates it.
func (c *webhooksRotateCmd) Run(ctx context.Context, std stdio) error {
	return c.one(ctx, std, func(ctx context.Context, api *client.Client) (client.Webhook, error) {
		return api.RotateWebhookSecret(ctx, c.ID, c.Overlap)
	})
}

// webhooksTestCmd posts a test event.
type webhooksTestCmd struct {
	webhookRemote
	ID string `arg:"" help:"The webhook's id."`
}

// Run posts it and ends with status 1 if it was not accepted.
func (c *webhooksTestCmd) Run(ctx context.Context, std stdio) error {
	return c.with(ctx, func(ctx context.Context, api *client.Client) error {
		d, err := api.TestWebhook(ctx, c.ID)
		if err != nil {
			return err
		}
		fmt.Fprintln(std.out, deliveryLine(&d))
		if d.Response != "" {
			fmt.Fprintln(std.out, terminal(d.Response))
		}
		if d.Outcome != "delivered" {
			return exitCode(1)
		}
		return nil
	})
}

// deliveryLine is a request in one line.
func deliveryLine(d *client.WebhookDelivery) string {
	var b strings.Builder
	b.WriteString(terminal(d.Outcome))
	if d.StatusCode != 0 {
		fmt.Fprintf(&b, ", status %d", d.StatusCode)
	}
	fmt.Fprintf(&b, ", %.0f ms", d.DurationMS)
	if d.Error != "" {
		b.WriteString(": " + terminal(d.Error))
	}
	return b.String()
}

// webhooksReplayCmd posts events again.
type webhooksReplayCmd struct {
	webhookRemote
	ID     string    `arg:"" help:"The webhook's id."`
	Since  time.Time `placeholder:"TIME" help:"Events stored at this time or later (RFC 3339)." xor:"from" required:""`
	Cursor string    `placeholder:"CURSOR" help:"Events behind this cursor of your events." xor:"from" required:""`
}

// Run sets the webhook back.
func (c *webhooksReplayCmd) Run(ctx context.Context, std stdio) error {
	return c.one(ctx, std, func(ctx context.Context, api *client.Client) (client.Webhook, error) {
		if c.Cursor != "" {
			return api.ReplayWebhookFrom(ctx, c.ID, c.Cursor)
		}
		return api.ReplayWebhook(ctx, c.ID, c.Since)
	})
}

// webhooksLogCmd shows the log of a webhook.
type webhooksLogCmd struct {
	webhookRemote
	ID      string `arg:"" help:"The webhook's id."`
	Outcome string `placeholder:"WORD" help:"Only requests with this outcome: delivered, failed, deferred, gone or given_up."`
	Limit   int    `default:"50" placeholder:"N" help:"Show at most so many; 0 shows all."`
	JSON    bool   `name:"json" help:"Print a line of JSON for each request."`
}

// Run prints it.
func (c *webhooksLogCmd) Run(ctx context.Context, std stdio) error {
	return c.with(ctx, func(ctx context.Context, api *client.Client) error {
		return list[client.WebhookDelivery]{
			json: c.JSON,
			head: "AT\tWEBHOOK-ID\tEVENTS\tATTEMPT\tOUTCOME",
			row: func(w io.Writer, d *client.WebhookDelivery) {
				fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\n", clock(d.At), terminal(d.WebhookID), d.EventCount, d.Attempt, deliveryLine(d))
			},
		}.print(std, first(api.WebhookDeliveries(ctx, c.ID, c.Outcome), c.Limit))
	})
}
