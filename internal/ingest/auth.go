package ingest

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/esh3artech/esh3ar"
	"github.com/esh3artech/esh3ar/internal/store"
)

// Bounds of a keyring.
const (
	maxKnownKeys    = 1 << 16                // beyond, some key is forgotten and looked up again
	maxUnknownKeys  = 1 << 13                // likewise
	keyLookups      = 8                      // look-ups of new keys at one time; others wait
	keyLookupWait   = 2 * time.Second        // for their turn, then 503
	keyLookupTime   = 250 * time.Millisecond // of a key that is known, which works on if there is no answer
	newKeyTime      = time.Second            // of one that is not
	unknownPerSec   = 200                    // look-ups that find no key; beyond, new keys get 503
	unknownBurst    = 1000
	maxSecretLength = 256
)

// keyring finds the client behind an API key. It remembers keys by their hash alone, so that the time
// a comparison takes tells nothing about a secret.
//
// A key that was ever found keeps working while the source fails. It is looked up again after half
// of maxAge, by one request while others go on with what is known, and no request relies on an answer
// older than maxAge unless the source failed since. Who tries keys that are not there is slowed, by
// address (guesses); a key that is known here is not.
type keyring struct {
	source Keys
	maxAge time.Duration
	now    func() time.Time // against which keys expire
	start  time.Time        // ages are monotonic, against this

	mu      sync.RWMutex
	known   map[[32]byte]*knownKey
	unknown map[[32]byte]time.Duration // when it was looked up, since start

	lookups chan struct{} // a slot for each look-up of a new key
	misses  *rate.Limiter
	guesses *guesses
}

// knownKey is a key that the source has, whether or not it works.
type knownKey struct {
	grant   atomic.Pointer[grant] // nil if the key or its client is gone
	checked atomic.Int64          // when it was looked up, since start
	used    atomic.Int64          // when it was used, to within useAccuracy, since start; 0 if never
	noted   atomic.Int64          // the value of used that the source was told of
	renew   sync.Mutex            // held by who looks it up again
}

// grant is what an API key allows, as last looked up: what its client may, narrowed by the key. It never
// changes.
type grant struct {
	esh3ar.Client
	key        esh3ar.APIKey
	recipients esh3ar.Recipients
}

// allows returns why the key may not be used for that now, nil if it may. Its errors are of
// KindUnauthorized and KindForbidden.
func (g *grant) allows(want esh3ar.Scopes, now func() time.Time) error {
	switch {
	case !g.key.RevokedAt.IsZero():
		return endedKey()
	case !g.key.ExpiresAt.IsZero() && !now().Before(g.key.ExpiresAt):
		return esh3ar.Errorf(esh3ar.KindUnauthorized, "api_key_expired", "the API key expired at %s; use another one",
			g.key.ExpiresAt.Format(time.RFC3339))
	case g.Suspended:
		return esh3ar.Errorf(esh3ar.KindForbidden, "client_suspended", "the client is suspended; ask the operator of this service")
	case !g.Scopes.Has(want):
		return esh3ar.Errorf(esh3ar.KindForbidden, "scope_missing", "this needs the scope %s, which the client does not have", want&^g.Scopes)
	case g.key.Scopes != 0 && !g.key.Scopes.Has(want):
		return esh3ar.Errorf(esh3ar.KindForbidden, "scope_missing", "this needs the scope %s, which the API key does not have; use another key",
			want&^g.key.Scopes)
	}
	return nil
}

// mayReach returns why the client may not send to a recipient, nil if it may. Its error is of
// KindForbidden.
func (g *grant) mayReach(recipient string) error {
	if g.recipients.Match(recipient) {
		return nil
	}
	return faults{esh3ar.Errorf(esh3ar.KindForbidden, "recipient_not_allowed",
		"the client may not send to this recipient; its recipients are %s", g.Client.Recipients).At("/to")}
}

func newKeyring(source Keys, maxAge time.Duration, now func() time.Time) *keyring {
	return &keyring{
		source:  source,
		maxAge:  maxAge,
		now:     now,
		start:   time.Now(),
		known:   make(map[[32]byte]*knownKey),
		unknown: make(map[[32]byte]time.Duration),
		lookups: make(chan struct{}, keyLookups),
		misses:  rate.NewLimiter(unknownPerSec, unknownBurst),
		guesses: newGuesses(),
	}
}

