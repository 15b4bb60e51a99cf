package admin

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
)

// key is an API key as the API shows it.
type key struct {
	ID         string   `json:"id"`
	Client     string   `json:"client"`
	Name       string   `json:"name"`
	Hint       string   `json:"hint"`
	Status     string   `json:"status"`           // active, expired or revoked
	Scopes     []string `json:"scopes,omitempty"` // none: all of the client's
	CreatedAt  stamp    `json:"created_at"`
	ExpiresAt  stamp    `json:"expires_at,omitzero"`
	LastUsedAt stamp    `json:"last_used_at,omitzero"`
	RevokedAt  stamp    `json:"revoked_at,omitzero"`
	// Secret is the whole key. It is shown by the request that made the key, and never again.
	Secret string `json:"secret,omitempty"`
	// Replaces is the key that this one was made for, by a rotation.
	Replaces *key `json:"replaces,omitempty"`
}

func (a *API) shownKey(k *esh3ar.APIKey) key {
	s := key{
		ID: k.ID, Client: k.Client, Name: k.Name, Hint: k.Hint, Status: "active", CreatedAt: stamp{k.CreatedAt},
		ExpiresAt: stamp{k.ExpiresAt}, LastUsedAt: stamp{k.LastUsedAt}, RevokedAt: stamp{k.RevokedAt},
	}
	if k.Scopes != 0 {
		s.Scopes = k.Scopes.Names()
	}
	switch {
	case !k.RevokedAt.IsZero():
		s.Status = "revoked"
	case !k.Works(a.now()):
		s.Status = "expired"
	}
	return s
}

// keysOf returns the client of a request's path and its keys, newest first.
func (a *API) keysOf(r *http.Request) (esh3ar.Client, []esh3ar.APIKey, error) {
	c, err := a.find(r)
	if err != nil {
		return c, nil, err
	}
	ctx, cancel := bounded(r)
	defer cancel()
	list, err := a.store.Keys(ctx, c.ID, store.MaxLimit)
	if err != nil {
		return c, nil, readFault(err)
	}
	return c, list, nil
}

// listKeys serves GET /v1/admin/clients/{client}/keys: the newest ones, ended ones among them.
func (a *API) listKeys(w http.ResponseWriter, r *http.Request) error {
	if err := parameters(r, nil); err != nil {
		return err
	}
	_, list, err := a.keysOf(r)
	if err != nil {
		return err
	}
	page := struct {
		Keys []key `json:"keys"`
	}{make([]key, len(list))}
	for i := range list {
		page.Keys[i] = a.shownKey(&list[i])
	}
	return answer(w, http.StatusOK, page)
}

// fresh returns a new key of that client with its secret.
func (a *API) fresh(client string) (esh3ar.APIKey, string) {
	secret := esh3ar.NewKey()
	return esh3ar.APIKey{
		ID: esh3ar.KeyID(secret), Hash: esh3ar.HashKey(secret), Client: client, Hint: esh3ar.KeyHint(secret),
		CreatedAt: a.now().UTC().Truncate(time.Microsecond),
	}, secret
}

// expiry returns what reads a key's end: a time, or the seconds until then; null is never.
func expiry(k *esh3ar.APIKey) fields {
	given := false
	once := func(read func(json.RawMessage) error) func(json.RawMessage) error {
		return func(raw json.RawMessage) error {
			if given {
				return esh3ar.Errorf(esh3ar.KindInvalid, "given_twice", "give either expires_at or expires_in")
			}
			given = true
			return read(raw)
		}
	}
	return fields{
		"expires_at": once(moment(&k.ExpiresAt)),
		"expires_in": once(parsed(&k.ExpiresAt, "a whole number of seconds", func(seconds *int64) (time.Time, error) {
			const most = 100 * 366 * 24 * 60 * 60
			switch {
			case seconds == nil:
				return time.Time{}, nil
			case *seconds < 1 || *seconds > most:
				return time.Time{}, esh3ar.Errorf(esh3ar.KindInvalid, "out_of_range", "must lie between 1 and %d seconds", most)
			}
			return k.CreatedAt.Add(time.Duration(*seconds) * time.Second), nil
		})),
	}
}

// createKey serves POST /v1/admin/clients/{client}/keys. It is the one request that is not safe to repeat:
// each makes a key, because no answer can show a secret again.
func (a *API) createKey(w http.ResponseWriter, r *http.Request) error {
	c, list, err := a.keysOf(r)
	if err != nil {
		return err
	}
	k, secret := a.fresh(c.ID)
	f := expiry(&k)
	f["name"] = to(&k.Name, "a string")
	f["scopes"] = scopes(&k.Scopes)
	if err := allFaults(f.read(r), k.Check(k.CreatedAt)); err != nil {
		return err
	}
	if more := k.Scopes &^ c.Scopes; more != 0 {
		return esh3ar.Errorf(esh3ar.KindInvalid, "scope_not_the_clients", "the client does not have the scope %s", more).At("/scopes")
	}
	if err := a.mayHaveAnother(list); err != nil {
		return err
	}
	return a.putNew(w, r, k, secret, nil, "key.create", nil)
}

// mayHaveAnother refuses more keys than a client may have.
func (a *API) mayHaveAnother(list []esh3ar.APIKey) error {
	now, working := a.now(), 0
	for i := range list {
		if list[i].Works(now) {
			working++
		}
	}
	if working >= esh3ar.MaxKeys {
		return esh3ar.Errorf(esh3ar.KindConflict, "too_many_keys", "the client has %d API keys that work, which is the limit; revoke one first", working)
	}
	return nil
}

