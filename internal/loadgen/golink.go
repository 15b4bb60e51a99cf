package loadgen

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/esh3artech/esh3ar"
	signalr "github.com/esh3artech/esh3ar/signalr/client"
	"github.com/esh3artech/esh3ar/signalr/msgpack"
)

// goLink is a link by the Go SignalR client.
type goLink struct {
	client *signalr.Client
	in     inbox
	failed error // by the inbox, on the client's goroutine
}

func newGoLink(h *hub, token string, in inbox) (*goLink, error) {
	l := &goLink{in: in}
	scheme := "http://"
	if h.end.tls != nil {
		scheme = "https://"
	}
	c, err := signalr.New(scheme+h.end.host+h.end.path+hubPath, signalr.Options{
		AccessToken:      func(context.Context) (string, error) { return token, nil },
		Dial:             h.end.dialer.DialContext,
		HTTPClient:       h.http,
		HandshakeTimeout: dialTimeout,
		Reconnect:        signalr.NoReconnect, // the device does, with a link of its own each time
		OnBatch: func() {
			if l.failed == nil {
				l.fail(in.settle())
			}
		},
	})
	if err != nil {
		return nil, err
	}
	l.client = c
	c.On(receiveMessage, func(_ context.Context, call *signalr.Call) (any, error) {
		if l.failed == nil {
			l.fail(in.message(call.Raw(0), time.Now()))
		}
		return nil, nil
	})
	return l, nil
}

// fail ends the connection with an error of the inbox.
func (l *goLink) fail(err error) {
	if err != nil {
		l.failed = err
		_ = l.client.Close() // which does not wait here, as the reader is what calls it
	}
}

func (l *goLink) connect(ctx context.Context) error {
	err := l.client.Start(ctx)
	if err != nil {
		_ = l.client.Close()
		<-l.client.Done()
		var refused *signalr.HTTPError
		if errors.As(err, &refused) {
			return &refusedError{status: refused.Status, code: string(field([]byte(refused.Body), `"code":"`))}
		}
	}
	return err
}

func (l *goLink) receive() error {
	<-l.client.Done()
	switch err := l.client.Err(); {
	case l.failed != nil:
		return l.failed
	case err != nil:
		return err
	}
	return io.EOF // by close
}

func (l *goLink) acknowledge(ids []esh3ar.ID) error {
	return l.client.Send(context.Background(), acknowledgeMessages, idList(ids))
}

func (l *goLink) close() { _ = l.client.Close() }

// idList is an argument that needs no reflection to be encoded.
type idList []esh3ar.ID

// AppendJSON implements signalr.Appender.
func (ids idList) AppendJSON(dst []byte) []byte {
	sep := byte('[')
	for _, id := range ids {
		dst = append(dst, sep, '"')
		dst = id.Append(dst)
		dst = append(dst, '"')
		sep = ','
	}
	if len(ids) == 0 {
		dst = append(dst, '[')
	}
	return append(dst, ']')
}

// AppendMsgpack implements signalr.Appender.
func (ids idList) AppendMsgpack(dst []byte) []byte {
	dst = msgpack.AppendArrayHeader(dst, len(ids))
	for _, id := range ids {
		dst = msgpack.AppendString(dst, id.String())
	}
	return dst
}
