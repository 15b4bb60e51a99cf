// Package signalr is a server for the ASP.NET Core SignalR protocol, to which
// the official clients (JavaScript, .NET, Java, Swift) connect unmodified.
//
// A [Server] holds one or more hubs. A [Hub] is an [net/http.Handler] with
// methods that clients invoke ([Hub.Handle]) and connections to which the
// server sends ([Conn.Send], [Clients.Send]).
//
//	server, err := signalr.NewServer(signalr.Options{})
//	hub, err := server.NewHub(signalr.HubOptions{Authenticate: verify})
//	hub.Handle("Say", signalr.Action1(func(ctx context.Context, c *signalr.Conn, text string) error {
//		hub.All().Send(signalr.NewMessage("Said", c.UserID(), text))
//		return nil
//	}))
//	hub.Mount(mux, "/chat")
//	...
//	err = server.Shutdown(ctx)
//
// # What it speaks
//
// Negotiation versions 0 and 1 with redirects, and no negotiation; WebSockets,
// server-sent events and long polling; the JSON and MessagePack hub protocols
// in handshake versions 1 and 2; invocations, streams in both directions,
// cancellation, client results, pings, close messages with allowReconnect, and
// stateful reconnect.
//
// # Order and concurrency
//
// Messages to one connection leave in the order in which Send was called. A
// connection's invocations run in order on the goroutine that reads from it,
// which costs no goroutine and no copy; handlers must then be quick. With
// HubOptions.MaxParallelInvocations above 1 they run beside each other.
// Methods that send or take streams always have a goroutine of their own.
//
// # Memory
//
// Nothing that a client controls grows without bound: messages, outboxes,
// streams, calls, connections and unused negotiations have limits in
// [HubOptions] and [Options]. Sending never blocks. A connection whose outbox is
// full is closed with allowReconnect: nothing is left out silently.
//
// The package client, beside this one, is a client for the same protocol.
package signalr
