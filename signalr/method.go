package signalr

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/esh3artech/esh3ar/signalr/internal/protocol"
)

// A Method is something that clients can invoke. Make one with [Action0] …
// [Action4], [Func0] … [Func4], [Stream0] … [Stream3] or [RawMethod].
//
// Parameters are decoded from the invocation's arguments; a parameter of type
// *[StreamReader] takes the next stream that the client uploads, and no
// argument. Too few or too many arguments fail the invocation.
type Method struct {
	handler   Handler
	streaming bool // sends a stream
	result    bool // completes with a result, even if that is nil
	uploads   int  // streams that it takes
}

// A method is a Method under its name, with the hub's filters around it.
type method struct {
	Method
	target string
}

// A Handler handles an invocation and returns its result. A streaming method
// returns when its stream ends, and nil.
type Handler func(ctx context.Context, inv *Invocation) (any, error)

// A Filter wraps a handler: it may refuse, measure or change an invocation.
// For streaming methods next returns at the stream's end.
type Filter func(ctx context.Context, inv *Invocation, next Handler) (any, error)

func filtered(h Handler, filters []Filter) Handler {
	for _, f := range slices.Backward(filters) {
		next := h
		h = func(ctx context.Context, inv *Invocation) (any, error) { return f(ctx, inv, next) }
	}
	return h
}

// An Invocation is a client's call of a hub method. It and what its methods
// return is valid only until the handler returns.
type Invocation struct {
	conn   *Conn
	method *method
	id     string
	codec  protocol.Codec
	args   [][]byte
	own    []byte // memory of args, if they had to be copied

	uploads  []*upload
	download *download
}

// invocationPool reuses invocations between handlers.
type invocationPool struct{ pool sync.Pool }

var invocations = &invocationPool{pool: sync.Pool{New: func() any { return new(Invocation) }}}

func (p *invocationPool) get() *Invocation { return p.pool.Get().(*Invocation) }

func (i *Invocation) set(c *Conn, m *method, id string, codec protocol.Codec, args [][]byte) {
	i.conn, i.method, i.id, i.codec, i.args = c, m, id, codec, args
}

// copyArgs takes copies of arguments that will be overwritten by the reader.
func (i *Invocation) copyArgs(args [][]byte) {
	size := 0
	for _, a := range args {
		size += len(a)
	}
	i.own = make([]byte, 0, size)
	i.args = make([][]byte, 0, len(args))
	for _, a := range args {
		start := len(i.own)
		i.own = append(i.own, a...)
		i.args = append(i.args, i.own[start:len(i.own):len(i.own)])
	}
}

func (i *Invocation) release() {
	*i = Invocation{}
	invocations.pool.Put(i)
}

// Conn is the connection that invoked.
func (i *Invocation) Conn() *Conn { return i.conn }

// Target is the name of the method as it was registered.
func (i *Invocation) Target() string { return i.method.target }

// NumArgs is the number of arguments that were sent.
func (i *Invocation) NumArgs() int { return len(i.args) }

// Raw is the n-th argument, from 0, as it was sent: JSON or MessagePack. It
// is nil when there are not so many.
func (i *Invocation) Raw(n int) []byte {
	if n < 0 || n >= len(i.args) {
		return nil
	}
	return i.args[n]
}

// Decode stores the n-th argument in the value that v points to.
func (i *Invocation) Decode(n int, v any) error {
	if n < 0 || n >= len(i.args) {
		return &bindingError{fmt.Errorf("argument %d of %d", n+1, len(i.args))}
	}
	if err := i.codec.Decode(i.args[n], v); err != nil {
		return &bindingError{fmt.Errorf("argument %d: %w", n+1, err)}
	}
	return nil
}

// A bindingError says why arguments do not fit a method's parameters.
type bindingError struct{ err error }

func (e *bindingError) Error() string { return e.err.Error() }
func (e *bindingError) Unwrap() error { return e.err }

// binder hands the arguments of an invocation to a method's parameters, in
// order.
type binder struct {
	inv              *Invocation
	nextArg, nextUpl int
	err              error
}

// bind returns the value of the next parameter.
func bind[A any](b *binder) (a A) {
	if b.err != nil {
		return a
	}
	if taker, ok := any(a).(uploadTaker); ok {
		a, _ = taker.take(b.inv, b.inv.uploads[b.nextUpl]).(A)
		b.nextUpl++
		return a
	}
	b.err = b.inv.Decode(b.nextArg, &a)
	b.nextArg++
	return a
}

