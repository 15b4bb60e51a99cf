package node

import (
	"net/http"
	"slices"
	"time"

	"github.com/rs/cors"
)

// preflightAge is how long a browser may go by the answer to one preflight request.
const preflightAge = 2 * time.Hour

// crossOrigin returns a wrapper that lets pages of those web origins call a handler; "*" is any origin. No
// cookies or other credentials that a browser adds by itself are involved: a page calls with an API key that
// it was given. Without origins the wrapper changes nothing, and browsers keep pages of other origins away.
func crossOrigin(origins []string) func(http.Handler) http.Handler {
	if len(origins) == 0 {
		return func(h http.Handler) http.Handler { return h }
	}
	return cors.New(cors.Options{
		AllowedOrigins: slices.Clone(origins),
		AllowedMethods: []string{
			http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
		},
		AllowedHeaders: []string{
			"Accept", "Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "traceparent", "tracestate",
		},
		ExposedHeaders: []string{"Allow", "Location", "RateLimit", "RateLimit-Policy", "Retry-After", "traceparent"},
		MaxAge:         int(preflightAge / time.Second),
	}).Handler
}