// caller returns what the key of a request allows, if that includes what is wanted. Its errors are of
// KindUnauthorized, of KindForbidden, and of KindUnavailable or KindRateLimited when a new key could not be
// looked up.
func (k *keyring) caller(r *http.Request, want esh3ar.Scopes) (*grant, error) {
	hash, err := apiKeyHash(r.Header)
	if err != nil {
		return nil, err
	}
	return k.grant(r.Context(), hash, r.RemoteAddr, want)
}

// Caller is who sent a request: the holder of an API key.
type Caller struct {
	Client *esh3ar.Client
	// KeyID is the key's id.
	KeyID string
	keys  *keyring
	hash  [sha256.Size]byte
	want  esh3ar.Scopes
}

// Actor names the caller in the audit log.
func (c Caller) Actor() string { return c.Client.ID + "/" + c.KeyID }

// Check reports whether the API key still works for what it is being used for, for what goes on for long.
// Its errors are those of a request with that key; only KindUnauthorized and KindForbidden say that it does
// not.
func (c Caller) Check(ctx context.Context) error {
	_, err := c.keys.grant(ctx, c.hash, "", c.want)
	return err
}

// Caller finds the holder of an API key that may be used for what is wanted, for what is not a request of
// the API. Remote is the network address that asks. Its errors are of KindUnauthorized, of KindForbidden,
// and of KindUnavailable or KindRateLimited when a new key cannot be looked up.
func (a *API) Caller(ctx context.Context, remote, key string, want esh3ar.Scopes) (Caller, error) {
	switch {
	case key == "":
		return Caller{}, esh3ar.Errorf(esh3ar.KindUnauthorized, "api_key_missing", "give the API key as the access token")
	case len(key) > maxSecretLength:
		return Caller{}, unknownKey()
	}
	return a.keys.holder(ctx, esh3ar.HashKey(key), remote, want)
}

// holder returns the holder of the key with that hash.
func (k *keyring) holder(ctx context.Context, hash [sha256.Size]byte, remote string, want esh3ar.Scopes) (Caller, error) {
	g, err := k.grant(ctx, hash, remote, want)
	if err != nil {
		return Caller{}, err
	}
	return Caller{Client: &g.Client, KeyID: g.key.ID, keys: k, hash: hash, want: want}, nil
}

// apiKeyHash returns the hash of the API key that a request's header gives.
func apiKeyHash(h http.Header) (hash [sha256.Size]byte, err error) {
	const scheme = "Bearer "
	fields := h["Authorization"]
	switch {
	case len(fields) == 0:
		return hash, esh3ar.Errorf(esh3ar.KindUnauthorized, "api_key_missing", "send the API key as Authorization: Bearer <key>")
	case len(fields) > 1 || len(fields[0]) <= len(scheme) || !strings.EqualFold(fields[0][:len(scheme)], scheme):
		return hash, esh3ar.Errorf(esh3ar.KindUnauthorized, "bad_authorization", "the Authorization header must be: Bearer <key>")
	case len(fields[0]) > maxSecretLength+len(scheme):
		return hash, unknownKey()
	}
	return esh3ar.HashKey(strings.TrimSpace(fields[0][len(scheme):])), nil
}

func unknownKey() error {
	return esh3ar.Errorf(esh3ar.KindUnauthorized, "api_key_unknown", "there is no such API key; check that it is complete")
}

func endedKey() error {
	return esh3ar.Errorf(esh3ar.KindUnauthorized, "api_key_revoked", "the API key was revoked or removed; use another one")
}

// grant returns what the key with that hash allows, if that includes what is wanted. Remote is the network
// address that the key came from.
func (k *keyring) grant(ctx context.Context, hash [32]byte, remote string, want esh3ar.Scopes) (*grant, error) {
	now := time.Since(k.start)
	e, missing := k.recall(hash)
	if e == nil {
		var err error
		if e, err = k.find(ctx, hash, remote, missing); err != nil {
			return nil, err
		}
	} else if age := now - time.Duration(e.checked.Load()); age >= k.maxAge {
		e.renew.Lock()
		if time.Since(k.start)-time.Duration(e.checked.Load()) >= k.maxAge/2 {
			k.check(ctx, hash, e)
		}
		e.renew.Unlock()
	} else if age >= k.maxAge/2 && e.renew.TryLock() {
		k.check(ctx, hash, e)
		e.renew.Unlock()
	}
	g := e.grant.Load()
	if g == nil {
		return nil, endedKey()
	}
	if err := g.allows(want, k.now); err != nil {
		return nil, err
	}
	e.use(now)
	return g, nil
}

