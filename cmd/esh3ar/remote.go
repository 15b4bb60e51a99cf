package main

import (
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

// dial returns a client of the server. It makes no connection yet.
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

// clock shows a time to people, in their time zone.
func clock(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05.000") }
