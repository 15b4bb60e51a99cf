package admin

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
)

// client is a client as the API shows it.
type client struct {
	ID         string   `json:"id"`
	Name       string   `json:"name"`
	Tier       string   `json:"tier"`
	Rate       int      `json:"rate"`
	Burst      int      `json:"burst"`
	DailyQuota int64    `json:"daily_quota"`
	Recipients string   `json:"recipients"`
	Scopes     []string `json:"scopes"`
	Suspended  bool     `json:"suspended"`
	CreatedAt  stamp    `json:"created_at"`
}

func shown(c *esh3ar.Client) client {
	return client{
		ID: c.ID, Name: c.Name, Tier: c.Tier.String(), Rate: c.Rate, Burst: c.Burst, DailyQuota: c.DailyQuota,
		Recipients: c.Recipients, Scopes: c.Scopes.Names(), Suspended: c.Suspended, CreatedAt: stamp{c.CreatedAt},
	}
}

// etag is what names a client's revision in HTTP.
func etag(c *esh3ar.Client) string { return fmt.Sprintf(`"%d"`, c.Revision) }

func answerClient(w http.ResponseWriter, status int, c *esh3ar.Client) error {
	w.Header().Set("ETag", etag(c))
	return answer(w, status, shown(c))
}

// settings returns what reads the fields of a client that can be changed.
func settings(c *esh3ar.Client) fields {
	return fields{
		"name":        to(&c.Name, "a string"),
		"tier":        parsed(&c.Tier, "a string", esh3ar.ParseTier),
		"rate":        to(&c.Rate, "a whole number"),
		"burst":       to(&c.Burst, "a whole number"),
		"daily_quota": to(&c.DailyQuota, "a whole number"),
		"recipients": parsed(&c.Recipients, "a string", func(s string) (string, error) {
			return strings.Join(strings.Fields(s), " "), nil
		}),
		"scopes":    scopes(&c.Scopes),
		"suspended": to(&c.Suspended, "true or false"),
	}
}

func clientPath(id string) string { return "/v1/admin/clients/" + url.PathEscape(id) }

// find returns the client of a request's path.
func (a *API) find(r *http.Request) (esh3ar.Client, error) {
	ctx, cancel := bounded(r)
	defer cancel()
	c, err := a.store.Client(ctx, r.PathValue("client"))
	if errors.Is(err, store.ErrNotFound) {
		return c, noClient()
	}
	if err != nil {
		return c, readFault(err)
	}
	return c, nil
}

func noClient() error {
	return esh3ar.Errorf(esh3ar.KindNotFound, "client_not_found", "there is no such client")
}

// listClients serves GET /v1/admin/clients, by id.
func (a *API) listClients(w http.ResponseWriter, r *http.Request) error {
	after, most := "", defaultPage
	if err := parameters(r, map[string]func(string) error{
		"cursor": func(s string) (err error) {
			after, err = clientCursor(s)
			return err
		},
		"limit": limit(&most),
	}); err != nil {
		return err
	}
	ctx, cancel := bounded(r)
	defer cancel()
	list, err := a.store.ListClients(ctx, after, most+1)
	if err != nil {
		return readFault(err)
	}
	page := struct {
		Clients []client `json:"clients"`
		Next    string   `json:"next_cursor,omitempty"`
	}{Clients: make([]client, 0, len(list))}
	for i := range list {
		if i == most {
			page.Next = base64.RawURLEncoding.EncodeToString([]byte(clientCursorKind + list[i-1].ID))
			break
		}
		page.Clients = append(page.Clients, shown(&list[i]))
	}
	return answer(w, http.StatusOK, page)
}

// clientCursorKind begins a cursor of clients, so that others are told from it.
const clientCursorKind = "c1:"

func clientCursor(s string) (after string, err error) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(s)
	after, ok := strings.CutPrefix(string(raw), clientCursorKind)
	if err != nil || !ok || !esh3ar.IsClientID(after) {
		return "", badCursor()
	}
	return after, nil
}

func badCursor() error {
	return esh3ar.Errorf(esh3ar.KindInvalid, "bad_cursor", "the cursor is not one that this listing gave out")
}

// createClient serves POST /v1/admin/clients.
func (a *API) createClient(w http.ResponseWriter, r *http.Request) error {
	c := esh3ar.Client{Tier: esh3ar.TierSilver, Scopes: esh3ar.DefaultScopes, CreatedAt: a.now().UTC().Truncate(time.Microsecond)}
	f := settings(&c)
	f["id"] = to(&c.ID, "a string")
	err := f.read(r)
	if c.Name == "" {
		c.Name = c.ID
	}
	if err = allFaults(err, c.Check()); err != nil {
		return err
	}
	e, err := a.entry(r, "client.create", c.ID, c.ID, shown(&c))
	if err != nil {
		return err
	}
	ctx, cancel := bounded(r)
	defer cancel()
	status := http.StatusCreated
	switch c.Revision, err = a.store.PutClient(ctx, c, e); {
	case errors.Is(err, store.ErrConflict):
		// A repetition of the request that made the client gets its answer.
		there, err := a.store.Client(ctx, c.ID)
		if err == nil && there.Revision == 1 && same(there, c) {
			c, status = there, http.StatusOK
			break
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return readFault(err)
		}
		return esh3ar.Errorf(esh3ar.KindConflict, "client_exists", "there is, or was, another client with the id %s; ids are not used again", c.ID).At("/id")
	case err != nil:
		return writeFault(err)
	}
	w.Header().Set("Location", clientPath(c.ID))
	return answerClient(w, status, &c)
}