// putNew stores a new key, together with the one that it replaces, if any, and shows it.
func (a *API) putNew(w http.ResponseWriter, r *http.Request, k esh3ar.APIKey, secret string, old *esh3ar.APIKey, action string, detail map[string]any) error {
	shown := a.shownKey(&k)
	if detail == nil {
		detail = make(map[string]any)
	}
	detail["name"], detail["scopes"], detail["expires_at"] = shown.Name, shown.Scopes, shown.ExpiresAt
	e, err := a.entry(r, action, k.Client, k.ID, detail)
	if err != nil {
		return err
	}
	keys := []esh3ar.APIKey{k}
	if old != nil {
		keys = append(keys, *old)
	}
	if err := a.put(r, keys, e); err != nil {
		return err
	}
	shown.Secret = secret
	if old != nil {
		replaced := a.shownKey(old)
		shown.Replaces = &replaced
	}
	w.Header().Set("Location", clientPath(k.Client)+"/keys/"+url.PathEscape(k.ID))
	return answer(w, http.StatusCreated, shown)
}

// put stores keys of one client.
func (a *API) put(r *http.Request, keys []esh3ar.APIKey, e store.AuditEntry) error {
	ctx, cancel := bounded(r)
	defer cancel()
	err := a.store.PutKeys(ctx, keys, e)
	for i := range keys {
		a.forget(keys[i].Hash)
	}
	switch {
	case errors.Is(err, store.ErrNotFound):
		return noClient()
	case errors.Is(err, store.ErrConflict):
		return esh3ar.Errorf(esh3ar.KindUnavailable, "busy", "the new API key's id is taken already; try again").After(time.Second)
	case err != nil:
		return writeFault(err)
	}
	return nil
}

// findKey returns the key of a request's path, its client and all keys of that.
func (a *API) findKey(r *http.Request) (esh3ar.APIKey, esh3ar.Client, []esh3ar.APIKey, error) {
	c, list, err := a.keysOf(r)
	if err != nil {
		return esh3ar.APIKey{}, c, nil, err
	}
	for _, k := range list {
		if k.ID == r.PathValue("key") {
			return k, c, list, nil
		}
	}
	return esh3ar.APIKey{}, c, nil, esh3ar.Errorf(esh3ar.KindNotFound, "key_not_found", "the client has no API key with that id")
}

// Overlap of a rotation.
const (
	defaultOverlap = 24 * time.Hour
	maxOverlap     = 90 * 24 * time.Hour
)

// rotateKey serves POST /v1/admin/clients/{client}/keys/{key}/rotate: a new key like the old one, which goes
// on to work for the overlap. If the old one was made to expire, the new one lives as long.
func (a *API) rotateKey(w http.ResponseWriter, r *http.Request) error {
	old, c, list, err := a.findKey(r)
	if err != nil {
		return err
	}
	k, secret := a.fresh(c.ID)
	k.Name, k.Scopes = old.Name, old.Scopes
	if !old.ExpiresAt.IsZero() {
		k.ExpiresAt = k.CreatedAt.Add(old.ExpiresAt.Sub(old.CreatedAt))
	}
	overlap := defaultOverlap
	f := expiry(&k)
	f["overlap"] = parsed(&overlap, "a whole number of seconds", func(seconds *int64) (time.Duration, error) {
		switch {
		case seconds == nil:
			return defaultOverlap, nil
		case *seconds < 0 || *seconds > int64(maxOverlap/time.Second):
			return 0, esh3ar.Errorf(esh3ar.KindInvalid, "out_of_range", "must lie between 0 and %d seconds", int64(maxOverlap/time.Second))
		}
		return time.Duration(*seconds) * time.Second, nil
	})
	if err := allFaults(f.read(r), k.Check(k.CreatedAt)); err != nil {
		return err
	}
	if !old.Works(k.CreatedAt) {
		return esh3ar.Errorf(esh3ar.KindConflict, "key_ended", "the API key does not work any more; create a new one")
	}
	if err := a.mayHaveAnother(list); err != nil {
		return err
	}
	if end := k.CreatedAt.Add(overlap); old.ExpiresAt.IsZero() || end.Before(old.ExpiresAt) {
		old.ExpiresAt = end
	}
	return a.putNew(w, r, k, secret, &old, "key.rotate", map[string]any{"replaces": old.ID, "replaced_expires_at": old.ExpiresAt})
}

// revokeKey serves DELETE /v1/admin/clients/{client}/keys/{key}. Revoking a revoked key changes nothing.
func (a *API) revokeKey(w http.ResponseWriter, r *http.Request) error {
	if err := errors.Join(parameters(r, nil), noBody(r)); err != nil {
		return err
	}
	k, _, _, err := a.findKey(r)
	if err != nil {
		return err
	}
	if k.RevokedAt.IsZero() {
		e, err := a.entry(r, "key.revoke", k.Client, k.ID, map[string]any{"name": k.Name})
		if err != nil {
			return err
		}
		k.RevokedAt = e.At.Truncate(time.Microsecond)
		if err := a.put(r, []esh3ar.APIKey{k}, e); err != nil {
			return err
		}
	}
	return answer(w, http.StatusOK, a.shownKey(&k))
}
