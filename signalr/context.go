package signalr

import (
	"context"
	"time"
)

// A lifeContext is the context that is done when a connection ends. Few
// connections need one: it is made when somebody asks for it.
type lifeContext struct {
	context.Context
	cancel context.CancelFunc
}

// lifetime returns the connection's context.
func (c *Conn) lifetime() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.life == nil {
		ctx, cancel := context.WithCancel(context.Background())
		c.life = &lifeContext{Context: ctx, cancel: cancel}
		if c.state >= stateClosing {
			cancel()
		}
	}
	return c.life.Context
}

// A connContext is a connection seen as a context that is done when the
// connection ends.
type connContext Conn

func (c *connContext) Deadline() (time.Time, bool) { return time.Time{}, false }
func (c *connContext) Done() <-chan struct{}       { return (*Conn)(c).lifetime().Done() }
func (c *connContext) Err() error                  { return (*Conn)(c).lifetime().Err() }
func (c *connContext) Value(key any) any           { return (*Conn)(c).lifetime().Value(key) }

// An inlineContext is the context of the handlers that run on the goroutine
// that reads from the connection: Conn.Invoke recognises it.
type inlineContext Conn

func (c *inlineContext) Deadline() (time.Time, bool) { return time.Time{}, false }
func (c *inlineContext) Done() <-chan struct{}       { return (*Conn)(c).lifetime().Done() }
func (c *inlineContext) Err() error                  { return (*Conn)(c).lifetime().Err() }

type inlineKey struct{}

func (c *inlineContext) Value(key any) any {
	if key == (inlineKey{}) {
		return (*Conn)(c)
	}
	return (*Conn)(c).lifetime().Value(key)
}
