package client_test

import (
	"context"
	"log/slog"
	"os"

	"github.com/esh3artech/esh3ar/internal/node"
)

// adminKey is the admin key of the examples' servers.
const adminKey = "the-admin-key-of-the-examples"

// platform runs a server for an example, on a free port and over an empty directory, and returns its URL
// and an API key. Stop ends it.
func platform() (url, key string, stop func()) {
	dir, err := os.MkdirTemp("", "esh3ar-example-")
	if err != nil {
		panic(err)
	}
	cfg := node.DefaultConfig()
	cfg.Listen, cfg.Data, cfg.AdminKey = "127.0.0.1:0", dir, adminKey
	n, err := node.New(context.Background(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	return "http://" + n.Info().Addr, n.Info().DevKey, func() {
		cancel()
		if err := <-ended; err != nil {
			panic(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			panic(err)
		}
	}
}
