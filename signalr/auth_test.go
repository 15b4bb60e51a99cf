package signalr_test

import (
	"net/http"
	"time"

	"github.com/esh3artech/esh3ar/signalr"
)

// byToken takes the access token for the user id. "bad" is refused and "busy"
// is too much.
func byToken(r *http.Request) (signalr.Identity, error) {
	switch token := signalr.AccessToken(r); token {
	case "", "bad":
		return signalr.Identity{}, http.ErrNoCookie
	case "busy":
		return signalr.Identity{}, &signalr.HTTPError{Status: http.StatusTooManyRequests, Message: "later"}
	default:
		return signalr.Identity{UserID: token}, nil
	}
}

// expiring gives identities that expire after d.
func expiring(d time.Duration) func(*http.Request) (signalr.Identity, error) {
	return func(*http.Request) (signalr.Identity, error) {
		return signalr.Identity{UserID: "u", Expires: time.Now().Add(d)}, nil
	}
}
