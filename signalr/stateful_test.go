package signalr_test

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/esh3artech/esh3ar/signalr"
	"github.com/esh3artech/esh3ar/signalr/client"
	"github.com/esh3artech/esh3ar/signalr/internal/cutproxy"
)

// TestStatefulReconnect cuts the connection again and again while messages
// flow in both directions, as sends, streams, invocations and client results:
// nothing may be lost, and nothing come twice. Everything stays in order,
// except that invocations that run beside each other have none.
func TestStatefulReconnect(t *testing.T) {
	t.Run("in order", func(t *testing.T) { statefulReconnect(t, 1) })
	t.Run("four at a time", func(t *testing.T) { statefulReconnect(t, 4) })
}

func statefulReconnect(t *testing.T, parallel int) {
	protocols(t, func(t *testing.T, p client.Protocol) {
		const n, cuts = 2000, 8
		var mu sync.Mutex
		var heard []int
		attached := make(chan string, 100)
		life := newLifeHub()
		opts := life.options(signalr.HubOptions{StatefulReconnect: true, MaxParallelInvocations: parallel, OutboxMessages: 2 * n})
		opts.OnDetached = func(*signalr.Conn) { attached <- "detached" }
		opts.OnReattached = func(*signalr.Conn) { attached <- "reattached" }
		f := start(t, opts, func(h *signalr.Hub) {
			echoHub(h)
			h.Handle("Hear", signalr.Action1(func(_ context.Context, _ *signalr.Conn, i int) error {
				mu.Lock()
				defer mu.Unlock()
				heard = append(heard, i)
				return nil
			}))
			h.Handle("Collect", signalr.Func1(func(ctx context.Context, _ *signalr.Conn, in *signalr.StreamReader[int]) ([]int, error) {
				var all []int
				for {
					i, err := in.Next(ctx)
					if err == io.EOF {
						return all, nil
					}
					if err != nil {
						return nil, err
					}
					all = append(all, i)
				}
			}))
		})
		proxy := cutproxy.New(t, f.url)
		var told []int
		last := make(chan struct{})
		c := dial(t, proxy.URL(), client.Options{
			Protocol: p, StatefulReconnect: true,
			OnReconnecting: func(err error) { t.Errorf("the connection was lost: %v", err) },
		}, func(c *client.Client) {
			client.On1(c, "Tell", func(_ context.Context, i int) {
				told = append(told, i)
				if i == n-1 {
					close(last)
				}
			})
			c.On("Double", func(_ context.Context, call *client.Call) (any, error) {
				var i int
				err := call.Decode(0, &i)
				return 2 * i, err
			})
		})
		conn := receive(t, life.connected, "OnConnected")
		ctx := testContext(t)

		var work sync.WaitGroup
		step := n / cuts
		work.Go(func() {
			for i := range n {
				if err := conn.Send(signalr.NewMessage("Tell", i)); err != nil {
					t.Errorf("send %d: %v", i, err)
					return
				}
				if i%step == step/2 {
					proxy.Cut()
				}
				if i%50 == 0 {
					result, err := conn.Invoke(ctx, signalr.NewMessage("Double", i))
					var doubled int
					if err == nil {
						err = result.Decode(&doubled)
					}
					if err != nil || doubled != 2*i {
						t.Errorf("client result %d: %d, %v", i, doubled, err)
						return
					}
				}
			}
		})
		work.Go(func() {
			for i := range n {
				if err := c.Send(ctx, "Hear", i); err != nil {
					t.Errorf("client send %d: %v", i, err)
					return
				}
				if i%100 == 0 {
					var sum int
					if err := c.Invoke(ctx, &sum, "Add", i, 1); err != nil || sum != i+1 {
						t.Errorf("invocation %d: %d, %v", i, sum, err)
						return
					}
				}
			}
		})
		work.Go(func() {
			var all []int
			err := c.Invoke(ctx, &all, "Collect", client.Upload(func(_ context.Context, send func(any) error) error {
				for i := range n {
					if err := send(i); err != nil {
						return err
					}
				}
				return nil
			}))
			if err != nil || !slices.Equal(all, numbers(n)) {
				t.Errorf("upload: %d items, %v", len(all), err)
			}
		})
		work.Wait()
		receive(t, last, "the last message")
		if !slices.Equal(told, numbers(n)) {
			t.Errorf("the client got %d messages", len(told))
		}
		eventually(t, "the server has heard everything", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(heard) >= n
		})
		mu.Lock()
		defer mu.Unlock()
		if parallel > 1 {
			slices.Sort(heard)
		}
		if !slices.Equal(heard, numbers(n)) {
			t.Errorf("the server heard %d messages: %v", len(heard), heard)
		}
		if conn.ID() != c.ConnectionID() {
			t.Error("the client has another connection")
		}
		if first := receive(t, attached, "a hook"); first != "detached" && first != "reattached" {
			t.Errorf("hook %q", first)
		}
	})
}

