package main

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/esh3artech/esh3ar/client"
)

// remote is how a subcommand reaches a server as a business client.
type remote struct {
	URL string `name:"url" env:"ESH3AR_URL" default:"http://127.0.0.1:8080" help:"The server's base URL."`
	Key string `name:"key" env:"ESH3AR_API_KEY" placeholder:"KEY" help:"The API key."`
}

// dial returns a client of the server, to be closed in the end. It makes no connection yet.
func (r *remote) dial() (*client.Client, error) {
	if r.Key == "" {
		return nil, errors.New("give the API key with --key or ESH3AR_API_KEY; the server prints it at its first start")
	}
	c, err := client.New(r.URL, r.Key, client.WithUserAgent("esh3ar"))
	if err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), "client: "))
	}
	return c, nil
}

// call runs f with a client of the server and a context of at most that time.
func (r *remote) call(ctx context.Context, limit time.Duration, f func(context.Context, *client.Client) error) error {
	api, err := r.dial()
	if err != nil {
		return err
	}
	defer api.Close()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return f(ctx, api)
}

// clock shows a time to people, in their time zone.
func clock(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05.000") }
