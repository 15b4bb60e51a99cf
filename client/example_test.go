package client_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/esh3artech/esh3ar/client"
)

// Each example has a server of its own, for which platform stands.

func ExampleClient_Send() {
	url, key, stop := platform()
	defer stop()
	c, err := client.New(url, key)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	// The key names this message for good: however often it is sent, also after a crash of the sender,
	// it is one message.
	m := client.Message{To: "+962 79 123 4567", Content: "Your order is on its way.", IdempotencyKey: "order 17: sent"}
	receipt, err := c.Send(ctx, m)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(receipt.Status, "for", receipt.To)

	again, err := c.Send(ctx, m)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("the same message:", again.ID == receipt.ID)
	// Output:
	// accepted for +962791234567
	// the same message: true
}

func ExampleClient_SendBatch() {
	url, key, stop := platform()
	defer stop()
	c, err := client.New(url, key)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	results, err := c.SendBatch(ctx, []client.Message{
		{To: "amina", Content: "Welcome!"},
		{To: "", Content: "To nobody"},
		{To: "layla", Content: "Welcome!"},
	})
	fmt.Println(err != nil) // some message was not accepted
	for _, r := range results {
		var problem *client.Problem
		switch {
		case r.Err == nil:
			fmt.Println(r.Receipt.Status, "for", r.Receipt.To)
		case errors.As(r.Err, &problem):
			fmt.Println("refused:", problem.Code)
		default:
			fmt.Println(r.Err)
		}
	}
	// Output:
	// true
	// accepted for amina
	// refused: recipient_empty
	// accepted for layla
}

func ExampleClient_Wait() {
	url, key, stop := platform()
	defer stop()
	c, err := client.New(url, key)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	receipt, err := c.Send(ctx, client.Message{To: "amina", Content: "Are you there?"})
	if err != nil {
		fmt.Println(err)
		return
	}
	// Nobody is; a device of hers makes it delivered.
	d, err := c.Wait(ctx, receipt.ID, client.StatusQueued)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, step := range d.Timeline {
		fmt.Printf("%d %s %q\n", step.Seq, step.Status, step.Reason)
	}
	// Output:
	// 1 accepted ""
	// 2 queued "recipient_offline"
}

func ExampleClient_Listen() {
	url, key, stop := platform()
	defer stop()
	c, err := client.New(url, key)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, text := range []string{"one", "two", "three"} {
		if _, err := c.Send(ctx, client.Message{To: "amina", Content: text}); err != nil {
			fmt.Println(err)
			return
		}
	}
	// What waited for her comes in order, each message once. It is acknowledged when the handler returns
	// nil, and comes again if it returns an error.
	handle := func(_ context.Context, d client.Delivery) error {
		fmt.Println(d.Content)
		if d.Content == "three" {
			cancel()
		}
		return nil
	}
	if err := c.Listen(ctx, "amina", handle, client.ListenOptions{}); err != nil {
		fmt.Println(err)
	}
	// Output:
	// one
	// two
	// three
}

func ExampleClient_Events() {
	url, key, stop := platform()
	defer stop()
	c, err := client.New(url, key)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	receipt, err := c.Send(ctx, client.Message{To: "amina", Content: "Your code is 482913"})
	if err != nil {
		fmt.Println(err)
		return
	}
	device := make(chan error, 1)
	go func() {
		device <- c.Listen(ctx, "amina", func(context.Context, client.Delivery) error { return nil }, client.ListenOptions{})
	}()

	// A program that goes on where an earlier one ended gives the ID of the last event that it handled.
	query := client.EventQuery{FromStart: true, Statuses: []client.Status{client.StatusDelivered}}
	for e, err := range c.Events(ctx, query) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(e.Type, e.Data.To, e.Data.ID == receipt.ID)
		break
	}
	cancel()
	fmt.Println(<-device)
	// Output:
	// message.delivered amina true
	// <nil>
}

func ExampleClient_Messages() {
	url, key, stop := platform()
	defer stop()
	c, err := client.New(url, key)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, to := range []string{"amina", "layla"} {
		receipt, err := c.Send(ctx, client.Message{To: to, Content: "Welcome!"})
		if err == nil {
			_, err = c.Wait(ctx, receipt.ID, client.StatusQueued)
		}
		if err != nil {
			fmt.Println(err)
			return
		}
	}
	// The newest come first.
	for d, err := range c.Messages(ctx, client.Query{Status: client.StatusQueued}) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(d.To, d.Status)
	}
	// Output:
	// layla queued
	// amina queued
}

func ExampleProblem() {
	url, key, stop := platform()
	defer stop()
	c, err := client.New(url, key)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()

	_, err = c.Send(context.Background(), client.Message{Content: "To whom?"})
	var problem *client.Problem
	if errors.As(err, &problem) && problem.Permanent {
		for _, field := range problem.Errors {
			fmt.Println(field.Pointer, field.Code)
		}
	}
	// Output: /to recipient_empty
}