// done checks that no argument is left.
func (b *binder) done() error {
	if b.err == nil && b.nextArg != len(b.inv.args) {
		b.err = &bindingError{fmt.Errorf("%d arguments for %d parameters", len(b.inv.args), b.nextArg)}
	}
	return b.err
}

// uploadsOf counts the parameters that take a stream, given their zero values.
func uploadsOf(zero ...any) int {
	n := 0
	for _, z := range zero {
		if _, ok := z.(uploadTaker); ok {
			n++
		}
	}
	return n
}

// zero is the zero value of A in an interface.
func zero[A any]() any {
	var a A
	return a
}

// RawMethod is a method that decodes its arguments itself. A nil result is
// answered as no result.
func RawMethod(h Handler) Method { return Method{handler: h} }

// Action0 is a method without parameters and result.
func Action0(f func(ctx context.Context, c *Conn) error) Method {
	return Method{handler: func(ctx context.Context, inv *Invocation) (any, error) {
		b := binder{inv: inv}
		if err := b.done(); err != nil {
			return nil, err
		}
		return nil, f(ctx, inv.conn)
	}}
}

// Action1 is a method with one parameter and no result.
func Action1[A any](f func(ctx context.Context, c *Conn, a A) error) Method {
	return Method{uploads: uploadsOf(zero[A]()), handler: func(ctx context.Context, inv *Invocation) (any, error) {
		b := binder{inv: inv}
		a1 := bind[A](&b)
		if err := b.done(); err != nil {
			return nil, err
		}
		return nil, f(ctx, inv.conn, a1)
	}}
}

// Action2 is a method with two parameters and no result.
func Action2[A, B any](f func(ctx context.Context, c *Conn, a A, b B) error) Method {
	return Method{uploads: uploadsOf(zero[A](), zero[B]()), handler: func(ctx context.Context, inv *Invocation) (any, error) {
		b := binder{inv: inv}
		a1, a2 := bind[A](&b), bind[B](&b)
		if err := b.done(); err != nil {
			return nil, err
		}
		return nil, f(ctx, inv.conn, a1, a2)
	}}
}

// Action3 is a method with three parameters and no result.
func Action3[A, B, C any](f func(ctx context.Context, c *Conn, a A, b B, d C) error) Method {
	return Method{uploads: uploadsOf(zero[A](), zero[B](), zero[C]()), handler: func(ctx context.Context, inv *Invocation) (any, error) {
		b := binder{inv: inv}
		a1, a2, a3 := bind[A](&b), bind[B](&b), bind[C](&b)
		if err := b.done(); err != nil {
			return nil, err
		}
		return nil, f(ctx, inv.conn, a1, a2, a3)
	}}
}

// Action4 is a method with four parameters and no result.
func Action4[A, B, C, D any](f func(ctx context.Context, c *Conn, a A, b B, d C, e D) error) Method {
	return Method{uploads: uploadsOf(zero[A](), zero[B](), zero[C](), zero[D]()), handler: func(ctx context.Context, inv *Invocation) (any, error) {
		b := binder{inv: inv}
		a1, a2, a3, a4 := bind[A](&b), bind[B](&b), bind[C](&b), bind[D](&b)
		if err := b.done(); err != nil {
			return nil, err
		}
		return nil, f(ctx, inv.conn, a1, a2, a3, a4)
	}}
}

// Func0 is a method without parameters and with a result.
func Func0[R any](f func(ctx context.Context, c *Conn) (R, error)) Method {
	return Method{result: true, handler: func(ctx context.Context, inv *Invocation) (any, error) {
		b := binder{inv: inv}
		if err := b.done(); err != nil {
			return nil, err
		}
		return f(ctx, inv.conn)
	}}
}

// Func1 is a method with one parameter and a result.
func Func1[A, R any](f func(ctx context.Context, c *Conn, a A) (R, error)) Method {
	return Method{result: true, uploads: uploadsOf(zero[A]()), handler: func(ctx context.Context, inv *Invocation) (any, error) {
		b := binder{inv: inv}
		a1 := bind[A](&b)
		if err := b.done(); err != nil {
			return nil, err
		}
		return f(ctx, inv.conn, a1)
	}}
}

