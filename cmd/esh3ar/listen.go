package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/esh3artech/esh3ar/client"
)

// listenCmd is a device: it prints the messages of a recipient and acknowledges them.
type listenCmd struct {
	remote
	As    string `placeholder:"RECIPIENT" help:"The recipient to be, with a token that the API key mints."`
	Token string `env:"ESH3AR_DEVICE_TOKEN" placeholder:"JWT" help:"A device token to use instead."`
	Count int    `placeholder:"N" help:"End after this many messages."`
	Read  bool   `help:"Also mark every message as read."`
	JSON  bool   `name:"json" help:"Print a line of JSON for each message."`
}

// errEnough ends the listening after the wanted number of messages.
var errEnough = errors.New("enough messages")

// Run listens until it is interrupted or has had enough.
func (c *listenCmd) Run(ctx context.Context, std stdio) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var listener *client.Listener
	got := 0
	handle := func(ctx context.Context, d client.Delivery) error {
		if err := c.print(std.out, &d); err != nil {
			cancel(err)
			return err
		}
		if c.Read {
			if err := listener.MarkAsRead(ctx, d.ID); err != nil {
				fmt.Fprintln(std.err, "esh3ar:", err)
			}
		}
		if got++; got == c.Count {
			cancel(errEnough)
		}
		return nil
	}
	token, done, err := c.tokens()
	if err != nil {
		return err
	}
	defer done()
	listener, err = client.NewListener(c.URL, token, handle, client.ListenOptions{
		OnConnect: func() { fmt.Fprintln(std.err, "connected; waiting for messages, end with Ctrl-C") },
		OnDisconnect: func(err error, wait time.Duration) {
			fmt.Fprintf(std.err, "not connected (%v); trying again in %v\n", err, wait.Round(10*time.Millisecond))
		},
	})
	if err != nil {
		return err
	}
	if err := listener.Run(ctx); err != nil {
		return err
	}
	if cause := context.Cause(ctx); !errors.Is(cause, errEnough) && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// tokens returns where the device's tokens come from, and a function that ends its connections.
func (c *listenCmd) tokens() (client.TokenSource, func(), error) {
	switch {
	case (c.As == "") == (c.Token == ""):
		return nil, nil, errors.New("give either --as or --token")
	case c.Token != "":
		return client.StaticToken(c.Token), func() {}, nil
	}
	api, err := c.dial()
	if err != nil {
		return nil, nil, err
	}
	return func(ctx context.Context) (string, error) {
		t, err := api.RecipientToken(ctx, c.As, 0)
		return t.Token, err
	}, api.Close, nil
}

// print shows one message.
func (c *listenCmd) print(out io.Writer, d *client.Delivery) error {
	if c.JSON {
		return json.NewEncoder(out).Encode(d)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s  %s", clock(d.ReceivedAt), d.ID)
	if d.From != "" {
		fmt.Fprintf(&b, "  from %s", terminal(d.From))
	}
	if d.Type != "" {
		fmt.Fprintf(&b, "  type %s", terminal(d.Type))
	}
	for _, name := range slices.Sorted(maps.Keys(d.Metadata)) {
		fmt.Fprintf(&b, "  %s=%s", terminal(name), terminal(d.Metadata[name]))
	}
	if d.Attempt > 1 {
		fmt.Fprintf(&b, "  attempt %d", d.Attempt)
	}
	text := d.Content
	if d.Data != nil {
		text = string(d.Data)
	}
	fmt.Fprintf(&b, "\n    %s\n", terminal(text))
	_, err := io.WriteString(out, b.String())
	return err
}

// terminal returns text as it may be shown: a sender must not be able to steer the terminal.
func terminal(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' || strconv.IsPrint(r) {
			return r
		}
		return '·'
	}, s)
}
