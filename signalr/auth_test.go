package signalr_test

import (
	"net/http"

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
