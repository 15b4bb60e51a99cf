package signalr_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/esh3artech/esh3ar/signalr"
	"github.com/esh3artech/esh3ar/signalr/client"
)

// echoHub registers the methods that most tests use.
func echoHub(h *signalr.Hub) {
	h.Handle("Echo", signalr.Func1(func(_ context.Context, _ *signalr.Conn, s string) (string, error) { return s, nil }))
	h.Handle("Add", signalr.Func2(func(_ context.Context, _ *signalr.Conn, a, b int) (int, error) { return a + b, nil }))
	h.Handle("Join", signalr.Action1(func(_ context.Context, c *signalr.Conn, group string) error { return c.JoinGroup(group) }))
	h.Handle("Leave", signalr.Action1(func(_ context.Context, c *signalr.Conn, group string) error {
		c.LeaveGroup(group)
		return nil
	}))
	h.Handle("Fail", signalr.Action1(func(_ context.Context, _ *signalr.Conn, text string) error { return errors.New(text) }))
	h.Handle("Refuse", signalr.Action1(func(_ context.Context, _ *signalr.Conn, text string) error {
		return &signalr.HubError{Message: text}
	}))
	h.Handle("Panic", signalr.Action0(func(context.Context, *signalr.Conn) error { panic("on purpose") }))
	h.Handle("Count", signalr.Stream1(func(_ context.Context, _ *signalr.Conn, n int, out *signalr.StreamWriter[int]) error {
		for i := range n {
			if err := out.Send(i); err != nil {
				return err
			}
		}
		return nil
	}))
	h.Handle("Sum", signalr.Func1(func(ctx context.Context, _ *signalr.Conn, in *signalr.StreamReader[int]) (int, error) {
		sum := 0
		for {
			n, err := in.Next(ctx)
			if err == io.EOF {
				return sum, nil
			}
			if err != nil {
				return 0, err
			}
			sum += n
		}
	}))
}

// protocols runs a test for both hub protocols.
func protocols(t *testing.T, test func(t *testing.T, p client.Protocol)) {
	t.Run("json", func(t *testing.T) { test(t, client.JSON) })
	t.Run("messagepack", func(t *testing.T) { test(t, client.MessagePack) })
}

func TestInvoke(t *testing.T) {
	protocols(t, func(t *testing.T, p client.Protocol) {
		f := start(t, signalr.HubOptions{}, echoHub)
		c := f.dial(t, client.Options{Protocol: p}, nil)
		ctx := testContext(t)
		var s string
		if err := c.Invoke(ctx, &s, "Echo", "grüß \"dich\" \u2028\x00"); err != nil || s != "grüß \"dich\" \u2028\x00" {
			t.Errorf("Echo: %q, %v", s, err)
		}
		var n int
		if err := c.Invoke(ctx, &n, "add", 40, 2); err != nil || n != 42 {
			t.Errorf("Add: %d, %v", n, err)
		}
		if err := c.Invoke(ctx, nil, "Join", "g"); err != nil {
			t.Errorf("Join: %v", err)
		}
	})
}

func TestInvocationErrors(t *testing.T) {
	for _, test := range []struct {
		target string
		args   []any
		want   string
	}{
		{"Fail", []any{"secret"}, "An unexpected error occurred invoking 'Fail' on the server."},
		{"Refuse", []any{"told"}, "An unexpected error occurred invoking 'Refuse' on the server. HubException: told"},
		{"Panic", nil, "An unexpected error occurred invoking 'Panic' on the server."},
		{"Nope", nil, "Unknown hub method 'Nope'"},
		{"Echo", nil, "Failed to invoke 'Echo' due to an error on the server."},
		{"Echo", []any{"a", "b"}, "Failed to invoke 'Echo' due to an error on the server."},
		{"Echo", []any{1}, "Failed to invoke 'Echo' due to an error on the server."},
		{"Sum", nil, "Failed to invoke 'Sum' due to an error on the server."},
		{"Count", []any{1}, "The client attempted to invoke the streaming 'Count' method with a non-streaming invocation."},
	} {
		protocols(t, func(t *testing.T, p client.Protocol) {
			f := start(t, signalr.HubOptions{}, echoHub)
			c := f.dial(t, client.Options{Protocol: p}, nil)
			err := c.Invoke(testContext(t), nil, test.target, test.args...)
			var hubError *client.HubError
			if !errors.As(err, &hubError) || hubError.Message != test.want {
				t.Errorf("%s%v: %v, want %q", test.target, test.args, err, test.want)
			}
			// The connection has survived, and so do unanswered failures.
			if err := c.Send(testContext(t), test.target, test.args...); err != nil {
				t.Error(err)
			}
			var s string
			if err := c.Invoke(testContext(t), &s, "Echo", "x"); err != nil || s != "x" {
				t.Errorf("Echo after that: %q, %v", s, err)
			}
		})
	}
}

