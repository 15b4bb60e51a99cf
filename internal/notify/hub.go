package notify

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/signalr"
)

// The methods of a business client that the hub calls.
const (
	statusChanged     = "MessageStatusChanged" // takes an event
	subscriptionEnded = "SubscriptionEnded"    // takes a problem
)

const (
	// hubBatch is how many events are handed to a connection at one time, and hubQueue how many may wait
	// there before: more are taken from the follower when some of them are written.
	hubBatch = 128
	hubQueue = 256
	// hubPause is how long a subscription waits before it looks at a full queue again.
	hubPause = 10 * time.Millisecond
)

// Caller is who holds an API key.
type Caller struct {
	Client string
	// Check reports whether the key still works, by an error of KindUnauthorized or KindForbidden if it does
	// not.
	Check func(context.Context) error
}

// HubOptions configures a Hub. All but AllowedOrigins are required.
type HubOptions struct {
	Server *signalr.Server
	// Caller returns the holder of the API key that a request gives.
	Caller func(r *http.Request, key string) (Caller, error)
	// Refusal says how an error of Caller is told over HTTP.
	Refusal func(error) *signalr.HTTPError
	// AllowedOrigins are the web origins whose pages may connect; "*" allows all.
	AllowedOrigins []string
}

// Hub is the business hub: SignalR connections of business clients, who subscribe to their events. The
// access token is an API key.
type Hub struct {
	*signalr.Hub
	s *Service
}

// subscriber is a connection of a business client.
type subscriber struct {
	Caller
	subscribed atomic.Bool
}

// NewHub returns a hub of the server that tells the service's events.
func (s *Service) NewHub(o HubOptions) (*Hub, error) {
	h := &Hub{s: s}
	sh, err := o.Server.NewHub(signalr.HubOptions{
		Authenticate: func(r *http.Request) (signalr.Identity, error) {
			who, err := o.Caller(r, signalr.AccessToken(r))
			if err != nil {
				return signalr.Identity{}, o.Refusal(err)
			}
			return signalr.Identity{UserID: who.Client, Claims: who}, nil
		},
		OnConnected: func(_ context.Context, c *signalr.Conn) error {
			c.SetValue(&subscriber{Caller: c.Claims().(Caller)})
			return nil
		},
		AllowedOrigins: o.AllowedOrigins,
	})
	if err != nil {
		return nil, err
	}
	sh.Handle("Subscribe", signalr.Func1(h.subscribe))
	h.Hub = sh
	return h, nil
}

// subscribe serves Subscribe(cursor): null and "" begin now, "start" with the oldest events that are kept.
// It returns the cursor that the subscription begins at. Its error's text is a problem document.
func (h *Hub) subscribe(ctx context.Context, c *signalr.Conn, cursor *string) (string, error) {
	var start Start
	switch {
	case cursor == nil:
	case *cursor == "start":
		start.Oldest = true
	default:
		start.Cursor = *cursor
	}
	who := c.Value().(*subscriber)
	if !who.subscribed.CompareAndSwap(false, true) {
		return "", h.problem(esh3ar.Errorf(esh3ar.KindConflict, "already_subscribed", "this connection has a subscription; open another one"))
	}
	f, err := h.s.Follow(ctx, who.Client, start, 0)
	if err != nil {
		who.subscribed.Store(false)
		return "", h.problem(err)
	}
	begins := f.Cursor()
	go h.serve(c, who, f) // Service.Run waits for it
	return begins, nil
}

// problem is how an error is told to a client.
func (h *Hub) problem(err error) error {
	_, document := h.s.opts.Problem(err)
	return &signalr.HubError{Message: string(document)}
}

// serve tells a connection what its follower finds, until the connection ends or there is nothing more to
// tell.
func (h *Hub) serve(c *signalr.Conn, who *subscriber, f *Follower) {
	defer f.Close()
	ctx := c.Context()
	err := f.run(ctx, hubBatch, who.Check, func(events []Event) error {
		for i := range events {
			if err := c.Send(signalr.NewMessage(statusChanged, &events[i])); err != nil {
				return err
			}
		}
		h.s.metrics.told.WithLabelValues("hub").Add(float64(len(events)))
		return h.awaitSpace(ctx, c)
	})
	switch {
	case ctx.Err() != nil, errors.Is(err, ErrStopping):
		return // the connection ends, or the server ends it
	case notAllowed(err):
		c.Close(h.problem(err).Error(), false)
		return
	}
	who.subscribed.Store(false)
	_, document := h.s.opts.Problem(err)
	_ = c.Send(signalr.NewMessage(subscriptionEnded, signalr.RawJSON(document))) // fails only with the connection
}

// awaitSpace waits until the connection has written most of what it was given, so that a client which
// reads slowly is not cut off for the events that it is behind with. One that does not read at all is, by
// the server's time limit for a write.
func (h *Hub) awaitSpace(ctx context.Context, c *signalr.Conn) error {
	for {
		if waiting, _ := c.Queued(); waiting <= hubQueue {
			return nil
		}
		pause := time.NewTimer(hubPause)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return ctx.Err()
		case <-h.s.drain:
			pause.Stop()
			return ErrStopping
		}
	}
}

// notAllowed reports whether an error says that a client may not be told any more.
func notAllowed(err error) bool {
	k := esh3ar.KindOf(err)
	return k == esh3ar.KindUnauthorized || k == esh3ar.KindForbidden
}
