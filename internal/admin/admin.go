// Package admin is the API below /v1/admin/, with which the operator of a deployment manages business
// clients and their API keys, reads the audit log and the raw dead letters, and sees how all nodes are. docs/clients.md is the API as its users see it.
//
// Whoever serves its routes lets nobody in but holders of the admin key, and tells its errors.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/health"
	"github.com/esh3artech/esh3ar/internal/jsonobject"
	"github.com/esh3artech/esh3ar/internal/store"
)

// Store keeps clients, their keys, the audit log and the raw dead letters.
type Store interface {
	store.Clients
	store.Auditor
	store.RejectReader
}

// Options configures an API. All but Now are required.
type Options struct {
	Store Store
	// ForgetKey makes this node look a key up at its next use, so that its end works here at once.
	ForgetKey func(hash [32]byte)
	// Overview says how the whole deployment is.
	Overview func() health.Overview
	// Now is the clock of keys and of the audit log. Default time.Now.
	Now func() time.Time
}

// API serves the routes of the admin API. It is safe for concurrent use and has no goroutines.
type API struct {
	store    Store
	forget   func([32]byte)
	overview func() health.Overview
	now      func() time.Time
}

// New returns an API.
func New(o Options) *API {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &API{store: o.Store, forget: o.ForgetKey, overview: o.Overview, now: o.Now}
}

// Route is a resource with its methods.
type Route struct {
	// Pattern is the path as http.ServeMux takes it, without a method.
	Pattern string
	// Methods are those that it takes. With GET it takes HEAD, too.
	Methods []string
	// Serve answers a request, or returns how it is refused, in which case it has written nothing.
	Serve func(w http.ResponseWriter, r *http.Request) error
}

// handler answers a request, or returns how it is refused.
type handler func(w http.ResponseWriter, r *http.Request) error

// Routes returns what the API serves.
func (a *API) Routes() []Route {
	route := func(pattern string, byMethod map[string]handler) Route {
		return Route{
			Pattern: pattern, Methods: slices.Sorted(maps.Keys(byMethod)),
			Serve: func(w http.ResponseWriter, r *http.Request) error {
				method := r.Method
				if method == http.MethodHead {
					method = http.MethodGet
				}
				return byMethod[method](w, r)
			},
		}
	}
	return []Route{
		route("/v1/admin/clients", map[string]handler{http.MethodGet: a.listClients, http.MethodPost: a.createClient}),
		route("/v1/admin/clients/{client}", map[string]handler{
			http.MethodGet: a.showClient, http.MethodPatch: a.changeClient, http.MethodDelete: a.deleteClient,
		}),
		route("/v1/admin/clients/{client}/keys", map[string]handler{http.MethodGet: a.listKeys, http.MethodPost: a.createKey}),
		route("/v1/admin/clients/{client}/keys/{key}", map[string]handler{http.MethodDelete: a.revokeKey}),
		route("/v1/admin/clients/{client}/keys/{key}/rotate", map[string]handler{http.MethodPost: a.rotateKey}),
		route("/v1/admin/audit", map[string]handler{http.MethodGet: a.listAudit}),
		route("/v1/admin/rejects", map[string]handler{http.MethodGet: a.listRejects}),
		route("/v1/admin/health", map[string]handler{http.MethodGet: a.showHealth}),
	}
}

// Limits of a listing.
const (
	defaultPage = 50
	maxPage     = 200
)

// actor names whoever holds the admin key in the audit log.
const actor = "admin"

// storeTime bounds what a request waits for the store.
const storeTime = 10 * time.Second

func bounded(r *http.Request) (context.Context, context.CancelFunc) {
	return context.WithTimeout(r.Context(), storeTime)
}

// entry returns the audit log's entry for a request. Detail is what it says beside, nil for nothing.
func (a *API) entry(r *http.Request, action, client, object string, detail any) (store.AuditEntry, error) {
	e := store.AuditEntry{At: a.now().UTC(), Actor: actor, Address: r.RemoteAddr, Action: action, Client: client, Object: object}
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		e.Address = host
	}
	if detail == nil {
		return e, nil
	}
	var err error
	e.Detail, err = json.Marshal(detail)
	return e, err
}

// readFault is how a failed look-up is told: what is not classified may pass.
func readFault(err error) error {
	if _, ok := errors.AsType[*esh3ar.Error](err); ok {
		return err
	}
	return esh3ar.Errorf(esh3ar.KindUnavailable, "store_unavailable", "the store does not answer at the moment; try again").
		After(time.Second).Because(err)
}

// writeFault is the same for a failed change. Of one that was cut off nobody knows whether it was made.
func writeFault(err error) error {
	if _, ok := errors.AsType[*esh3ar.Error](err); ok || errors.Is(err, store.ErrPermanent) {
		return err
	}
	return esh3ar.Errorf(esh3ar.KindOutcomeUnknown, "outcome_unknown", "the change may or may not have been made; look before you repeat it").
		After(time.Second).Because(err)
}

// answer writes a JSON answer that must not be cached.
func answer(w http.ResponseWriter, status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(len(body)+1))
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // fails only if the caller has gone
	return nil
}

// stamp is a time as the API shows it: in UTC and with six digits of a second, the zero time as null.
type stamp struct{ time.Time }

// MarshalJSON implements json.Marshaler.
func (s stamp) MarshalJSON() ([]byte, error) {
	if s.IsZero() {
		return []byte("null"), nil
	}
	return s.UTC().AppendFormat(nil, `"2006-01-02T15:04:05.000000Z07:00"`), nil
}

// parameters reads the query parameters of a request, each by its function. Its error is esh3ar.Faults with
// the names of the parameters.
func parameters(r *http.Request, read map[string]func(string) error) error {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return esh3ar.Errorf(esh3ar.KindInvalid, "malformed_query", "the query string is malformed; percent-encode its values")
	}
	var f esh3ar.Faults
	for _, name := range slices.Sorted(maps.Keys(values)) {
		given := values[name]
		set, known := read[name]
		switch {
		case !known:
			f.Add(jsonobject.Clip(name), "unknown_parameter", "there is no such query parameter")
		case len(given) > 1:
			f.Add(name, "duplicate_parameter", "the query parameter is given twice")
		case given[0] == "": // as if it were left out
		default:
			f.Join(name, set(given[0]))
		}
		if len(f) == maxFaults {
			break
		}
	}
	return f.Err()
}

// limit returns what reads the parameter limit.
func limit(n *int) func(string) error {
	return func(s string) error {
		v, err := strconv.Atoi(s)
		if err != nil || v < 1 || v > maxPage {
			return esh3ar.Errorf(esh3ar.KindInvalid, "bad_limit", "the limit is a number between 1 and %d", maxPage)
		}
		*n = v
		return nil
	}
}

// instant returns what reads a parameter that is a time.
func instant(t *time.Time) func(string) error {
	return func(s string) (err error) {
		if *t, err = time.Parse(time.RFC3339, s); err != nil {
			return esh3ar.Errorf(esh3ar.KindInvalid, "bad_time", "give a time as in 2026-01-02T15:04:05Z")
		}
		return nil
	}
}
