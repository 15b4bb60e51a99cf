package signalr

import "context"

// A Method is something that clients can invoke. Make one with [Action0] …
// [Action4], [Func0] … [Func4], [Stream0] … [Stream3] or [RawMethod].
//
// Parameters are decoded from the invocation's arguments; a parameter of type
// *[StreamReader] takes the next stream that the client uploads.
type Method struct{}

// An Invocation is a client's call of a hub method. It and what its methods
// return is valid only until the handler returns.
type Invocation struct{}

// Conn is the connection that invoked.
func (i *Invocation) Conn() *Conn { panic("not yet") }

// Target is the name of the method as it was registered.
func (i *Invocation) Target() string { panic("not yet") }

// NumArgs is the number of arguments that were sent.
func (i *Invocation) NumArgs() int { panic("not yet") }

// Raw is the n-th argument as it was sent, in the connection's protocol.
func (i *Invocation) Raw(n int) []byte { panic("not yet") }

// Decode stores the n-th argument in the value that v points to.
func (i *Invocation) Decode(n int, v any) error { panic("not yet") }

// A Handler handles an invocation and returns its result.
type Handler func(ctx context.Context, inv *Invocation) (any, error)

// A Filter wraps a handler: it may refuse, measure or change an invocation.
type Filter func(ctx context.Context, inv *Invocation, next Handler) (any, error)

// RawMethod is a method that decodes its arguments itself.
func RawMethod(h Handler) Method { panic("not yet") }

// Action0 is a method without parameters and result.
func Action0(f func(ctx context.Context, c *Conn) error) Method { panic("not yet") }

// Action1 is a method with one parameter and no result.
func Action1[A any](f func(ctx context.Context, c *Conn, a A) error) Method { panic("not yet") }

// Action2 is a method with two parameters and no result.
func Action2[A, B any](f func(ctx context.Context, c *Conn, a A, b B) error) Method {
	panic("not yet")
}

// Func0 is a method without parameters and with a result.
func Func0[R any](f func(ctx context.Context, c *Conn) (R, error)) Method { panic("not yet") }

// Func1 is a method with one parameter and a result.
func Func1[A, R any](f func(ctx context.Context, c *Conn, a A) (R, error)) Method { panic("not yet") }

// Func2 is a method with two parameters and a result.
func Func2[A, B, R any](f func(ctx context.Context, c *Conn, a A, b B) (R, error)) Method {
	panic("not yet")
}

// StreamReader yields the items of a stream that a client uploads.
type StreamReader[T any] struct{}

// Next waits for the next item. It returns io.EOF at the stream's end.
func (r *StreamReader[T]) Next(ctx context.Context) (T, error) { panic("not yet") }

// StreamWriter sends the items of a stream to a client.
type StreamWriter[T any] struct{}

// Send sends an item. Unlike [Conn.Send] it waits while the connection's
// outbox is more than half full.
func (w *StreamWriter[T]) Send(item T) error { panic("not yet") }

// Stream0 is a streaming method without parameters: it sends items until it
// returns. Its context is done when the client cancels the stream.
func Stream0[T any](f func(ctx context.Context, c *Conn, out *StreamWriter[T]) error) Method {
	panic("not yet")
}

// Stream1 is a streaming method with one parameter.
func Stream1[A, T any](f func(ctx context.Context, c *Conn, a A, out *StreamWriter[T]) error) Method {
	panic("not yet")
}
