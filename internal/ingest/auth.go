package ingest

import (
	"context"
	"crypto/sha256"
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
	keyLookupTime   = 250 * time.Millisecond // of one look-up
	unknownPerSec   = 200                    // look-ups that find no key; beyond, new keys get 503
	unknownBurst    = 1000
	maxSecretLength = 256
)

// keyring finds the client behind an API key. It remembers keys by their hash alone, so that the time
// a comparison takes tells nothing about a secret.
//
// A key that was ever found keeps working while the source fails. It is looked up again after half
// of maxAge, by one request while others go on with what is known, and no request relies on an answer
// older than maxAge unless the source failed since.
type keyring struct {
	source Keys
	maxAge time.Duration
	start  time.Time // ages are monotonic, against this

	mu      sync.RWMutex
	known   map[[32]byte]*knownKey
	unknown map[[32]byte]time.Duration // when it was looked up, since start

	lookups chan struct{} // a slot for each look-up of a new key
	misses  *rate.Limiter
}

// knownKey is a key that the source has, revoked or not.
type knownKey struct {
	client  atomic.Pointer[esh3ar.Client] // nil if the key was revoked
	checked atomic.Int64                  // when it was looked up, since start
	renew   sync.Mutex                    // held by who looks it up again
}

func newKeyring(source Keys, maxAge time.Duration) *keyring {
	return &keyring{
		source:  source,
		maxAge:  maxAge,
		start:   time.Now(),
		known:   make(map[[32]byte]*knownKey),
		unknown: make(map[[32]byte]time.Duration),
		lookups: make(chan struct{}, keyLookups),
		misses:  rate.NewLimiter(unknownPerSec, unknownBurst),
	}
}

// caller returns the client that sent the request. Its errors are of KindUnauthorized, or of
// KindUnavailable when a new key could not be looked up.
func (k *keyring) caller(r *http.Request) (*esh3ar.Client, error) {
	hash, err := apiKeyHash(r.Header)
	if err != nil {
		return nil, err
	}
	return k.client(r.Context(), hash)
}

// Caller is who sent a request: the holder of an API key.
type Caller struct {
	Client *esh3ar.Client
	keys   *keyring
	hash   [sha256.Size]byte
}

// Check reports whether the API key still works, for what goes on for long. Its errors are those of a
// request with that key; only KindUnauthorized says that it does not.
func (c Caller) Check(ctx context.Context) error {
	_, err := c.keys.client(ctx, c.hash)
	return err
}

// Caller finds the holder of an API key, for what is not a request of the API. Its errors are of
// KindUnauthorized, or of KindUnavailable when a new key cannot be looked up.
func (a *API) Caller(ctx context.Context, key string) (Caller, error) {
	switch {
	case key == "":
		return Caller{}, esh3ar.Errorf(esh3ar.KindUnauthorized, "api_key_missing", "give the API key as the access token")
	case len(key) > maxSecretLength:
		return Caller{}, unknownKey()
	}
	return a.keys.holder(ctx, esh3ar.HashKey(key))
}

// holder returns the holder of the key with that hash.
func (k *keyring) holder(ctx context.Context, hash [sha256.Size]byte) (Caller, error) {
	client, err := k.client(ctx, hash)
	return Caller{Client: client, keys: k, hash: hash}, err
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

// client returns the client of the key with that hash.
func (k *keyring) client(ctx context.Context, hash [32]byte) (*esh3ar.Client, error) {
	now := time.Since(k.start)
	e, missing := k.recall(hash)
	if missing {
		return nil, unknownKey()
	}
	if e == nil {
		var err error
		if e, err = k.find(ctx, hash); err != nil {
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
	c := e.client.Load()
	if c == nil {
		return nil, esh3ar.Errorf(esh3ar.KindUnauthorized, "api_key_revoked", "the API key was revoked or removed; use another one")
	}
	return c, nil
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

// check looks a known key up again. If the source fails, what is known holds until the next check.
func (k *keyring) check(ctx context.Context, hash [32]byte, e *knownKey) {
	// The answer serves other requests too, so it does not hang on this one's connection.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keyLookupTime)
	defer cancel()
	asked := time.Since(k.start)
	key, client, err := k.source.ClientByKey(ctx, hash)
	switch {
	case err == nil:
		e.set(key, client)
	case errors.Is(err, store.ErrNotFound):
		e.client.Store(nil)
	}
	e.checked.Store(int64(asked))
}

func (e *knownKey) set(key esh3ar.APIKey, client esh3ar.Client) {
	if !key.RevokedAt.IsZero() {
		e.client.Store(nil)
	} else if old := e.client.Load(); old == nil || *old != client {
		e.client.Store(&client)
	}
}

// find looks up a key that is not known here.
func (k *keyring) find(ctx context.Context, hash [32]byte) (*knownKey, error) {
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
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keyLookupTime)
	defer cancel()
	asked := time.Since(k.start)
	key, client, err := k.source.ClientByKey(ctx, hash)
	switch {
	case err == nil:
		e = new(knownKey)
		e.set(key, client)
		e.checked.Store(int64(asked))
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.unknown, hash)
		putBounded(k.known, hash, e, maxKnownKeys)
		return e, nil
	case errors.Is(err, store.ErrNotFound):
		k.misses.Allow()
		k.mu.Lock()
		defer k.mu.Unlock()
		putBounded(k.unknown, hash, asked, maxUnknownKeys)
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
func putBounded[V any](m map[[32]byte]V, key [32]byte, v V, bound int) {
	if _, ok := m[key]; !ok && len(m) >= bound {
		for other := range m {
			delete(m, other)
			break
		}
	}
	m[key] = v
}
