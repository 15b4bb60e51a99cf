package ingest

import (
	"crypto/sha256"
	"errors"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/esh3artech/esh3ar"
)

// Route is a resource below /v1/ that is served elsewhere, with the API's authentication and its problems.
type Route struct {
	// Pattern is the path as http.ServeMux takes it, without a method or a host: "/v1/webhooks/{id}". The
	// parts in braces are the request's PathValues.
	Pattern string
	// Scope is what the API key must be allowed to do.
	Scope esh3ar.Scopes
	// Key, if set, is the SHA-256 of the one key that the route takes, in place of the API keys of clients:
	// the operator's. Nobody is the Caller then.
	Key *[sha256.Size]byte
	// Methods are those that the route takes.
	Methods []string
	// Serve answers a request, or returns how it is refused, in which case it has written nothing.
	Serve func(w http.ResponseWriter, r *http.Request, who Caller) error
}

// handler answers a request, or returns how it is refused, in which case it has written nothing.
type handler func(w http.ResponseWriter, r *http.Request) error

// byMethod holds what serves each method of a resource. GET serves HEAD, too.
type byMethod map[string]handler

// own returns the API's own resources by their patterns.
func (a *API) own() map[string]byMethod {
	replay := func(w http.ResponseWriter, r *http.Request) error { return a.deadLetter(w, r, "replay") }
	discard := func(w http.ResponseWriter, r *http.Request) error { return a.deadLetter(w, r, "discard") }
	return map[string]byMethod{
		"/v1/messages":                  {http.MethodGet: a.list, http.MethodPost: a.accept},
		"/v1/messages/batch":            {http.MethodPost: a.acceptBatch},
		"/v1/messages/{id}":             {http.MethodGet: a.show, http.MethodDelete: a.cancel},
		"/v1/dead-letters":              {http.MethodGet: a.listDead},
		"/v1/dead-letters/replay":       {http.MethodPost: a.replayAll},
		"/v1/dead-letters/{id}/replay":  {http.MethodPost: replay},
		"/v1/dead-letters/{id}/discard": {http.MethodPost: discard},
		"/v1/recipient-tokens":          {http.MethodPost: a.mintToken},
	}
}

// handlers returns what serves each method of somebody else's route.
func (a *API) handlers(route Route) byMethod {
	serve := func(w http.ResponseWriter, r *http.Request) error {
		hash, err := apiKeyHash(r.Header)
		if err != nil {
			return err
		}
		var who Caller
		if route.Key != nil {
			err = a.keys.admitOnly(r, hash, route.Key)
		} else {
			who, err = a.keys.holder(r.Context(), hash, r.RemoteAddr, route.Scope)
		}
		if err != nil {
			return err
		}
		if r.ContentLength != 0 {
			if err := checkContentType(r.Header); err != nil {
				return err
			}
		}
		err = route.Serve(w, r, who)
		if errors.Is(err, os.ErrDeadlineExceeded) && asError(err).Code == incompleteCode {
			return bodyTimeout()
		}
		return err
	}
	by := make(byMethod, len(route.Methods))
	for _, method := range route.Methods {
		by[method] = serve
	}
	return by
}

// register serves a resource from now on. It is called while the API is made.
func (a *API) register(pattern string, by byMethod) {
	if get := by[http.MethodGet]; get != nil {
		by[http.MethodHead] = get
	}
	methods := slices.Sorted(maps.Keys(by))
	a.methods[pattern] = methods
	a.routes.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		serve := by[r.Method]
		if serve == nil {
			a.refuse(w, r, notAllowed(strings.Join(methods, ", ")))
			return
		}
		if err := serve(w, r); err != nil {
			a.refuse(w, r, err)
		}
	})
}

// Routes returns the patterns of all resources that the API serves, with the methods that each takes. The
// caller must not change it.
func (a *API) Routes() map[string][]string { return a.methods }