func TestDetailedErrors(t *testing.T) {
	f := start(t, signalr.HubOptions{DetailedErrors: true}, echoHub)
	c := f.dial(t, client.Options{}, nil)
	err := c.Invoke(testContext(t), nil, "Fail", "detail")
	wantContains(t, err.Error(), "detail")
}

func TestSendKeepsOrder(t *testing.T) {
	protocols(t, func(t *testing.T, p client.Protocol) {
		const n = 5000
		f := start(t, signalr.HubOptions{OutboxMessages: n, OutboxBytes: 10 << 20}, nil)
		got := make(chan int, n)
		c := f.dial(t, client.Options{Protocol: p}, func(c *client.Client) {
			client.On1(c, "Number", func(_ context.Context, i int) { got <- i })
		})
		eventually(t, "the connection is open", func() bool { return f.hub.Len() == 1 })
		conn := f.hub.All().Conns()[0]
		if conn.ID() != c.ConnectionID() {
			t.Errorf("connection id %q, the client has %q", conn.ID(), c.ConnectionID())
		}
		for i := range n {
			if err := conn.Send(signalr.NewMessage("Number", i)); err != nil {
				t.Fatal(err)
			}
		}
		for i := range n {
			if g := receive(t, got, "a message"); g != i {
				t.Fatalf("message %d came where %d was due", g, i)
			}
		}
	})
}

func TestStreams(t *testing.T) {
	protocols(t, func(t *testing.T, p client.Protocol) {
		f := start(t, signalr.HubOptions{}, echoHub)
		c := f.dial(t, client.Options{Protocol: p}, nil)
		ctx := testContext(t)
		s, err := c.Stream(ctx, "Count", 1000)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; ; i++ {
			var n int
			err := s.Next(ctx, &n)
			if err == io.EOF && i == 1000 {
				break
			}
			if err != nil || n != i {
				t.Fatalf("item %d: %d, %v", i, n, err)
			}
		}
		var sum int
		err = c.Invoke(ctx, &sum, "Sum", client.Upload(func(_ context.Context, send func(any) error) error {
			for i := range 100 {
				if err := send(i); err != nil {
					return err
				}
			}
			return nil
		}))
		if err != nil || sum != 4950 {
			t.Errorf("Sum: %d, %v", sum, err)
		}
		// An upload that fails is an error of the handler's reader.
		err = c.Invoke(ctx, &sum, "Sum", client.Upload(func(context.Context, func(any) error) error {
			return errors.New("gave up")
		}))
		if err == nil {
			t.Error("Sum of a failed upload succeeded")
		}
	})
}

func TestCancelStream(t *testing.T) {
	ended := make(chan error, 1)
	f := start(t, signalr.HubOptions{}, func(h *signalr.Hub) {
		h.Handle("Forever", signalr.Stream0(func(ctx context.Context, _ *signalr.Conn, out *signalr.StreamWriter[int]) error {
			for i := 0; ; i++ {
				if err := out.Send(i); err != nil {
					ended <- err
					return err
				}
			}
		}))
	})
	c := f.dial(t, client.Options{}, nil)
	s, err := c.Stream(testContext(t), "Forever")
	if err != nil {
		t.Fatal(err)
	}
	var n int
	if err := s.Next(testContext(t), &n); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := receive(t, ended, "the end of the stream"); !errors.Is(err, context.Canceled) {
		t.Errorf("the stream ended with %v", err)
	}
}

