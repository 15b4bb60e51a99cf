package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/esh3artech/esh3ar/client"
)

// platform stands for an Esh3ar server in the examples.
func platform() *httptest.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/messages", func(w http.ResponseWriter, r *http.Request) {
		var m struct{ To string }
		json.NewDecoder(r.Body).Decode(&m)
		if m.To == "" {
			refuse(w, client.Problem{
				Status: 400, Title: "Invalid request", Code: "invalid", Permanent: true, Detail: "the request has a fault",
				Errors: []client.FieldError{{Pointer: "/to", Detail: "the recipient is empty"}},
			})
			return
		}
		accepted(w, "019c5a3e-7a1b-7c3d-8e4f-012345670001")
	})
	mux.HandleFunc("GET /v1/messages/{id}", func(w http.ResponseWriter, r *http.Request) {
		answer(w, http.StatusOK, details(r.PathValue("id"), "accepted", "queued", "sent", "delivered"))
	})
	mux.HandleFunc("GET /v1/messages", func(w http.ResponseWriter, r *http.Request) {
		answer(w, http.StatusOK, map[string]any{"messages": []client.Details{details("m2", "delivered"), details("m1", "delivered")}})
	})
	return httptest.NewServer(mux)
}

func ExampleClient_Send() {
	server := platform()
	defer server.Close()
	c, err := client.New(server.URL, "esh_key")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	receipt, err := c.Send(ctx, client.Message{To: "+962791234567", Content: "Your order is on its way."})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(receipt.Status, receipt.ID)

	d, err := c.Wait(ctx, receipt.ID, client.StatusDelivered)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, step := range d.Timeline {
		fmt.Println(step.Seq, step.Status)
	}
	// Output:
	// accepted 019c5a3e-7a1b-7c3d-8e4f-012345670001
	// 1 accepted
	// 2 queued
	// 3 sent
	// 4 delivered
}

func ExampleProblem() {
	server := platform()
	defer server.Close()
	c, err := client.New(server.URL, "esh_key")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()

	_, err = c.Send(context.Background(), client.Message{Content: "To whom?"})
	var problem *client.Problem
	if errors.As(err, &problem) && problem.Permanent {
		for _, field := range problem.Errors {
			fmt.Println(field.Pointer, field.Detail)
		}
	}
	// Output: /to the recipient is empty
}

func ExampleClient_Messages() {
	server := platform()
	defer server.Close()
	c, err := client.New(server.URL, "esh_key")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()

	for d, err := range c.Messages(context.Background(), client.Query{Status: client.StatusDelivered}) {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(d.ID)
	}
	// Output:
	// m2
	// m1
}
