package signalr

import (
	"context"
	"slices"
	"strconv"
	"testing"
)

// A stillTransport writes nothing. The test is its reader.
type stillTransport struct{ name string }

func (*stillTransport) wake()  {}
func (*stillTransport) hurry() {}
func (*stillTransport) cut()   {}

// TestReplacedTransportIsNotHeard hands over what the reader of a replaced
// transport may still have at the worst times: before and after the sequence
// message of the new one.
func TestReplacedTransportIsNotHeard(t *testing.T) {
	server, err := NewServer(Options{})
	if err != nil {
		t.Fatal(err)
	}
	h, err := server.NewHub(HubOptions{StatefulReconnect: true})
	if err != nil {
		t.Fatal(err)
	}
	var heard []int
	h.Handle("Hear", Action1(func(_ context.Context, _ *Conn, i int) error {
		heard = append(heard, i)
		return nil
	}))
	before, after := &stillTransport{"before"}, &stillTransport{"after"}
	c := h.newConn("id", "token", Identity{}, WebSockets)
	c.stateful = true
	c.transport = before
	say := func(from *stillTransport, text string, want bool) {
		t.Helper()
		if got := c.receive(from, []byte(text+"\x1e"), true); got != want {
			t.Errorf("%s said %s: %v", from.name, text, got)
		}
	}
	hear := func(i int) string {
		return `{"type":1,"target":"Hear","arguments":[` + strconv.Itoa(i) + `]}`
	}
	say(before, `{"protocol":"json","version":2}`, true)
	say(before, hear(1), true)
	if !c.reattach(after) {
		t.Fatal("not reattached")
	}
	say(before, hear(2), false)
	say(after, `{"type":9,"sequenceId":1}`, true)
	say(before, hear(2), false)
	say(after, hear(1), true)
	say(before, hear(3), false)
	for i := 2; i <= 4; i++ {
		say(after, hear(i), true)
	}
	if want := []int{1, 2, 3, 4}; !slices.Equal(heard, want) {
		t.Errorf("heard %v, want %v", heard, want)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.transport != after {
		t.Error("the new transport is not the connection's")
	}
}