func TestClientResults(t *testing.T) {
	protocols(t, func(t *testing.T, p client.Protocol) {
		f := start(t, signalr.HubOptions{}, nil)
		f.dial(t, client.Options{Protocol: p}, func(c *client.Client) {
			c.On("Double", func(_ context.Context, call *client.Call) (any, error) {
				var n int
				if err := call.Decode(0, &n); err != nil {
					return nil, err
				}
				if n < 0 {
					return nil, errors.New("negative")
				}
				return 2 * n, nil
			})
		})
		eventually(t, "the connection is open", func() bool { return f.hub.Len() == 1 })
		conn := f.hub.All().Conns()[0]
		result, err := conn.Invoke(testContext(t), signalr.NewMessage("Double", 21))
		if err != nil {
			t.Fatal(err)
		}
		var n int
		if err := result.Decode(&n); err != nil || n != 42 {
			t.Errorf("Double: %d, %v", n, err)
		}
		_, err = conn.Invoke(testContext(t), signalr.NewMessage("Double", -1))
		var clientError *signalr.ClientError
		if !errors.As(err, &clientError) || clientError.Message != "negative" {
			t.Errorf("Double(-1): %v", err)
		}
		_, err = conn.Invoke(testContext(t), signalr.NewMessage("Unknown"))
		if !errors.As(err, &clientError) {
			t.Errorf("Unknown: %v", err)
		}
	})
}

func TestPendingCallsFailWhenTheConnectionEnds(t *testing.T) {
	f := start(t, signalr.HubOptions{MaxPendingCalls: 2}, nil)
	block, entered := make(chan struct{}), make(chan struct{}, 2)
	c := f.dial(t, client.Options{}, func(c *client.Client) {
		c.On("Never", func(ctx context.Context, _ *client.Call) (any, error) {
			entered <- struct{}{}
			<-block
			return nil, nil
		})
	})
	eventually(t, "the connection is open", func() bool { return f.hub.Len() == 1 })
	conn := f.hub.All().Conns()[0]
	failed := make(chan error, 2)
	never := signalr.NewMessage("Never")
	for range 2 {
		if _, err := conn.InvokeAsync(never, func(_ signalr.Result, err error) { failed <- err }); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := conn.InvokeAsync(never, nil); err != signalr.ErrTooManyCalls {
		t.Errorf("a third call: %v", err)
	}
	receive(t, entered, "the call")
	conn.Close("", false)
	for range 2 {
		if err := receive(t, failed, "the failure of a call"); err != signalr.ErrClosed {
			t.Errorf("a call failed with %v", err)
		}
	}
	close(block)
	receive(t, c.Done(), "the client's end")
}

func TestGroupsAndUsers(t *testing.T) {
	f := start(t, signalr.HubOptions{Authenticate: byToken}, echoHub)
	got := make(chan string, 100)
	connect := func(name string) *client.Client {
		return f.dial(t, client.Options{
			AccessToken: func(context.Context) (string, error) { return name[:1], nil },
		}, func(c *client.Client) {
			client.On1(c, "Tell", func(_ context.Context, s string) { got <- name + ":" + s })
		})
	}
	a1, a2, b1 := connect("a1"), connect("a2"), connect("b1")
	ctx := testContext(t)
	for _, c := range []*client.Client{a1, b1} {
		if err := c.Invoke(ctx, nil, "Join", "g"); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all are connected", func() bool { return f.hub.Len() == 3 })
	expect := func(text string, sent int, to ...string) {
		t.Helper()
		if sent != len(to) {
			t.Errorf("%s went to %d connections", text, sent)
		}
		var names []string
		for range to {
			names = append(names, receive(t, got, text))
		}
		slices.Sort(names)
		for i, name := range to {
			if want := name + ":" + text; names[i] != want {
				t.Errorf("got %q, want %q", names[i], want)
			}
		}
	}
	tell := func(to signalr.Clients, text string) int { return to.Send(signalr.NewMessage("Tell", text)) }
	expect("all", tell(f.hub.All(), "all"), "a1", "a2", "b1")
	expect("user", tell(f.hub.User("a"), "user"), "a1", "a2")
	expect("group", tell(f.hub.Group("g"), "group"), "a1", "b1")
	expect("except", tell(f.hub.Group("g").Except(a1.ConnectionID()), "except"), "b1")
	if err := a1.Invoke(ctx, nil, "Leave", "g"); err != nil {
		t.Fatal(err)
	}
	expect("left", tell(f.hub.Group("g"), "left"), "b1")
	if err := a2.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b1.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "two have left", func() bool { return f.hub.Len() == 1 })
	expect("rest", tell(f.hub.All(), "rest"), "a1")
	if n := tell(f.hub.Group("g"), "nobody"); n != 0 {
		t.Errorf("an empty group took %d", n)
	}
}
