package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/client"
)

// sendCmd sends one message.
type sendCmd struct {
	remote
	To      string            `arg:"" help:"The recipient: a telephone number or a user name."`
	Text    string            `arg:"" optional:"" help:"The text; - reads it from the standard input."`
	Data    string            `placeholder:"JSON" help:"Send a data message with this JSON instead of a text."`
	Type    string            `placeholder:"LABEL" help:"A short label for the receiving application."`
	Meta    map[string]string `placeholder:"NAME=VALUE" help:"Metadata for the receiving application."`
	TTL     time.Duration     `name:"ttl" help:"How long the message is worth delivering."`
	SendAt  time.Time         `name:"send-at" placeholder:"TIME" help:"The earliest time of delivery (RFC 3339)."`
	Once    string            `name:"idempotency-key" placeholder:"KEY" help:"Repeating with the same key cannot make a second message."`
	Wait    string            `placeholder:"STATUS" help:"Wait for this status, such as delivered, and print the message's life."`
	Timeout time.Duration     `default:"1m" help:"Give up after this time."`
	JSON    bool              `name:"json" help:"Print JSON."`
}

// Run sends the message.
func (c *sendCmd) Run(ctx context.Context, std stdio) error {
	m := client.Message{
		To: c.To, Content: c.Text, Type: c.Type, Metadata: c.Meta, TTL: c.TTL, SendAt: c.SendAt, IdempotencyKey: c.Once,
	}
	switch {
	case c.Data != "" && c.Text != "":
		return fmt.Errorf("give either a text or --data")
	case c.Data != "":
		if !json.Valid([]byte(c.Data)) {
			return fmt.Errorf("--data is not JSON")
		}
		m.Data = json.RawMessage(c.Data)
	case c.Text == "-":
		text, err := io.ReadAll(io.LimitReader(std.in, esh3ar.MaxMessageBytes+1))
		if err != nil {
			return err
		}
		m.Content = string(text)
	}
	var until client.Status
	if c.Wait != "" {
		s, err := esh3ar.ParseStatus(c.Wait)
		if err != nil {
			return err
		}
		until = client.Status(s.String())
	}
	return c.call(ctx, c.Timeout, func(ctx context.Context, api *client.Client) error {
		return c.send(ctx, std, api, m, until)
	})
}

// send sends the message and waits for its status, if one is wanted.
func (c *sendCmd) send(ctx context.Context, std stdio, api *client.Client, m client.Message, until client.Status) error {
	receipt, err := api.Send(ctx, m)
	if err != nil {
		return err
	}
	if until == "" {
		if c.JSON {
			return json.NewEncoder(std.out).Encode(receipt)
		}
		_, err = fmt.Fprintf(std.out, "%s %s to %s\n", receipt.Status, receipt.ID, receipt.To)
		return err
	}
	d, err := api.Wait(ctx, receipt.ID, until)
	if d.ID == "" {
		return err
	}
	if printed := printMessage(std.out, &d, c.JSON); err == nil {
		err = printed
	}
	return err
}