// recall returns what is known about a key, nil for nothing, and whether it was lately found missing.
func (k *keyring) recall(hash [32]byte) (e *knownKey, missing bool) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if e = k.known[hash]; e != nil {
		return e, false
	}
	asked, ok := k.unknown[hash]
	return nil, ok && time.Since(k.start)-asked < k.maxAge/2
}

// admitOnly lets the holder of that one key in. Its errors are of KindUnauthorized, and of KindRateLimited for
// an address that tries keys.
func (k *keyring) admitOnly(r *http.Request, hash [32]byte, only *[32]byte) error {
	if subtle.ConstantTimeCompare(hash[:], only[:]) == 1 {
		return nil
	}
	from := addressOf(r.RemoteAddr)
	if err := k.guesses.admit(r.Context(), from); err != nil {
		return err
	}
	k.guesses.miss(from)
	return esh3ar.Errorf(esh3ar.KindUnauthorized, "admin_key_wrong", "this route takes the admin key of the deployment alone, and that is another one")
}

// check looks a known key up again. If the source fails, what is known holds until the next check.
func (k *keyring) check(ctx context.Context, hash [32]byte, e *knownKey) {
	// The answer serves other requests too, so it does not hang on this one's connection.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keyLookupTime)
	defer cancel()
	asked := time.Since(k.start)
	key, client, err := k.source.ClientByKey(ctx, hash)
	switch {
	case err == nil:
		_ = e.set(key, client) // like an answer that did not come
	case errors.Is(err, store.ErrNotFound):
		e.grant.Store(nil)
	}
	e.checked.Store(int64(asked))
}

// set notes what was looked up. Its error says that it cannot be understood.
func (e *knownKey) set(key esh3ar.APIKey, client esh3ar.Client) error {
	key.LastUsedAt = time.Time{} // changes and means nothing here
	if old := e.grant.Load(); old != nil && old.key == key && old.Client == client {
		return nil
	}
	recipients, err := esh3ar.ParseRecipients(client.Recipients)
	if err == nil {
		e.grant.Store(&grant{Client: client, key: key, recipients: recipients})
	}
	return err
}

// find looks up a key that is not known here. Missing says that it was not there a moment ago.
func (k *keyring) find(ctx context.Context, hash [32]byte, remote string, missing bool) (*knownKey, error) {
	from := addressOf(remote)
	if err := k.guesses.admit(ctx, from); err != nil {
		return nil, err
	}
	if missing {
		return nil, unknownKey()
	}
	wait := time.NewTimer(keyLookupWait)
	defer wait.Stop()
	select {
	case k.lookups <- struct{}{}:
		defer func() { <-k.lookups }()
	case <-wait.C:
		return nil, k.notNow(nil)
	case <-ctx.Done():
		return nil, k.notNow(ctx.Err())
	}
	// While this request waited for its turn another one may have found the key, or not.
	e, missing := k.recall(hash)
	switch {
	case e != nil:
		return e, nil
	case missing:
		return nil, unknownKey()
	case k.misses.Tokens() < 1:
		return nil, k.notNow(nil)
	}
	if err := k.guesses.stillAdmitted(from); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), newKeyTime)
	defer cancel()
	asked := time.Since(k.start)
	key, client, err := k.source.ClientByKey(ctx, hash)
	if err == nil {
		e = new(knownKey)
		err = e.set(key, client)
	}
	switch {
	case err == nil:
		e.checked.Store(int64(asked))
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.unknown, hash)
		putBounded(k.known, hash, e, maxKnownKeys)
		return e, nil
	case errors.Is(err, store.ErrNotFound):
		k.misses.Allow()
		k.mu.Lock()
		_, again := k.unknown[hash]
		putBounded(k.unknown, hash, asked, maxUnknownKeys)
		k.mu.Unlock()
		// Who sends one wrong key again and again learns nothing by it, and is not guessing.
		if !again {
			k.guesses.miss(from)
		}
		return nil, unknownKey()
	}
	return nil, k.notNow(err)
}

func (k *keyring) notNow(cause error) error {
	return esh3ar.Errorf(esh3ar.KindUnavailable, "api_key_not_checked", "the API key cannot be checked at the moment; try again").
		After(time.Second).Because(cause)
}

// forget drops what is known about a key.
func (k *keyring) forget(hash [32]byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.known, hash)
	delete(k.unknown, hash)
}

// putBounded sets an entry of a map, and drops an arbitrary one for it when the map is full.
func putBounded[K comparable, V any](m map[K]V, key K, v V, bound int) {
	if _, ok := m[key]; !ok && len(m) >= bound {
		for other := range m {
			delete(m, other)
			break
		}
	}
	m[key] = v
}
