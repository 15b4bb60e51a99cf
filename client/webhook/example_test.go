package webhook_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"time"

	"github.com/esh3artech/esh3ar/client"
	"github.com/esh3artech/esh3ar/client/webhook"
	"github.com/esh3artech/esh3ar/internal/node"
)

// platform runs a server for an example, one that may post to this machine, and returns a client of it.
func platform() (c *client.Client, stop func()) {
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	dir, err := os.MkdirTemp("", "esh3ar-example-")
	must(err)
	cfg := node.DefaultConfig()
	cfg.Listen, cfg.Data, cfg.WebhookAllow = "127.0.0.1:0", dir, []string{"127.0.0.0/8"}
	n, err := node.New(context.Background(), cfg, slog.New(slog.DiscardHandler))
	must(err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	c, err = client.New("http://"+n.Info().Addr, n.Info().DevKey)
	must(err)
	return c, func() {
		c.Close()
		cancel()
		must(<-ended)
		must(os.RemoveAll(dir))
	}
}

// A receiver verifies what comes, and answers 2xx when it has the events.
func ExampleRead() {
	c, stop := platform()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()

	secret := make(chan string, 1)
	happened := make(chan client.Event, 10)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := <-secret
		secret <- s
		events, err := webhook.Read(r, s)
		if err != nil {
			http.Error(w, "not verified", http.StatusBadRequest)
			return
		}
		for _, e := range events {
			happened <- e
		}
	}))
	defer receiver.Close()

	hook, err := c.CreateWebhook(ctx, client.WebhookSettings{URL: &receiver.URL, Types: []string{"message.queued", "message.canceled"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	secret <- hook.Secret

	receipt, err := c.Send(ctx, client.Message{To: "+962791234567", Content: "Your order is on its way."})
	if err != nil {
		fmt.Println(err)
		return
	}
	e := <-happened
	fmt.Println(e.Type, e.Data.ID == receipt.ID)
	if _, err := c.Cancel(ctx, receipt.ID); err != nil {
		fmt.Println(err)
		return
	}
	e = <-happened
	fmt.Println(e.Type, e.Data.ID == receipt.ID)
	// Output:
	// message.queued true
	// message.canceled true
}
