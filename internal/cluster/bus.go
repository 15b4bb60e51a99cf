package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
)

// busSubject is what the subjects of requests between nodes begin with.
const busSubject = "esh3ar.node."

// busFrom is the header with the sender's name.
const busFrom = "From"

// errNoAnswer is told by a node that cannot answer.
var errNoAnswer = errors.New("cluster: the node did not answer")

// Bus carries requests between nodes, over core NATS: a request or its answer
// may be lost. Its methods are safe for concurrent use.
type Bus struct {
	nc   *nats.Conn
	node string
}

// NewBus connects to NATS. Node is this node's name, as Members has it. The bus
// is to be closed.
func NewBus(c Connector, node string) (*Bus, error) {
	if !nodeName.MatchString(node) {
		return nil, fmt.Errorf("cluster: node name %q: want letters, digits, - and _, with dots between", node)
	}
	// Servers that are away just now are no reason to fail: what is sent meanwhile is lost, as it may be at any time.
	nc, err := c.Connect(nats.Name("bus"), nats.RetryOnFailedConnect(true))
	if err != nil {
		return nil, err
	}
	return &Bus{nc: nc, node: node}, nil
}

// token makes a node's name one token of a subject. Names have no spaces, so
// nothing else becomes the same.
func token(node string) string { return strings.ReplaceAll(node, ".", "~") }

// Request sends data to a node and returns its answer. An error means that it
// may or may not have arrived. A context without a deadline waits for ever.
func (b *Bus) Request(ctx context.Context, node, subject string, data []byte) ([]byte, error) {
	m := nats.NewMsg(busSubject + token(node) + "." + subject)
	m.Header.Set(busFrom, b.node)
	m.Data = data
	answer, err := b.nc.RequestMsgWithContext(ctx, m)
	if err != nil {
		return nil, fmt.Errorf("cluster: request to %s: %w", node, err)
	}
	if len(answer.Data) == 0 {
		return nil, errNoAnswer
	}
	return answer.Data, nil
}

// Handle answers what other nodes send to this one under the subject, one
// request at a time; no answer is told as a failed request. From is the sender's
// name, and data is the callee's. The returned function ends it and waits for an
// answer under way.
func (b *Bus) Handle(subject string, answer func(from string, data []byte) []byte) (end func(), err error) {
	return b.subscribe(busSubject+token(b.node)+"."+subject, func(m *nats.Msg) {
		// An error means that the connection is lost; the sender asks again.
		_ = m.Respond(answer(m.Header.Get(busFrom), m.Data))
	})
}

// Tell sends data to all other nodes that hear the subject. It may be lost.
func (b *Bus) Tell(subject string, data []byte) error {
	m := nats.NewMsg(busSubject + "~." + subject)
	m.Header.Set(busFrom, b.node)
	m.Data = data
	return b.nc.PublishMsg(m)
}

// Hear is told what other nodes Tell, one at a time. The returned function ends
// it and waits for a call under way.
func (b *Bus) Hear(subject string, hear func(from string, data []byte)) (end func(), err error) {
	return b.subscribe(busSubject+"~."+subject, func(m *nats.Msg) {
		if from := m.Header.Get(busFrom); from != b.node {
			hear(from, m.Data)
		}
	})
}

func (b *Bus) subscribe(subject string, f func(*nats.Msg)) (end func(), err error) {
	ended := make(chan struct{})
	sub, err := b.nc.Subscribe(subject, f)
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	sub.SetClosedHandler(func(string) { close(ended) })
	return func() {
		// Of a closed connection there is nothing left to end.
		if sub.Unsubscribe() == nil {
			<-ended
		}
	}, nil
}

// Close ends all requests and handlers.
func (b *Bus) Close() { b.nc.Close() }