// same reports whether two clients differ in nothing that can be chosen.
func same(a, b esh3ar.Client) bool {
	a.CreatedAt, a.Revision = b.CreatedAt, b.Revision
	return a == b
}

// allFaults joins what was found wrong while reading and while checking. A field that could not be read is
// not told again.
func allFaults(reading, checking error) error {
	var first, second esh3ar.Faults
	if reading != nil && !errors.As(reading, &first) {
		return reading
	}
	_ = errors.As(checking, &second)
next:
	for _, e := range second {
		for _, told := range first {
			if told.Pointer == e.Pointer {
				continue next
			}
		}
		first = append(first, e)
	}
	return first.Err()
}

// showClient serves GET /v1/admin/clients/{client}.
func (a *API) showClient(w http.ResponseWriter, r *http.Request) error {
	if err := parameters(r, nil); err != nil {
		return err
	}
	c, err := a.find(r)
	if err != nil {
		return err
	}
	return answerClient(w, http.StatusOK, &c)
}

// changeTries is how often a change is made anew because the client changed under it.
const changeTries = 5

// changeClient serves PATCH /v1/admin/clients/{client}: a JSON merge patch (RFC 7396). With If-Match it is
// applied to that revision alone, without it to the newest, and the last change of a field wins.
func (a *API) changeClient(w http.ResponseWriter, r *http.Request) error {
	var patch map[string]json.RawMessage
	if err := a.readPatch(r, &patch); err != nil {
		return err
	}
	for range changeTries {
		before, err := a.find(r)
		if err != nil {
			return err
		}
		if match := r.Header.Get("If-Match"); match != "" && match != "*" && match != etag(&before) {
			return esh3ar.Errorf(esh3ar.KindStale, "client_changed", "the client was changed since; look at it again and repeat the change with its new ETag")
		}
		after := before
		if err := apply(patch, &after); err != nil {
			return err
		}
		if after == before {
			return answerClient(w, http.StatusOK, &after)
		}
		e, err := a.entry(r, "client.update", after.ID, after.ID, difference(shown(&before), shown(&after)))
		if err != nil {
			return err
		}
		ctx, cancel := bounded(r)
		after.Revision, err = a.store.PutClient(ctx, after, e)
		cancel()
		switch {
		case err == nil:
			return answerClient(w, http.StatusOK, &after)
		case errors.Is(err, store.ErrNotFound):
			return noClient()
		case !errors.Is(err, store.ErrConflict):
			return writeFault(err)
		}
	}
	return esh3ar.Errorf(esh3ar.KindUnavailable, "busy", "others change the client at the same time; try again").After(time.Second)
}

// readPatch reads the fields that a change names, unread, and checks that they are ones of a client.
func (a *API) readPatch(r *http.Request, patch *map[string]json.RawMessage) error {
	*patch = make(map[string]json.RawMessage)
	keep := make(fields)
	for name := range settings(new(esh3ar.Client)) {
		keep[name] = func(raw json.RawMessage) error {
			(*patch)[name] = raw
			return nil
		}
	}
	return keep.read(r)
}

// apply changes what the patch names. A null gives a field the value that it has without a word.
func apply(patch map[string]json.RawMessage, c *esh3ar.Client) error {
	var f esh3ar.Faults
	read := settings(c)
	for _, name := range slices.Sorted(maps.Keys(patch)) {
		raw := patch[name]
		if string(raw) == "null" {
			switch name {
			case "name":
				c.Name = c.ID
			case "tier":
				c.Tier = esh3ar.TierSilver
			case "scopes":
				c.Scopes = esh3ar.DefaultScopes
			default:
				f.Join("/"+name, read[name](raw))
			}
			continue
		}
		f.Join("/"+name, read[name](raw))
	}
	return allFaults(f.Err(), c.Check())
}

// difference returns the fields in which two forms of a thing differ, with their old and new values.
func difference(before, after any) map[string][2]json.RawMessage {
	of := func(v any) map[string]json.RawMessage {
		var m map[string]json.RawMessage
		raw, err := json.Marshal(v)
		if err == nil {
			err = json.Unmarshal(raw, &m)
		}
		if err != nil {
			panic(err) // our own types
		}
		return m
	}
	old, changed := of(before), make(map[string][2]json.RawMessage)
	for name, v := range of(after) {
		if string(old[name]) != string(v) {
			changed[name] = [2]json.RawMessage{old[name], v}
		}
	}
	return changed
}

// deleteClient serves DELETE /v1/admin/clients/{client}.
func (a *API) deleteClient(w http.ResponseWriter, r *http.Request) error {
	if err := errors.Join(parameters(r, nil), noBody(r)); err != nil {
		return err
	}
	id := r.PathValue("client")
	e, err := a.entry(r, "client.delete", id, id, nil)
	if err != nil {
		return err
	}
	ctx, cancel := bounded(r)
	defer cancel()
	switch err := a.store.DeleteClient(ctx, id, e); {
	case errors.Is(err, store.ErrNotFound):
		return noClient()
	case errors.Is(err, store.ErrConflict):
		return esh3ar.Errorf(esh3ar.KindConflict, "client_has_keys", "the client has API keys that work; revoke them first")
	case err != nil:
		return writeFault(err)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