// Func2 is a method with two parameters and a result.
func Func2[A, B, R any](f func(ctx context.Context, c *Conn, a A, b B) (R, error)) Method {
	return Method{result: true, uploads: uploadsOf(zero[A](), zero[B]()), handler: func(ctx context.Context, inv *Invocation) (any, error) {
		b := binder{inv: inv}
		a1, a2 := bind[A](&b), bind[B](&b)
		if err := b.done(); err != nil {
			return nil, err
		}
		return f(ctx, inv.conn, a1, a2)
	}}
}

// Func3 is a method with three parameters and a result.
func Func3[A, B, C, R any](f func(ctx context.Context, c *Conn, a A, b B, d C) (R, error)) Method {
	return Method{result: true, uploads: uploadsOf(zero[A](), zero[B](), zero[C]()), handler: func(ctx context.Context, inv *Invocation) (any, error) {
		b := binder{inv: inv}
		a1, a2, a3 := bind[A](&b), bind[B](&b), bind[C](&b)
		if err := b.done(); err != nil {
			return nil, err
		}
		return f(ctx, inv.conn, a1, a2, a3)
	}}
}

// Func4 is a method with four parameters and a result.
func Func4[A, B, C, D, R any](f func(ctx context.Context, c *Conn, a A, b B, d C, e D) (R, error)) Method {
	return Method{result: true, uploads: uploadsOf(zero[A](), zero[B](), zero[C](), zero[D]()), handler: func(ctx context.Context, inv *Invocation) (any, error) {
		b := binder{inv: inv}
		a1, a2, a3, a4 := bind[A](&b), bind[B](&b), bind[C](&b), bind[D](&b)
		if err := b.done(); err != nil {
			return nil, err
		}
		return f(ctx, inv.conn, a1, a2, a3, a4)
	}}
}

// Stream0 is a streaming method without parameters: it sends items until it
// returns. Its context is done when the client cancels the stream.
func Stream0[T any](f func(ctx context.Context, c *Conn, out *StreamWriter[T]) error) Method {
	return Method{streaming: true, handler: func(ctx context.Context, inv *Invocation) (any, error) {
		b := binder{inv: inv}
		if err := b.done(); err != nil {
			return nil, err
		}
		return nil, f(ctx, inv.conn, &StreamWriter[T]{ctx: ctx, to: inv.download})
	}}
}

// Stream1 is a streaming method with one parameter.
func Stream1[A, T any](f func(ctx context.Context, c *Conn, a A, out *StreamWriter[T]) error) Method {
	return Method{streaming: true, uploads: uploadsOf(zero[A]()), handler: func(ctx context.Context, inv *Invocation) (any, error) {
		b := binder{inv: inv}
		a1 := bind[A](&b)
		if err := b.done(); err != nil {
			return nil, err
		}
		return nil, f(ctx, inv.conn, a1, &StreamWriter[T]{ctx: ctx, to: inv.download})
	}}
}

// Stream2 is a streaming method with two parameters.
func Stream2[A, B, T any](f func(ctx context.Context, c *Conn, a A, b B, out *StreamWriter[T]) error) Method {
	return Method{streaming: true, uploads: uploadsOf(zero[A](), zero[B]()), handler: func(ctx context.Context, inv *Invocation) (any, error) {
		b := binder{inv: inv}
		a1, a2 := bind[A](&b), bind[B](&b)
		if err := b.done(); err != nil {
			return nil, err
		}
		return nil, f(ctx, inv.conn, a1, a2, &StreamWriter[T]{ctx: ctx, to: inv.download})
	}}
}

// Stream3 is a streaming method with three parameters.
func Stream3[A, B, C, T any](f func(ctx context.Context, c *Conn, a A, b B, d C, out *StreamWriter[T]) error) Method {
	return Method{streaming: true, uploads: uploadsOf(zero[A](), zero[B](), zero[C]()), handler: func(ctx context.Context, inv *Invocation) (any, error) {
		b := binder{inv: inv}
		a1, a2, a3 := bind[A](&b), bind[B](&b), bind[C](&b)
		if err := b.done(); err != nil {
			return nil, err
		}
		return nil, f(ctx, inv.conn, a1, a2, a3, &StreamWriter[T]{ctx: ctx, to: inv.download})
	}}
}
