package hub

import (
	"net/http"

	"github.com/esh3artech/esh3ar/signalr"
)

// redirect sends devices where elsewhere says. They keep their token and what they have said of themselves in the query.
func (h *Hub) redirect(elsewhere func(*http.Request) string) func(*http.Request, signalr.Identity) (signalr.Redirect, error) {
	if elsewhere == nil {
		return nil
	}
	return func(r *http.Request, _ signalr.Identity) (signalr.Redirect, error) {
		to := elsewhere(r)
		if to == "" {
			return signalr.Redirect{}, nil
		}
		h.redirected.Inc()
		query := r.URL.Query()
		// These are of this negotiation alone; the client says them again.
		for _, name := range []string{"negotiateVersion", "useStatefulReconnect", "access_token"} {
			query.Del(name)
		}
		if len(query) > 0 {
			to += "?" + query.Encode()
		}
		return signalr.Redirect{URL: to, AccessToken: signalr.AccessToken(r)}, nil
	}
}
