package hub

import (
	"net/http"
	"strconv"

	"github.com/esh3artech/esh3ar/signalr"
)

// moved is the parameter of the query that says how many nodes in a row have sent a device on.
const moved = "moved"

// mostMoves is how many nodes in a row may send a device on. It ends a circle of nodes that send a device to each other because
// each knows too little of the others, such as when all are about to stop.
const mostMoves = 3

// redirect sends devices where elsewhere says. They keep their token and what they have said of themselves in the query.
func (h *Hub) redirect(elsewhere func(host string, first bool) string) func(*http.Request, signalr.Identity) (signalr.Redirect, error) {
	if elsewhere == nil {
		return nil
	}
	return func(r *http.Request, _ signalr.Identity) (signalr.Redirect, error) {
		query := r.URL.Query()
		moves, _ := strconv.Atoi(query.Get(moved)) // what is no number is none
		if moves < 0 || moves >= mostMoves {
			return signalr.Redirect{}, nil
		}
		to := elsewhere(r.Host, moves == 0)
		if to == "" {
			return signalr.Redirect{}, nil
		}
		h.redirected.Inc()
		// These are of this negotiation alone; the client says them again.
		for _, name := range []string{"negotiateVersion", "useStatefulReconnect", "access_token"} {
			query.Del(name)
		}
		query.Set(moved, strconv.Itoa(moves+1))
		return signalr.Redirect{URL: to + "?" + query.Encode(), AccessToken: signalr.AccessToken(r)}, nil
	}
}

// admit refuses new connections when the application says so, in the way it refuses tokens.
func admit(f func() error, refusal func(error) *signalr.HTTPError) func(*http.Request) error {
	if f == nil {
		return nil
	}
	return func(*http.Request) error {
		if err := f(); err != nil {
			return refusal(err)
		}
		return nil
	}
}
