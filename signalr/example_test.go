package signalr_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/esh3artech/esh3ar/signalr"
	"github.com/esh3artech/esh3ar/signalr/client"
	"github.com/esh3artech/esh3ar/signalr/msgpack"
)

// A chat: a method that clients invoke, and a message to all of them.
func Example() {
	server, err := signalr.NewServer(signalr.Options{})
	if err != nil {
		log.Fatal(err)
	}
	chat, err := server.NewHub(signalr.HubOptions{
		Authenticate: func(r *http.Request) (signalr.Identity, error) {
			// A real server verifies the token.
			return signalr.Identity{UserID: signalr.AccessToken(r)}, nil
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	chat.Handle("Say", signalr.Action1(func(_ context.Context, c *signalr.Conn, text string) error {
		chat.All().Send(signalr.NewMessage("Said", c.UserID(), text))
		return nil
	}))
	mux := http.NewServeMux()
	chat.Mount(mux, "/chat")
	web := httptest.NewServer(mux) // or http.ListenAndServe
	defer web.Close()

	alice, err := client.New(web.URL+"/chat", client.Options{
		AccessToken: func(context.Context) (string, error) { return "alice", nil },
	})
	if err != nil {
		log.Fatal(err)
	}
	said := make(chan string)
	alice.On("Said", func(_ context.Context, call *client.Call) (any, error) {
		var user, text string
		if err := call.Decode(0, &user); err != nil {
			return nil, err
		}
		if err := call.Decode(1, &text); err != nil {
			return nil, err
		}
		said <- user + ": " + text
		return nil, nil
	})
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := alice.Start(ctx); err != nil {
		log.Fatal(err)
	}
	if err := alice.Send(ctx, "Say", "hello"); err != nil {
		log.Fatal(err)
	}
	fmt.Println(<-said)

	if err := alice.Close(); err != nil {
		log.Fatal(err)
	}
	if err := server.Shutdown(ctx); err != nil {
		log.Fatal(err)
	}
	// Output: alice: hello
}

// A stream in each direction: the server multiplies what the client uploads.
func ExampleStream1() {
	server, hub, web := exampleHub()
	defer web.Close()
	hub.Handle("Double", signalr.Stream1(func(ctx context.Context, _ *signalr.Conn, in *signalr.StreamReader[int], out *signalr.StreamWriter[int]) error {
		for {
			n, err := in.Next(ctx)
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
			if err := out.Send(2 * n); err != nil {
				return err
			}
		}
	}))

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c := exampleClient(ctx, web.URL+"/hub", nil)
	stream, err := c.Stream(ctx, "Double", client.Upload(func(_ context.Context, send func(any) error) error {
		for n := range 3 {
			if err := send(n); err != nil {
				return err
			}
		}
		return nil
	}))
	if err != nil {
		log.Fatal(err)
	}
	for {
		var n int
		err := stream.Next(ctx, &n)
		if err == io.EOF {
			break
		}
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(n)
	}
	_ = c.Close()
	_ = server.Shutdown(ctx)
	// Output:
	// 0
	// 2
	// 4
}

// The server asks a client and gets its handler's result.
func ExampleConn_Invoke() {
	server, hub, web := exampleHub()
	defer web.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c := exampleClient(ctx, web.URL+"/hub", func(c *client.Client) {
		c.On("HowMany", func(context.Context, *client.Call) (any, error) { return 42, nil })
	})
	conn, _ := hub.Conn(c.ConnectionID())
	result, err := conn.Invoke(ctx, signalr.NewMessage("HowMany"))
	if err != nil {
		log.Fatal(err)
	}
	var n int
	if err := result.Decode(&n); err != nil {
		log.Fatal(err)
	}
	fmt.Println(n)
	_ = c.Close()
	_ = server.Shutdown(ctx)
	// Output: 42
}

// Point encodes itself, so that sending it needs no reflection.
type Point struct{ X, Y int }

func (p Point) AppendJSON(dst []byte) []byte {
	return fmt.Appendf(dst, `{"x":%d,"y":%d}`, p.X, p.Y)
}

func (p Point) AppendMsgpack(dst []byte) []byte {
	dst = msgpack.AppendMapHeader(dst, 2)
	dst = msgpack.AppendInt(msgpack.AppendString(dst, "x"), int64(p.X))
	return msgpack.AppendInt(msgpack.AppendString(dst, "y"), int64(p.Y))
}

// One message is encoded once for each protocol, however many clients get it.
func ExampleAppender() {
	server, hub, web := exampleHub()
	defer web.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	got := make(chan string, 1)
	c := exampleClient(ctx, web.URL+"/hub", func(c *client.Client) {
		c.On("Moved", func(_ context.Context, call *client.Call) (any, error) {
			got <- string(call.Raw(0))
			return nil, nil
		})
	})
	hub.All().Send(signalr.NewMessage("Moved", Point{1, 2}))
	fmt.Println(<-got)
	_ = c.Close()
	_ = server.Shutdown(ctx)
	// Output: {"x":1,"y":2}
}

func exampleHub() (*signalr.Server, *signalr.Hub, *httptest.Server) {
	server, err := signalr.NewServer(signalr.Options{})
	if err != nil {
		log.Fatal(err)
	}
	hub, err := server.NewHub(signalr.HubOptions{})
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	hub.Mount(mux, "/hub")
	return server, hub, httptest.NewServer(mux)
}

func exampleClient(ctx context.Context, url string, prepare func(*client.Client)) *client.Client {
	c, err := client.New(url, client.Options{})
	if err != nil {
		log.Fatal(err)
	}
	if prepare != nil {
		prepare(c)
	}
	if err := c.Start(ctx); err != nil {
		log.Fatal(err)
	}
	return c
}
