package loadgen

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/esh3artech/esh3ar"
)

// minimalLink is a link with just enough WebSocket and SignalR for the mobile hub.
type minimalLink struct {
	hub   *hub
	token string
	in    inbox

	mu    sync.Mutex  // guards what follows, and writing
	sock  *socket     // nil before connect and after the end
	pings *time.Timer // nil like sock

	active atomic.Bool // whether something was written since the last ping

	// What follows belongs to whoever connects or receives.
	rest  []byte // what came with the handshake's answer
	frame []byte // for acknowledgements
}

const (
	recordSeparator = 0x1e
	// pingInterval is how long a connection may be idle. Without pings the server takes devices for gone
	// after a while.
	pingInterval = 10 * time.Second
	// closeTimeout is how long the server may take to answer a goodbye.
	closeTimeout = 5 * time.Second
)

// The frames and messages that never change.
const (
	handshake       = "{\"protocol\":\"json\",\"version\":1}\x1e"
	handshakeAnswer = "{}\x1e"
	pingMessage     = "{\"type\":6}\x1e"
	goodbye         = "{\"type\":7}\x1e"
	normalClosure   = "\x03\xe8" // 1000
	// invocationHead begins an invocation of the device as the server writes it; argumentsEnd ends it.
	invocationHead = `{"type":1,"target":"` + receiveMessage + `","arguments":[`
	argumentsEnd   = `]}`
)

func (l *minimalLink) connect(ctx context.Context) error {
	sock, err := openSocket(ctx, l.hub.end, hubPath, l.token)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { sock.conn.Close() })
	defer stop()
	sock.conn.SetDeadline(time.Now().Add(dialTimeout))
	var answer []byte
	if err = sock.write(opText, []byte(handshake)); err == nil {
		_, answer, err = sock.next()
	}
	rest, ok := bytes.CutPrefix(answer, []byte(handshakeAnswer))
	if err == nil && !ok {
		err = fmt.Errorf("the SignalR handshake was answered with %q", answer)
	}
	if err != nil {
		sock.conn.Close()
		return err
	}
	sock.conn.SetDeadline(time.Time{})
	// Messages may follow the answer in its frame; receive takes them.
	l.rest = bytes.Clone(rest)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sock = sock
	// The first one at random, so that the pings of many are no burst.
	l.pings = time.AfterFunc(rand.N(pingInterval), l.ping)
	return nil
}

func (l *minimalLink) receive() error {
	err := l.frames()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pings.Stop()
	l.sock.conn.Close()
	l.sock, l.pings = nil, nil
	return err
}

// frames takes what the connection brings, and returns why it ended.
func (l *minimalLink) frames() error {
	sock := l.sock
	err := l.messages(l.rest)
	l.rest = nil
	for err == nil {
		if !sock.buffered() {
			if err := l.in.settle(); err != nil {
				return err
			}
		}
		op, payload, e := sock.next()
		switch err = e; {
		case err != nil:
		case op == opText || op == opBinary:
			err = l.messages(payload)
		case op == opPing:
			err = l.write(opPong, payload)
		case op == opClose:
			err = io.EOF
		case op != opPong:
			err = fmt.Errorf("a frame with opcode %d", op)
		}
	}
	return err
}

// messages takes hub messages, each ended by a record separator.
func (l *minimalLink) messages(b []byte) error {
	now := time.Now()
	for len(b) > 0 {
		msg, rest, ok := bytes.Cut(b, []byte{recordSeparator})
		if !ok {
			return fmt.Errorf("a hub message of %d bytes has no end", len(b))
		}
		b = rest
		// The type comes first in what the server writes; the JSON decoder is for all else.
		switch {
		case bytes.HasPrefix(msg, []byte(`{"type":1,`)):
			body, err := argument(msg)
			if err != nil {
				return err
			}
			if err := l.in.message(body, now); err != nil {
				return err
			}
		case bytes.HasPrefix(msg, []byte(`{"type":6`)):
		case bytes.HasPrefix(msg, []byte(`{"type":7`)):
			var end struct{ Error string }
			if err := json.Unmarshal(msg, &end); err != nil {
				return fmt.Errorf("the server's goodbye: %w", err)
			}
			return fmt.Errorf("closed by the server: %s", end.Error)
		default:
			return fmt.Errorf("an unexpected hub message: %.80q", msg)
		}
	}
	return nil
}

// argument returns the argument of an invocation of ReceiveMessage.
func argument(msg []byte) ([]byte, error) {
	if rest, ok := bytes.CutPrefix(msg, []byte(invocationHead)); ok {
		if body, ok := bytes.CutSuffix(rest, []byte(argumentsEnd)); ok {
			return body, nil
		}
	}
	// Some have headers too.
	var in struct {
		Target    string
		Arguments []json.RawMessage
	}
	if err := json.Unmarshal(msg, &in); err != nil {
		return nil, fmt.Errorf("an invocation that does not decode: %w", err)
	}
	if in.Target != receiveMessage || len(in.Arguments) != 1 {
		return nil, fmt.Errorf("an unexpected invocation: %.80q", msg)
	}
	return in.Arguments[0], nil
}

func (l *minimalLink) acknowledge(ids []esh3ar.ID) error {
	l.frame = append(l.frame[:0], `{"type":1,"target":"`+acknowledgeMessages+`","arguments":[`...)
	l.frame = idList(ids).AppendJSON(l.frame)
	l.frame = append(l.frame, argumentsEnd+"\x1e"...)
	return l.write(opText, l.frame)
}

// write sends a frame.
func (l *minimalLink) write(op byte, payload []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.active.Store(true)
	return l.sock.write(op, payload)
}

// ping sends a ping if the connection was idle since the last time.
func (l *minimalLink) ping() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sock == nil {
		return
	}
	if !l.active.Swap(false) {
		// An error means that the connection is lost, which its reader notices.
		_ = l.sock.write(opText, []byte(pingMessage))
	}
	l.pings.Reset(pingInterval)
}

func (l *minimalLink) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sock != nil {
		_ = l.sock.write(opText, []byte(goodbye))
		_ = l.sock.write(opClose, []byte(normalClosure))
		l.sock.conn.SetReadDeadline(time.Now().Add(closeTimeout))
	}
}