func numbers(n int) []int {
	list := make([]int, n)
	for i := range list {
		list[i] = i
	}
	return list
}

func TestStatefulGraceEnds(t *testing.T) {
	life := newLifeHub()
	f := start(t, life.options(signalr.HubOptions{StatefulReconnect: true, DisconnectTimeout: time.Second}), nil)
	n := negotiate(t, f.url, "?negotiateVersion=1&useStatefulReconnect=true", nil)
	s, _ := dialRaw(t, f.url+"?id="+n.ConnectionToken, nil)
	s.send(opText, `{"protocol":"json","version":2}`+"\x1e")
	conn := receive(t, life.connected, "OnConnected")
	_ = s.conn.Close()
	if err := receive(t, life.disconnected, "OnDisconnected"); err == nil {
		t.Error("a client that does not come back is no error")
	}
	if conn.Send(signalr.NewMessage("x")) != signalr.ErrClosed {
		t.Error("the connection is still open")
	}
	if _, status := dialRaw(t, f.url+"?id="+n.ConnectionToken, nil); status != 404 {
		t.Errorf("coming back too late: %d", status)
	}
}

// TestStatefulWire looks at the bytes of a stateful reconnect.
func TestStatefulWire(t *testing.T) {
	life := newLifeHub()
	f := start(t, life.options(signalr.HubOptions{StatefulReconnect: true, KeepAliveInterval: time.Hour}), echoHub)
	n := negotiate(t, f.url, "?negotiateVersion=1&useStatefulReconnect=true", nil)
	connect := func() *rawSocket {
		s, status := dialRaw(t, f.url+"?id="+n.ConnectionToken, nil)
		if s == nil {
			t.Fatalf("upgrade: %d", status)
		}
		return s
	}
	// expect reads messages. Acknowledgements come when it is time for them;
	// acked is the last one.
	acked := ""
	expect := func(s *rawSocket, want string) {
		t.Helper()
		var got string
		for len(got) < len(want) {
			for m := range strings.SplitAfterSeq(s.read(), "\x1e") {
				if strings.HasPrefix(m, `{"type":8,`) {
					acked = m
				} else {
					got += m
				}
			}
		}
		if got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
	// handled waits until the server has handled what was sent, by a ping: it
	// is answered after what came before.
	handled := func(s *rawSocket) {
		t.Helper()
		s.send(opPing, "are you there")
		for {
			opcode, _, err := s.next()
			if err != nil {
				t.Fatal(err)
			}
			if opcode == opPong {
				return
			}
		}
	}
	s := connect()
	s.send(opText, `{"protocol":"json","version":2}`+"\x1e")
	expect(s, "{}\x1e")
	conn := receive(t, life.connected, "OnConnected")
	tell := func(i int) {
		t.Helper()
		if err := conn.Send(signalr.NewMessage("T", i)); err != nil {
			t.Fatal(err)
		}
	}
	told := func(i string) string { return `{"type":1,"target":"T","arguments":[` + i + "]}\x1e" }
	tell(1)
	tell(2)
	expect(s, told("1")+told("2"))
	s.send(opText, `{"type":1,"target":"Echo","arguments":["a"],"invocationId":"1"}`+"\x1e")
	expect(s, `{"type":3,"invocationId":"1","result":"a"}`+"\x1e")
	// The server acknowledges what it has got.
	if acked == "" {
		acked = s.read()
	}
	if acked != `{"type":8,"sequenceId":1}`+"\x1e" {
		t.Fatalf("acknowledgement %q", acked)
	}
	s.send(opText, `{"type":8,"sequenceId":1}`+"\x1e")
	handled(s)

	// While the old socket is still there, another takes over. It does not
	// wait for the client's sequence message.
	s2 := connect()
	expect(s2, `{"type":9,"sequenceId":2}`+"\x1e"+told("2")+`{"type":3,"invocationId":"1","result":"a"}`+"\x1e")
	s.rest() // ends
	// The client repeats a message that the server has, and one that it has
	// not.
	s2.send(opText, `{"type":9,"sequenceId":1}`+"\x1e"+
		`{"type":1,"target":"Echo","arguments":["a"],"invocationId":"1"}`+"\x1e"+
		`{"type":1,"target":"Echo","arguments":["b"],"invocationId":"2"}`+"\x1e")
	expect(s2, `{"type":3,"invocationId":"2","result":"b"}`+"\x1e")

	// Everything acknowledged: the sequence message names the next.
	s2.send(opText, `{"type":8,"sequenceId":4}`+"\x1e"+`{"type":1,"target":"Echo","arguments":["c"],"invocationId":"3"}`+"\x1e")
	expect(s2, `{"type":3,"invocationId":"3","result":"c"}`+"\x1e")
	s2.send(opText, `{"type":8,"sequenceId":5}`+"\x1e")
	handled(s2)
	s3 := connect()
	expect(s3, `{"type":9,"sequenceId":6}`+"\x1e")
	// A sequence message out of range ends the connection.
	s3.send(opText, `{"type":9,"sequenceId":9}`+"\x1e")
	wantContains(t, s3.rest(), "sequence id 9 out of range 1 to 4")
	if err := receive(t, life.disconnected, "OnDisconnected"); err == nil {
		t.Error("no error")
	}
}

// TestStatefulOverlap lets a second socket take over while the server is busy
// with what the first one brought, of which more has arrived: the messages are
// handled once and in order, whichever socket they are taken from.
func TestStatefulOverlap(t *testing.T) {
	var heard []int // by one handler at a time
	entered, leave := make(chan struct{}), make(chan struct{})
	last := make(chan struct{})
	f := start(t, signalr.HubOptions{StatefulReconnect: true}, func(h *signalr.Hub) {
		h.Handle("Hear", signalr.Action1(func(_ context.Context, _ *signalr.Conn, i int) error {
			heard = append(heard, i)
			switch i {
			case 1:
				close(entered)
				<-leave
			case 4:
				close(last)
			}
			return nil
		}))
	})
	hear := func(i int) string { return fmt.Sprintf(`{"type":1,"target":"Hear","arguments":[%d]}`+"\x1e", i) }
	n := negotiate(t, f.url, "?negotiateVersion=1&useStatefulReconnect=true", nil)
	s1, _ := dialRaw(t, f.url+"?id="+n.ConnectionToken, nil)
	s1.send(opText, `{"protocol":"json","version":2}`+"\x1e")
	s1.send(opText, hear(1))
	receive(t, entered, "the first message")
	s1.send(opText, hear(2))
	s1.send(opText, hear(3))
	s2, _ := dialRaw(t, f.url+"?id="+n.ConnectionToken, nil)
	s2.send(opText, `{"type":9,"sequenceId":1}`+"\x1e"+hear(1)+hear(2))
	s2.send(opText, hear(3)+hear(4))
	close(leave)
	receive(t, last, "the last message")
	if want := []int{1, 2, 3, 4}; !slices.Equal(heard, want) {
		t.Errorf("heard %v, want %v", heard, want)
	}
}

func TestStatefulBackpressure(t *testing.T) {
	life := newLifeHub()
	f := start(t, life.options(signalr.HubOptions{StatefulReconnect: true, StatefulBuffer: 100}), nil)
	n := negotiate(t, f.url, "?negotiateVersion=1&useStatefulReconnect=true", nil)
	s, _ := dialRaw(t, f.url+"?id="+n.ConnectionToken, nil)
	s.send(opText, `{"protocol":"json","version":2}`+"\x1e")
	conn := receive(t, life.connected, "OnConnected")
	for range 10 {
		if err := conn.Send(signalr.NewMessage("Twenty", "bytes and some more")); err != nil {
			t.Fatal(err)
		}
	}
	// Two messages exceed the buffer. The rest waits for acknowledgements.
	eventually(t, "sending pauses", func() bool { n, _ := conn.Queued(); return n == 8 })
	s.send(opText, `{"type":8,"sequenceId":2}`+"\x1e")
	eventually(t, "sending goes on", func() bool { n, _ := conn.Queued(); return n == 6 })
	// An acknowledgement of what was never sent ends the connection.
	s.send(opText, `{"type":8,"sequenceId":5}`+"\x1e")
	wantContains(t, s.rest(), "message 5 acknowledged, but only 4 were sent")
}
