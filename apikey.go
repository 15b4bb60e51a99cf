package esh3ar

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"strings"
	"time"
)

// APIKey is one key of a client, without the secret itself.
type APIKey struct {
	// ID names the key where people and logs speak of it. It is part of the key and no secret.
	ID string
	// Hash is SHA-256 of the whole key. Keys carry 192 random bits, so a plain hash is enough.
	Hash   [sha256.Size]byte
	Client string
	// Name is what the key's owner calls it, "" if it has no name.
	Name string
	// Hint is the recognisable beginning of the key, safe to show.
	Hint string
	// Scopes are what the key may be used for, of what its client may; 0 is all of that.
	Scopes    Scopes
	CreatedAt time.Time
	// ExpiresAt is when the key stops to work by itself, zero for never.
	ExpiresAt time.Time
	// LastUsedAt is when the key was last used, to within some minutes, zero if never.
	LastUsedAt time.Time
	// RevokedAt is when somebody ended the key, zero if nobody did.
	RevokedAt time.Time
}

// Works reports whether the key works at that time, as far as the key itself is concerned.
func (k *APIKey) Works(now time.Time) bool {
	return k.RevokedAt.IsZero() && (k.ExpiresAt.IsZero() || now.Before(k.ExpiresAt))
}

// Check reports what is wrong with a key that is to be stored at that time: nil, or Faults of KindInvalid
// with the pointers of the admin API.
func (k *APIKey) Check(now time.Time) error {
	var f Faults
	if k.Name != "" {
		f.checkName("/name", k.Name, MaxKeyName)
	}
	if !AllScopes.Has(k.Scopes) {
		f.Add("/scopes", "unknown_scope", "the scopes are %s", AllScopes)
	}
	if !k.ExpiresAt.IsZero() && !k.ExpiresAt.After(now) {
		f.Add("/expires_at", "already_expired", "expires_at must lie in the future")
	} else if k.ExpiresAt.Year() > 9999 {
		f.Add("/expires_at", "out_of_range", "expires_at must lie before the year 10000")
	}
	return f.Err()
}

// KeyPrefix begins every generated API key, so that scanners and people recognise one.
const KeyPrefix = "esh_"

const (
	// keyIDLetters are those of a key's id: no letter that looks like a digit. There are 32.
	keyIDLetters = "abcdefghijkmnpqrstuvwxyz23456789"
	// keyIDLength is the number of letters of a generated key's id: 50 random bits.
	keyIDLength = 10
)

// NewKey returns a fresh API key of the form esh_<id>_<secret>. It is shown once and never stored.
func NewKey() (secret string) {
	var b [keyIDLength + 24]byte
	rand.Read(b[:]) // never fails since Go 1.24
	id := b[:keyIDLength]
	for i := range id {
		id[i] = keyIDLetters[id[i]%32]
	}
	return KeyPrefix + string(id) + "_" + base64.RawURLEncoding.EncodeToString(b[keyIDLength:])
}

// HashKey returns what is stored of an API key.
func HashKey(secret string) [sha256.Size]byte { return sha256.Sum256([]byte(secret)) }

// KeyID returns the id of an API key: the one that it carries, or for a key of another form, such as a
// configured one, one that is derived from its hash.
func KeyID(secret string) string {
	if rest, ok := strings.CutPrefix(secret, KeyPrefix); ok && len(rest) > keyIDLength && rest[keyIDLength] == '_' {
		if id := rest[:keyIDLength]; strings.Trim(id, keyIDLetters) == "" {
			return id
		}
	}
	hash := HashKey(secret)
	return hex.EncodeToString(hash[:keyIDLength/2])
}

// KeyHint returns the part of an API key that is safe to show.
func KeyHint(secret string) string {
	n := len(KeyPrefix) + 4
	if id := KeyID(secret); strings.HasPrefix(secret, KeyPrefix+id+"_") {
		n = len(KeyPrefix) + len(id) + 1
	}
	if len(secret) <= 2*n {
		return "…"
	}
	return secret[:n] + "…"
}
